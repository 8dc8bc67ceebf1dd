"""Encoder–decoder models, T5 and BART: calibrated, compressed, distilled; what is predicted is what is measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
from calibrated_cases import Case, write
from peft import LoraConfig, get_peft_model
from tiny_encoder_decoders import TARGETS, model_of, tokenizer_of, train
from tiny_models import Sum
from toys import OPENINGS, batches, logits_of, moments, toy
from transformers import AutoModelForSeq2SeqLM

from gradience import DistillReport, InputError, calibrate_adapter, compress_adapter, distill_adapter
from gradience.calibrate.batches import EncodedRow, encode_targets
from gradience.calibrate.rows import CalibrationRow
from gradience.calibrate.sampling import draw, uniforms, with_completions
from gradience.cli.app import run
from gradience.evaluate import Scores, evaluate_rows
from gradience.evaluate.engines.transformers import TransformersEngine
from gradience.models.settings import ModelSettings
from gradience.reports.calibration import Calibration

NEW = 6


@pytest.fixture(scope="module", params=["t5", "bart"])
def case(request, tmp_path_factory) -> Case:
    """A base, an adapter that was trained on it, rows of which every fourth has no completion, and a calibration."""
    root, kind = tmp_path_factory.mktemp(request.param), request.param
    tokenizer = tokenizer_of(kind)
    train(model_of(kind), tokenizer, 12, 0).save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    base = AutoModelForSeq2SeqLM.from_pretrained(root / "base")
    config = LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, target_modules=TARGETS[kind])
    train(get_peft_model(base, config), tokenizer, 10, 0).save_pretrained(root / "adapter")
    rows = [
        {"prompt": f"{n} + {7 * n % 30} =", **({"answer": f"{n + 7 * n % 30}"} if n % 4 else {})}
        for n in range(80)
    ]
    prompts = write(root / "rows.jsonl", rows)
    calibrate_adapter(root / "adapter", root / "c.safetensors", **asked(root / "base", prompts))
    return Case(root / "base", root / "adapter", prompts, root / "c.safetensors")


def asked(base, prompts, **more):
    return {"prompts": prompts, "base_model": base, "completion_tokens": NEW, "device": "cpu", **more}


def test_completions_are_the_decoders_and_every_module_is_calibrated(case, tmp_path):
    first = Calibration.read(case.calibration)
    report = first.report
    assert (report.kind, report.given_completions, report.sampled_completions) == ("seq2seq_lm", 60, 20)
    assert (
        len(report.modules) == 12
    )  # of two layers each: encoder, decoder, and the decoder's look at the encoder
    assert not report.excluded
    again = asked(case.base, case.prompts, batch_size=3)
    second = calibrate_adapter(case.adapter, tmp_path / "again.safetensors", **again)
    assert (second.tokens == first.tokens).all()
    for name, each in first.modules.items():
        np.testing.assert_allclose(each.moment_in, second.modules[name].moment_in, rtol=1e-3, atol=1e-5)


def rows_of(case) -> list[Sum]:
    """Those with a completion."""
    rows = enumerate(json.loads(line) for line in case.prompts.read_text().splitlines())
    return [Sum(str(n), row["prompt"], row["answer"], row["answer"]) for n, row in rows if "answer" in row]


@pytest.mark.parametrize("reduction", [0.4, 0.6])
def test_what_a_truncation_costs_is_what_was_predicted(case, reduction, tmp_path):
    """Within what the directions drawn for forty rows leave open."""
    plan = compress_adapter(
        case.adapter, tmp_path / "small", calibration=case.calibration, reduction=reduction
    )
    engine = TransformersEngine.load(ModelSettings(name=str(case.base), type="seq2seq_lm"), device="cpu")
    for name, folder in (("whole", case.adapter), ("small", tmp_path / "small")):
        engine.add(name, folder)
    records = evaluate_rows(engine, Scores(reference="whole"), ["small"], rows_of(case))["small"].records
    kl = sum(row.kl for row in records) / sum(row.n_tokens for row in records)
    assert kl > 1e-7  # of what float32 can tell
    assert 0.4 < kl / plan.prediction.kl_per_token < 2.5


def test_distillation_brings_it_closer_to_its_original(case, tmp_path):
    compress_adapter(case.adapter, tmp_path / "small", rank=1)
    options = asked(case.base, case.prompts, teacher=case.adapter, steps=20, lr=1e-2)
    report = distill_adapter(tmp_path / "small", tmp_path / "distilled", **options)
    assert (report.kind, report.improved) == ("seq2seq_lm", True)
    assert report.change.high < 0
    assert DistillReport.read(tmp_path / "distilled" / "distill_report.json") == report


def test_a_target_as_long_as_its_prompt_is_not_taken_for_it():
    """Two rows whose longest prompt and longest decoder have one length, and whose masks differ."""
    for kind, begins in OPENINGS.items():
        model = toy(kind)
        encoded = [
            EncodedRow("1", (5, 6, 7), (8,) * (4 - len(begins)), 4 - len(begins), False, begins),
            EncodedRow("2", (9,), (5,), 1, False, begins),
        ]
        (batch,) = batches(encoded, 2)
        assert len({mask.shape for mask in batch.masks}) == 2
        together, alone = moments(model, encoded, size=2), moments(model, encoded, size=1)
        for name, each in alone.items():
            assert together[name].tokens == each.tokens, name
            np.testing.assert_allclose(together[name].moment_in, each.moment_in, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", OPENINGS)
def test_sampled_completions_are_drawn_from_what_transformers_says_is_likely(kind):
    """However they are batched, each token is the one that the model's own probabilities give for its draw."""
    model, tokenizer = toy(kind), tokenizer_of(kind)
    rows = [CalibrationRow(f"{n:016x}", f"{n} + {n * n} =", None) for n in range(5)]
    encoded = encode_targets(tokenizer, rows, None, NEW, OPENINGS[kind])
    how = {"tokens": NEW, "seed": 3}
    written = with_completions(model, tokenizer, encoded, batch_size=5, **how)
    assert with_completions(model, tokenizer, encoded, batch_size=2, **how) == written
    for row in written:
        p = logits_of(model, row).detach().softmax(dim=-1)
        drawn = draw(p, uniforms(3, row.id, NEW)[: row.scored])
        assert tuple(drawn.tolist()) == row.completion
    assert len({row.completion for row in written}) > 1


def test_a_prompt_loses_its_end_and_a_completion_must_fit():
    tokenizer = tokenizer_of("bart")
    row = CalibrationRow("1", "12 + 34 =", " 46")
    (cut,) = encode_targets(tokenizer, [row], 6, NEW, OPENINGS["bart"])
    whole = tokenizer("12 + 34 =")["input_ids"]
    assert cut.prompt == (*whole[:5], whole[-1])
    assert cut.truncated
    assert tokenizer.decode(cut.completion) == "46</s>"
    with pytest.raises(InputError, match="leaves no room in a decoder of 4"):
        encode_targets(tokenizer, [row], 4, NEW, OPENINGS["bart"])


def test_the_command_says_what_it_needs(case, capsys):
    words = ["calibrate", str(case.adapter), "--prompts", str(case.prompts), "--base-model", str(case.base)]
    assert run([*words, "--completion-tokens", "5", "--dry-run"]) == 0
    assert "20 sampled first" in capsys.readouterr().out
