"""Likelihoods and KL of responses, against a naive loop over prefixes and scipy."""

import itertools
import json
import weakref
from dataclasses import replace
from pathlib import Path

import adapters_to_compare as data
import numpy as np
import pytest
import torch
from data_files import write_jsonl
from evaluating import distributions, evaluate_scores
from raising import raises
from scipy import stats
from scipy.special import log_softmax, rel_entr
from tiny_models import MEMORIES, Sum, letters_tokenizer, llama, remembering, sums
from torch.utils._python_dispatch import TorchDispatchMode

from gradience.bench.config import TaskSettings
from gradience.cli.app import run
from gradience.errors import InputError, UsageError
from gradience.evaluate import kl_divergence
from gradience.evaluate.checks import scoring_bytes
from gradience.evaluate.engines.base import Decoding, Draft, Output, Reading
from gradience.evaluate.engines.transformers import forward
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.files.records import count, read_records
from gradience.models.tokenizers import encode_pair, encode_prompt
from gradience.reports.base.graded import LikelihoodEvidence
from gradience.reports.evaluation import EvaluationReport
from gradience.tasks import scoring_of
from gradience.tasks.base import LikelihoodScoring
from gradience.tasks.harness import behind_the_blank

EXAMPLES = sums(20)


def after_each_prefix(engine, name, example):
    """Log-probabilities after each prefix, (tokens, vocabulary); and the tokens of the response."""
    prompt, response = encode_pair(engine.tokenizer, example.prompt, example.response)
    return distributions(engine, name, prompt, response), response


@pytest.mark.parametrize("name", [None, "plain", "dora", "rslora", "with_head"])
def test_likelihoods_are_those_of_the_naive_loop(engine, name):
    run, records = evaluate_scores(engine, [name], EXAMPLES, batch_size=6)[name]
    assert (run.kind, run.adapter, run.reference) == ("scores", name, None)
    for record, example in zip(records, EXAMPLES, strict=True):
        logs, response = after_each_prefix(engine, name, example)
        assert record.id == example.id
        assert record.n_tokens == len(response) == len(example.response) + 1
        assert record.loglikelihood == pytest.approx(logs[np.arange(len(response)), response].sum(), abs=1e-4)
        assert record.exact == (logs.argmax(axis=1).tolist() == response)
        assert record.kl is record.flips is None


def test_kl_and_flips_are_scipys(engine):
    names = ["dora", "plain", None]
    evaluations = evaluate_scores(engine, names, EXAMPLES, reference="plain", batch_size=6)
    assert list(evaluations) == names
    for name in names:
        for record, example in zip(evaluations[name].records, EXAMPLES, strict=True):
            reference, adapter = (after_each_prefix(engine, each, example)[0] for each in ("plain", name))
            assert record.kl == pytest.approx(rel_entr(np.exp(reference), np.exp(adapter)).sum(), abs=1e-4)
            assert record.flips == (reference.argmax(axis=1) != adapter.argmax(axis=1)).sum()
    assert {(record.kl, record.flips) for record in evaluations["plain"].records} == {(0.0, 0)}


def test_logits_are_made_for_the_tokens_of_responses_alone(engine):
    seen = []
    handle = engine.base.get_output_embeddings().register_forward_hook(
        lambda _module, arguments, _output: seen.append((arguments[0].shape, arguments[0].is_contiguous()))
    )
    evaluate_scores(engine, [None], EXAMPLES, batch_size=20)
    handle.remove()
    assert seen == [((sum(len(example.response) + 1 for example in EXAMPLES), 32), True)]


