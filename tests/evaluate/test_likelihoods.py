"""Likelihoods of given responses: whole texts in windows, and adapters compared by them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import adapters_to_compare as data
import numpy as np
import pytest
import torch
from evaluating import evaluate_scores
from scipy import stats
from scipy.special import log_softmax
from tiny_models import Sum, letters_tokenizer, llama

from gradience.bench.config.sections import TaskSettings
from gradience.cli.app import run
from gradience.errors import InputError
from gradience.evaluate.engines.transformers import TransformersEngine
from gradience.files.records import read_records
from gradience.models.rendering import encode_prompt
from gradience.reports.base.graded import LikelihoodEvidence
from gradience.reports.evaluation import EvaluationReport
from gradience.tasks import scoring_of
from gradience.tasks.base import LikelihoodScoring
from gradience.tasks.harness.make import behind_the_blank

TEXTS = ["1", "12 + 7 = 19", "3 + 4 = 7 and 5 + 5 = 10 and 12 + 12 = 24"]


@pytest.fixture(scope="module", params=[False, True], ids=["no begin token", "begins every text"])
def reader(request):
    return TransformersEngine(llama(), letters_tokenizer(bos=request.param))


@pytest.mark.parametrize("limit", [4, 7, 100])
def test_each_token_of_a_text_is_predicted_once_from_what_its_window_holds(reader, limit):
    examples = [Sum(str(place), "", text, "") for place, text in enumerate(TEXTS)]
    records = evaluate_scores(reader, [None], examples, max_length=limit, rolling=True)[None].records
    begin = reader.tokenizer.bos_token_id or reader.tokenizer.eos_token_id
    for record, text in zip(records, TEXTS, strict=True):
        ids = encode_prompt(reader.tokenizer, text)
        whole, total, start = [begin, *ids], 0.0, 0
        while start < len(ids):  # the last window reaches back, and only its new tokens count
            end = min(start + limit, len(ids))
            window = whole[max(0, end - limit) : end]
            with torch.no_grad():
                logits = reader.base(input_ids=torch.tensor([window])).logits[0].double().numpy()
            new = end - start
            total += log_softmax(logits[-new:], axis=1)[np.arange(new), ids[start:end]].sum()
            start = end
        assert record.n_tokens == len(ids)
        assert record.loglikelihood == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("name", ["plain", "begins"])
def test_likelihoods_are_those_that_lm_eval_has_computed(name):
    kept = json.loads((Path(__file__).parent / "lm_eval_likelihoods.json").read_text())["tokenizers"][name]
    engine = TransformersEngine(llama(), letters_tokenizer(bos=name == "begins"))
    assert engine.max_length == kept["max_length"]
    pairs = [behind_the_blank(prompt, response) for prompt, response, _, _ in kept["pairs"]]
    for score, (_, _, likelihood, greedy) in zip(
        engine.score([None], pairs, end=False)[0], kept["pairs"], strict=True
    ):
        assert score.loglikelihood == pytest.approx(likelihood, abs=1e-3)
        assert score.exact == greedy
    texts = [("", text) for text, _ in kept["texts"]]
    scores = engine.score([None], texts, rolling=True, max_length=engine.max_length)[0]
    for score, (_, likelihood) in zip(scores, kept["texts"], strict=True):
        assert score.loglikelihood == pytest.approx(likelihood, rel=1e-5)


def test_without_a_prompt_a_response_follows_the_begin_token():
    engine = TransformersEngine(llama(), letters_tokenizer())
    lone, spelled = (
        evaluate_scores(engine, [None], [Sum("0", prompt, "12", "")], end=False)[None].records[0]
        for prompt in ("", engine.tokenizer.bos_token or engine.tokenizer.eos_token)
    )
    assert lone.n_tokens == 2
    assert lone.loglikelihood == spelled.loglikelihood


def test_the_interval_is_students_of_the_paired_differences():
    draw = np.random.default_rng(0)
    tokens, before = draw.integers(1, 30, 40), -draw.random(40) * 50
    after = before - draw.normal(0.3, 1.0, 40)
    evidence = LikelihoodEvidence.of(before.tolist(), tokens.tolist(), after.tolist())
    low, high = stats.ttest_rel(before, after).confidence_interval(0.95)
    mean = tokens.mean()
    assert evidence.nll == pytest.approx(-after.sum() / tokens.sum())
    assert evidence.delta == pytest.approx((before - after).mean() / mean)
    assert (evidence.low, evidence.high) == pytest.approx((low / mean, high / mean))
    assert LikelihoodEvidence.of([-1.0], [2], [-2.0]).low is None


# ---------------------------------------------------------------- gradience evaluate


ROWS = [
    {"prompt": f"{first} + {second} =", "answer": str(first + second)}
    for first in range(2, 8)
    for second in range(2, 7)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = data.writers(tmp_path_factory.mktemp("writers"))
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    messages = [
        [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["answer"]}]
        for row in ROWS
    ]
    (root / "chat.jsonl").write_text("".join(json.dumps({"messages": each}) + "\n" for each in messages))
    return root


@pytest.fixture
def command(folder, monkeypatch):
    monkeypatch.chdir(folder)
    likelihoods = ["--data", "rows.jsonl", "--option", "scorer=nll"]
    return ["evaluate", "reference", "other", "-b", "base", *likelihoods, "--device", "cpu"]


def test_rows_show_nats_per_token_and_a_grade_by_a_margin_in_nats(command, tmp_path, capsys):
    out = tmp_path / "out"
    assert run([*command, "--with-base", "--margin", "0.9", "-o", str(out)]) == 8
    printed = capsys.readouterr()
    report = EvaluationReport.read(out / "evaluation.json")
    reference, other, base = report.adapters
    records = {row.name: read_records(out / "records" / f"{row.name}.jsonl") for row in report.adapters}
    assert [row.correct for row in report.adapters] == [None, None, None]
    assert report.conditions.scoring == "jsonl 1, nll"
    scored = records["base"].records
    assert base.change.flipped_examples == sum(record.flips > 0 for record in scored) < base.change.flips
    tokens = sum(record.n_tokens for record in scored)
    assert base.change.kl_per_token == pytest.approx(sum(record.kl for record in scored) / tokens)
    for row in report.adapters:
        rows = records[row.name].records
        assert row.n == len(rows) == len(ROWS)
        assert row.likelihood.tokens == sum(record.n_tokens for record in rows)
        assert row.likelihood.nll == pytest.approx(
            -sum(r.loglikelihood for r in rows) / row.likelihood.tokens
        )
    assert other.likelihood.delta == pytest.approx(other.likelihood.nll - reference.likelihood.nll)
    assert other.bounds.low == pytest.approx(
        -other.likelihood.delta, abs=other.likelihood.high - other.likelihood.low
    )
    assert other.change.kl_per_example == pytest.approx(
        np.mean([record.kl for record in records["other"].records])
    )
    assert reference.grade is base.grade is None
    assert other.grade == "C"  # 30 examples
    assert other.next_grade.examples == 1000
    assert report.looks == ()
    assert "can be ruled out" not in printed.err
    words = " ".join(printed.out.split())
    for part in (
        "Candidates, compared with reference",
        f"{other.likelihood.nll:.4f}",
        "other: C, inconclusive: scores other than 0/1 need 1,000 independent examples, and there are 30",
        "Gain of reference over the base model",
        f"0.9 nats per token, a perplexity {100 * math.expm1(0.9):.1f} % higher",
    ):
        assert part in words
    assert not list((out / "records").glob("*.scores.jsonl"))
    assert run([*command, "--with-base", "--margin", "0.0001", "-o", str(out), "--quiet", "--json"]) in (1, 8)
    again = EvaluationReport.model_validate(json.loads(capsys.readouterr().out))
    assert again.candidates[0].likelihood == other.likelihood


@pytest.mark.parametrize(("profile", "file"), [("jsonl", "rows.jsonl"), ("chat", "chat.jsonl")])
def test_bench_which_counts_correct_answers_refuses_likelihoods(folder, profile, file):
    options = {"file": str(folder / file), "scorer": "nll"}
    assert isinstance(scoring_of(profile, options), LikelihoodScoring)
    with pytest.raises(InputError, match="compares likelihoods") as refused:
        TaskSettings(profile=profile, options=options).load()
    assert refused.value.code == "task-uncounted"
    assert "gradience evaluate" in refused.value.hint