def test_a_few_rows_at_a_time_give_the_same(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    adapter, reference = (torch.randn(50, 11, generator=draw) for _ in range(2))
    targets = torch.randint(0, 11, (50,), generator=draw)
    whole = forward.measure(adapter, targets, reference)
    monkeypatch.setattr(forward, "CHUNK", 33)
    for once, pieces in zip(whole, forward.measure(adapter, targets, reference), strict=True):
        assert torch.equal(once, pieces)


class Peak(TorchDispatchMode):
    """The most bytes that tensors made here have held at a time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not func.is_view:
            self.now += out.nbytes
            self.most = max(self.most, self.now)
            weakref.finalize(out, self.free, out.nbytes)
        return out

    def free(self, size):
        self.now -= size


@pytest.mark.parametrize("tokens", [3, 6, 30])
def test_what_a_plan_counts_for_scoring_is_what_is_held_while_kl_is_computed(tokens, monkeypatch):
    vocabulary = 4000
    monkeypatch.setattr(forward, "CHUNK", 6 * vocabulary)
    targets = torch.zeros(tokens, dtype=torch.long)
    with Peak() as peak:
        forward.measure(torch.randn(tokens, vocabulary), targets, torch.randn(tokens, vocabulary))
    assert peak.most == pytest.approx(scoring_bytes(tokens * vocabulary, 4), rel=0.02)


def gemma(cap):
    from transformers import Gemma2Config, Gemma2ForCausalLM, set_seed

    set_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "initializer_range": 0.5}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 46}
    return Gemma2ForCausalLM(Gemma2Config(**size, **heads, final_logit_softcapping=cap, pad_token_id=0))


@pytest.mark.parametrize("cap", [None, 2.0])
def test_what_a_model_does_behind_its_head_still_happens(cap):
    engine = TransformersEngine(gemma(cap), letters_tokenizer())
    for record, example in zip(
        evaluate_scores(engine, [None], EXAMPLES)[None].records, EXAMPLES, strict=True
    ):
        logs, response = after_each_prefix(engine, None, example)
        assert record.loglikelihood == pytest.approx(logs[np.arange(len(response)), response].sum(), abs=1e-4)


def test_prompts_lose_their_beginning_responses_nothing(engine):
    records = evaluate_scores(engine, ["plain"], EXAMPLES, max_length=16)["plain"].records
    assert [r.truncated for r in records] == [len(e.prompt) + len(e.response) + 1 > 16 for e in EXAMPLES]
    assert 0 < count(records).truncated < len(EXAMPLES)
    with raises(InputError, "response-too-long"):
        evaluate_scores(engine, ["plain"], EXAMPLES, max_length=4)


def test_a_classifier_scores_nothing():
    from tiny_models import bert, words_tokenizer

    with raises(UsageError, "wrong-model"):
        evaluate_scores(TransformersEngine(bert(), words_tokenizer()), [None], EXAMPLES)


def test_kl_is_never_below_nothing():
    """In float32 the sum of a distribution against nearly itself comes out at -1e-8 as often as at 1e-8."""
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(400, 300, generator=generator)
    nearly = logits + 1e-6 * torch.randn(400, 300, generator=generator)
    targets = torch.zeros(400, dtype=torch.long)
    assert (forward.measure(nearly, targets, logits).kl < 0).any()  # or this test shows nothing
    pairs = [forward.EncodedPair(prompt=[1], response=[0], truncated=False)] * 400
    summed = [score.kl for score in forward.scores_of(pairs, nearly, logits)]
    assert min(summed) == 0 < max(summed)
    assert kl_divergence(logits.numpy(), nearly.numpy()).min() >= 0


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("change", [0.0, 1e-6, 1e-3, 0.3])
def test_kl_from_a_summary_is_as_exact_as_from_logits(temperature, change, monkeypatch):
    draw = torch.Generator().manual_seed(0)
    head = torch.randn(500, 32, generator=draw) / 32**0.5 / temperature
    before = 5 * torch.randn(60, 32, generator=draw)
    after = before + change * torch.randn(60, 32, generator=draw)
    logs = [(states.double() @ head.double().T).log_softmax(dim=-1) for states in (before, after)]
    exact = (logs[0].exp() * (logs[0] - logs[1])).sum(dim=-1)
    reference, candidate = before @ head.T, after @ head.T
    targets = torch.zeros(60, dtype=torch.long)
    monkeypatch.setattr(forward, "CHUNK", 500 * 7)
    dense = forward.measure(candidate, targets, reference)
    short = forward.measure(candidate, targets, forward.summary_of(before, reference, head), after)
    assert torch.equal(short.flips, dense.flips)
    assert torch.equal(short.likelihood, dense.likelihood)
    assert (short.kl - exact).abs().max() < 2 * (dense.kl - exact).abs().max() + 1e-7


# ---------------------------------------------------------------- Likelihoods of given responses


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
        engine.score(None, pairs, Reading(end=False)), kept["pairs"], strict=True
    ):
        assert score.loglikelihood == pytest.approx(likelihood, abs=1e-3)
        assert score.exact == greedy
    texts = [("", text) for text, _ in kept["texts"]]
    scores = engine.score(None, texts, Reading(engine.max_length, rolling=True))
    for score, (_, likelihood) in zip(scores, kept["texts"], strict=True):
        assert score.loglikelihood == pytest.approx(likelihood, rel=1e-5)


def test_without_a_prompt_a_response_follows_the_begin_token():
    engine = TransformersEngine(llama(), letters_tokenizer())
    lone, spelled = (
        evaluate_scores(engine, [None], [Sum("0", prompt, "12", "")])[None].records[0]
        for prompt in ("", engine.tokenizer.bos_token or engine.tokenizer.eos_token)
    )
    assert lone.n_tokens == 3
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
    write_jsonl(root / "rows.jsonl", ROWS)
    talks = (zip(("user", "assistant"), row.values(), strict=True) for row in ROWS)
    messages = ([{"role": role, "content": content} for role, content in talk] for talk in talks)
    write_jsonl(root / "chat.jsonl", ({"messages": each} for each in messages))
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
    assert base.change.flipped_examples == sum(record.flips > 0 for record in scored)
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
        "than the base model: NLL",
        "No text was generated",
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
    with raises(InputError, "task-uncounted", "compares likelihoods") as refused:
        TaskSettings(profile=profile, options=options).load()
    assert "gradience evaluate" in refused.value.hint


# ---------------------------------------------------------------- One pass behind the reference's answers


FOLLOWED = sums(40)
PROMPTS = [row.prompt for row in FOLLOWED]
WRITE = Decoding(12, max_length=60)
NAMES = [None, "plain", "dora", "rslora", "with_head"]


def followed(engine, name, reference="rslora", *, known=True, near_tie=1e-4, **write):
    """Outputs and scores of the rows in batches of 9, behind the reference's outputs."""
    how = WRITE._replace(**write)
    outputs = engine.generate(reference, PROMPTS, how)
    if not known:  # as after a resumption: the records hold texts only
        engine._written.clear()
        outputs = [Output(one.text, one.n_tokens, one.stopped_by, one.truncated) for one in outputs]
    drafts = [Draft(row.prompt, one, row.response) for row, one in zip(FOLLOWED, outputs, strict=True)]
    batches = [drafts[start : start + 9] for start in range(0, len(drafts), 9)]
    answered = engine.follow(name, batches, how, reference=reference, near_tie=near_tie)
    assert list(map(len, answered)) == list(map(len, batches))
    return [pair for batch in answered for pair in batch]


@pytest.fixture
def generated(monkeypatch):
    """Tokens with which each row begins that is generated."""
    begun: list[int] = []
    generate = forward.generate_batch

    def counting(*arguments, **settings):
        begun.extend(len(row.ids) for row in settings.get("begun", ()))
        return generate(*arguments, **settings)

    monkeypatch.setattr(forward, "generate_batch", counting)
    return begun


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_scores_are_those_of_two_passes(engine, name, known):
    expected = engine.generate(name, PROMPTS, WRITE)
    free = [output.text for output in expected]
    pairs = [(row.prompt, row.response) for row in FOLLOWED]
    scores = engine.score(name, pairs, Reading(60), "rslora")
    answered = followed(engine, name, known=known)
    assert [output for output, _ in answered] == expected
    for (_, score), one in zip(answered, scores, strict=True):
        assert score.loglikelihood == pytest.approx(one.loglikelihood, rel=1e-5)
        assert score.kl == pytest.approx(one.kl, rel=1e-4, abs=1e-6)
        assert (score.n_tokens, score.exact, score.flips) == (one.n_tokens, one.exact, one.flips)
    stop = [free[0][3:6], free[1][5:7], "never to be seen"]
    stopped = engine.generate(name, PROMPTS, WRITE._replace(stop=stop))
    assert "stop_string" in {output.stopped_by for output in stopped}
    assert [output for output, _ in followed(engine, name, known=known, stop=stop)] == stopped


@pytest.mark.parametrize("kind", MEMORIES)
def test_whatever_the_model_remembers_drafts_change_nothing(kind, generated):
    engine = remembering(kind)
    expected = engine.generate(None, PROMPTS, WRITE)
    scores = engine.score(None, [(row.prompt, row.response) for row in FOLLOWED], Reading(60))
    drafts = [
        Draft(row.prompt, replace(one, ids=(*one.ids[:agreed], 7, 9, *one.ids[agreed + 2 :])), row.response)
        for agreed, row, one in zip(itertools.cycle(range(12)), FOLLOWED, expected, strict=False)
    ]
    engine._written.clear()
    (answered,) = engine.follow(None, [drafts], WRITE, reference=None, near_tie=1e-4)
    assert len(generated) > len(FOLLOWED) / 2
    assert [output for output, _ in answered] == expected
    ids = torch.tensor([engine.tokenizer(PROMPTS[0])["input_ids"]])
    written = engine.base.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=engine.tokenizer.eos_token_id,
        pad_token_id=0,
    )
    assert tuple(written[0, ids.shape[1] :].tolist()) == expected[0].ids
    for (_, score), one in zip(answered, scores, strict=True):
        assert score.loglikelihood == pytest.approx(one.loglikelihood, rel=1e-4)


def test_in_bfloat16_what_is_unfinished_begins_again(generated):
    """Keys of a single pass differ from those of generation by more than those of two batch sizes."""
    engine = remembering("absolute positions")
    engine.base.to(torch.bfloat16)
    outputs = engine.generate(None, PROMPTS, WRITE)
    drafts = [
        Draft(row.prompt, replace(one, ids=(*one.ids[:5], 7, 9)))
        for row, one in zip(FOLLOWED, outputs, strict=True)
    ]
    engine._written.clear()
    engine.follow(None, [drafts], WRITE, reference=None, near_tie=0.0)
    assert set(generated) == {0}


def test_only_what_differs_is_generated(engine, generated, adapter_folders):
    engine.add("again", adapter_folders["rslora"])
    followed(engine, "again")
    assert generated == []
    texts = [output.text for output, _ in followed(engine, "again", known=False)]
    other_tokens = sum(
        "<" in text for text in texts
    )  # such as <s>, which this tokenizer does not read as one
    assert len(generated) <= other_tokens < len(FOLLOWED) / 2 + 6
    generated.clear()
    answered = [output for output, _ in followed(engine, "plain")]
    drafts = engine.generate("rslora", PROMPTS, WRITE)
    agreed = [
        next((n for n, (a, b) in enumerate(zip(one.ids, two.ids, strict=False)) if a != b), 12)
        for one, two in zip(answered, drafts, strict=True)
    ]
    rest = [n + 1 for n, one in zip(agreed, answered, strict=True) if n < len(one.ids) - 1]
    assert sorted(generated) == sorted(rest)
    assert max(rest) > 1


def test_positions_closer_than_the_noise_are_generated(engine, generated):
    expected = engine.generate("plain", PROMPTS, WRITE)
    assert [output for output, _ in followed(engine, "plain", near_tie=1e9)] == expected
    assert generated == [0] * len(PROMPTS)


def test_noise_is_twice_the_largest_change_of_a_gap(engine):
    outputs = engine.generate("plain", PROMPTS, WRITE)
    drafts = [Draft(prompt, output) for prompt, output in zip(PROMPTS, outputs, strict=True)]
    noise = engine.near_tie("plain", drafts, WRITE)
    assert 0 < noise < 1e-4
    place = max(range(len(outputs)), key=lambda n: len(outputs[n].gaps))
    gaps = list(outputs[place].gaps)
    moved = Output("", 1, "eos", truncated=False, ids=outputs[place].ids, gaps=(gaps[0] + 0.5, *gaps[1:]))
    engine._written["plain", PROMPTS[place]] = moved
    assert engine.near_tie("plain", drafts, WRITE) == pytest.approx(1.0, abs=1e-4)


def test_the_reference_reads_a_response_once(engine, monkeypatch):
    read: list[int] = []
    response_logits = forward.response_logits

    def counting(model, tokenizer, pairs, how):
        read.append(len(pairs))
        return response_logits(model, tokenizer, pairs, how)

    monkeypatch.setattr(forward, "response_logits", counting)
    first = [score for _, score in followed(engine, "plain")]
    assert sum(read) == len(FOLLOWED)
    assert [score for _, score in followed(engine, "plain")] == first
    assert sum(read) == len(FOLLOWED)


def test_reference_logits_are_computed_again_only_if_an_adapter_changes_the_head(
    adapter_folders, monkeypatch
):
    monkeypatch.setattr(forward, "LIKELIEST", 5)
    engine = TransformersEngine(llama(), letters_tokenizer())
    pairs = [(row.prompt, row.response) for row in FOLLOWED]

    def check(name):
        for (_, score), one in zip(
            followed(engine, name), engine.score(name, pairs, Reading(60), "rslora"), strict=True
        ):
            assert score.kl == pytest.approx(one.kl, rel=1e-4, abs=1e-6)
            assert score.flips == one.flips
        return engine._states["rslora"].is_linear

    for name in ("rslora", "plain"):
        engine.add(name, adapter_folders[name])
    assert check("plain")
    engine.add("with_head", adapter_folders["with_head"])
    assert not check("with_head")
    assert not check("plain")
    engine.remove("with_head")


@pytest.mark.parametrize("cap", [None, 2.0])
def test_logits_that_are_capped_are_computed_again(cap):
    model, tokenizer = gemma(cap), letters_tokenizer()
    drafts = [Draft(row.prompt, Output("", 1, "eos", truncated=False), row.response) for row in FOLLOWED[:3]]
    rows = [forward.followed_row(tokenizer, draft, WRITE) for draft in drafts]
    kept = forward.KeptReference()
    with torch.inference_mode():
        expected = forward.response_logits(model, tokenizer, [row.response for row in rows], Reading(60))
        for _ in range(2):
            again = kept.read(rows, model, tokenizer)
            assert kept.is_linear == (cap is None)
            if cap is None:
                assert torch.equal(
                    torch.cat([each.likeliest[:, 0] for each in again]), expected.argmax(dim=-1)
                )
            else:
                torch.testing.assert_close(torch.cat(list(again)), expected)


# ---------------------------------------------------------------- Prompt and response as ids


def tokens(tokenizer, *parts):
    return tuple(tokenizer.convert_ids_to_tokens(part) for part in parts)


@pytest.mark.parametrize(
    ("options", "before"),
    [
        ({}, []),
        ({"bos": True}, ["<s>"]),
        ({"closes": True}, []),
        ({"bos": True, "closes": True}, ["<s>"]),
        ({"bos": True, "closes": True, "eos": "<s>"}, ["<s>"]),
    ],
    ids=["plain", "begins", "closes", "both", "one token for both"],
)
def test_special_tokens_before_the_prompt_none_behind_it_one_end(options, before):
    tokenizer = letters_tokenizer(**options)
    assert tokens(tokenizer, encode_prompt(tokenizer, "1+")) == ([*before, "1", "+"],)
    expected = ([*before, "1", "+"], ["2", "=", "3", tokenizer.eos_token])
    assert tokens(tokenizer, *encode_pair(tokenizer, "1+", "2=3")) == expected


@pytest.mark.parametrize(
    ("options", "prompt", "response", "before", "after"),
    [
        ({"closes": True}, "a</s>", "", ["a", "</s>"], ["</s>"]),  # the prompt contains the end token as text
        ({}, "a</s>", "", ["a", "</s>"], ["</s>"]),
        ({"bos": True}, "", "a", ["<s>"], ["a", "</s>"]),
        ({}, "", "", [], ["</s>"]),
        ({"merges": [(" ", "4"), (" 4", "2")]}, "7=", " 42", ["7", "="], [" 42", "</s>"]),
        # if tokens span prompt and response, the response is encoded separately
        ({"merges": [("=", "4")], "bos": True}, "7=", "42", ["<s>", "7", "="], ["4", "2", "</s>"]),
    ],
)
def test_where_a_response_begins(options, prompt, response, before, after):
    tokenizer = letters_tokenizer(**options)
    assert tokens(tokenizer, *encode_pair(tokenizer, prompt, response)) == (before, after)


def test_without_an_end_token_no_response_could_end():
    with raises(InputError, "no-end-token") as caught:
        encode_prompt(letters_tokenizer(eos=None), "1+1=")
    assert "eos_token" in caught.value.hint
