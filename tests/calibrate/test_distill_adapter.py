"""`distill_adapter` and `gradience distill`: closer to the original on rows held out; what is written was measured."""

import json
import shutil
from typing import NamedTuple

import numpy as np
import pytest
import tiny_bench
import torch
from calibrated_cases import adapter, texts
from data_files import write_jsonl
from factory import edit_config
from peft import PeftModel
from raising import raises
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from toys import logits_of
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from gradience import (
    DistillReport,
    InputError,
    OutputError,
    UsageError,
    compress_adapter,
    distill_adapter,
    verify,
)
from gradience.calibrate.measure import encode_pairs, encode_texts
from gradience.calibrate.verb import read_rows
from gradience.cli.app import run
from gradience.distill.train import residual
from gradience.distill.verb import may_be_one_base, mean_kl, p_closer, split
from gradience.models.load import quiet
from gradience.reports.distill import HeldOutRow
from gradience.statistics.paired import mean_difference

WEIGHTS = "adapter_model.safetensors"


class Distilled(NamedTuple):
    case: object
    small: object
    options: dict
    output: object
    report: DistillReport


def distill(case, small, output, **options) -> DistillReport:
    given = {
        "teacher": case.adapter,
        "prompts": case.prompts,
        "base_model": case.base,
        "completion_tokens": 5,
    }
    settings = {"device": "cpu", "steps": 40, "lr": 1e-2}
    return distill_adapter(small, output, **{**given, **settings, **options})


@pytest.fixture(scope="module", params=["classifier", "writer"])
def distilled(request, tmp_path_factory) -> Distilled:
    """A classifier, and a language model whose small adapter is stored in two bytes and has given completions."""
    case, root = request.getfixturevalue(request.param), tmp_path_factory.mktemp(request.param)
    options = {}
    if request.param == "writer":
        rows = [{"prompt": f"{n % 20} {n % 7} =", "completion": f" {n % 20}"} for n in range(60)]
        case = case._replace(prompts=write_jsonl(root / "rows.jsonl", rows))
        options = {"dtype": "BF16"}
    compress_adapter(case.adapter, root / "small", rank=2, **options)
    report = distill(case, root / "small", root / "distilled")
    return Distilled(case, root / "small", options, root / "distilled", report)


def loaded(case, folder):
    """The base with an adapter, as PEFT itself loads it."""
    config = json.loads((case.adapter / "adapter_config.json").read_text())
    kind = AutoModelForSequenceClassification if config["task_type"] == "SEQ_CLS" else AutoModelForCausalLM
    with quiet():
        base = kind.from_pretrained(
            case.base, **({"num_labels": 2} if kind is AutoModelForSequenceClassification else {})
        )
    return PeftModel.from_pretrained(base, folder).eval()


def rows_held_out(case, report):
    tokenizer = AutoTokenizer.from_pretrained(case.base)
    rows = split(read_rows(case.prompts, report.kind, tokenizer).all, 42).held_out
    return (
        encode_texts(tokenizer, rows, 512)
        if report.kind != "causal_lm"
        else encode_pairs(tokenizer, rows, None, 5)
    )


def kl_of_rows(case, folder, rows) -> np.ndarray:
    """Σ over a row's labels of KL(original ‖ adapter) by hand: one row at a time, without padding, in float64."""
    original, other = loaded(case, case.adapter), loaded(case, folder)
    sums = []
    for row in rows:
        with torch.no_grad():
            p, q = (logits_of(model, row).double().log_softmax(dim=-1) for model in (original, other))
        sums.append(float((p.exp() * (p - q)).sum()))
    return np.array(sums)


def test_what_is_written_is_closer_to_the_original_by_what_peft_itself_computes(distilled):
    """Teacher and student are read from the disk anew: neither was changed by the training of the other."""
    rows, report = rows_held_out(distilled.case, distilled.report), distilled.report
    tokens = sum(row.scored for row in rows)
    assert (len(rows), tokens) == (report.held_out_rows, report.scored_tokens)
    assert [(row.id, row.tokens) for row in report.by_row] == [(row.id, row.scored) for row in rows]
    for name, folder in (("before", distilled.small), ("after", distilled.output)):
        measured = getattr(report, name)
        by_hand = kl_of_rows(distilled.case, folder, rows)
        np.testing.assert_allclose(
            [getattr(row, f"kl_per_example_{name}") for row in report.by_row], by_hand, rtol=2e-3, atol=1e-6
        )
        assert measured.kl_per_token == pytest.approx(by_hand.sum() / tokens, rel=1e-3, abs=1e-7)
        assert measured.low < measured.kl_per_token < measured.high
    assert report.improved
    changes = np.array([row.kl_per_example_after - row.kl_per_example_before for row in report.by_row])
    flips = np.random.default_rng(0).choice([-1, 1], size=(20_000, len(rows)))
    assert report.p_closer == pytest.approx(((flips * changes).sum(axis=1) <= changes.sum()).mean(), abs=2e-3)
    assert report.change.kl_per_token == pytest.approx(report.after.kl_per_token - report.before.kl_per_token)
    assert report.after.kl_per_token < 0.8 * report.before.kl_per_token
    assert min(report.checks, key=lambda check: check.kl_per_token).step == report.best_step


def test_a_recovery_that_a_few_rows_hide_from_students_interval_is_shown(distilled):
    """Rows of a truncation: nearly all are closer, and one of them is fifty times as far away as the median."""
    draw = np.random.default_rng(3)
    before = np.append(np.exp(draw.normal(-7, 1, 60)), 0.06)
    after = before * np.append(draw.uniform(0.2, 1.1, 60), 0.4)
    tokens = np.ones(61, dtype=np.int64)
    change = mean_kl(after - before, tokens, least=-np.inf)
    assert change.low < 0 < change.high
    p = p_closer(before, after, 0)
    assert p < 0.001
    rows = [
        HeldOutRow(id="", tokens=1, kl_per_example_before=b, kl_per_example_after=a)
        for b, a in zip(before, after, strict=True)
    ]
    measured = {"before": mean_kl(before, tokens), "after": mean_kl(after, tokens), "change": change}
    report = distilled.report.model_copy(
        update={**measured, "p_closer": p, "by_row": tuple(rows), "held_out_rows": 61}
    )
    shown = " ".join(report.to_text().split())
    recovered, unit = 1 - after.mean() / before.mean(), report.unit
    assert unit == ("token" if report.kind == "causal_lm" else "example")
    assert f"Distillation reduced the KL per {unit} by {100 * recovered:.1f} %" in shown
    unsure = report.model_copy(update={"p_closer": 0.3}).to_text()
    assert f"Inconclusive: KL per {unit} fell by" in " ".join(unsure.split())
    assert "is farther from the reference" in report.model_copy(update={"p_closer": 0.99}).to_text()


def test_nothing_is_called_closer_more_often_than_its_level_where_nothing_changed():
    draw = np.random.default_rng(0)
    pairs = np.exp(draw.normal(0, 1.5, size=(400, 2, 8)))
    claimed = np.mean([p_closer(before, after, 0) < 0.025 for before, after in pairs])
    assert claimed < 0.05


def test_only_the_factors_differ_from_the_adapter_that_was_given(distilled):
    with (
        safe_open(distilled.small / WEIGHTS, "pt") as old,
        safe_open(distilled.output / WEIGHTS, "pt") as new,
    ):
        assert list(old.keys()) == list(new.keys())
        assert old.metadata() == new.metadata()
        trained = 0
        for name in old.keys():  # noqa: SIM118
            before, after = old.get_tensor(name), new.get_tensor(name)
            assert (before.dtype, before.shape) == (after.dtype, after.shape)
            trained += before.numel() if "lora_" in name else 0
            assert torch.equal(before, after) == ("lora_" not in name), name
    assert distilled.report.trained_params == trained < distilled.report.teacher_params
    assert (distilled.small / "adapter_config.json").read_bytes() == (
        distilled.output / "adapter_config.json"
    ).read_bytes()
    assert DistillReport.read(distilled.output / "distill_report.json") == distilled.report
    compress_adapter(distilled.output, distilled.output.parent / "again", rank=1, force=True)
    assert not (distilled.output.parent / "again" / "distill_report.json").exists()


def test_the_report_agrees_with_its_rows_and_weights(distilled, tmp_path):
    folder = shutil.copytree(distilled.output, tmp_path / "distilled")
    assert verify(folder).verdict == "consistent"
    report = distilled.report.model_dump(mode="json")
    report["after"]["kl_per_token"] /= 2
    report["trained_params"] *= 2
    (folder / "distill_report.json").write_text(json.dumps(report))
    assert [one.field for one in verify(folder).mismatches] == ["trained_params", "after.kl_per_token"]


def test_the_same_rows_give_the_same_adapter_in_whatever_order_they_stand(distilled, tmp_path):
    lines = distilled.case.prompts.read_text().splitlines(keepends=True)
    (tmp_path / "turned.jsonl").write_text("".join(reversed(lines)) + lines[0])
    again = distill(distilled.case, distilled.small, tmp_path / "again", prompts=tmp_path / "turned.jsonl")
    assert again.duplicates == distilled.report.duplicates + 1
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (distilled.output / WEIGHTS).read_bytes()
    assert (again.checks, again.after) == (distilled.report.checks, distilled.report.after)


def test_where_nothing_improves_the_adapter_is_written_as_it_was_and_that_is_said(distilled, tmp_path):
    report = distill(distilled.case, distilled.small, tmp_path / "distilled", lr=1e-30)
    assert (report.improved, report.best_step, report.steps) == (False, 0, 20)
    assert report.output_sha256 == report.adapter_sha256
    assert (tmp_path / "distilled" / WEIGHTS).read_bytes() == (distilled.small / WEIGHTS).read_bytes()
    assert (report.after, report.change.kl_per_token) == (report.before, 0)
    assert "written unchanged" in str(report)


@pytest.mark.parametrize(
    "config",
    [{"target_modules": ["embed_tokens", "q_proj", "lm_head"]}, {"use_dora": True}],
    ids=["embedding", "dora"],
)
def test_factors_of_every_kind_of_layer_are_trained_and_magnitudes_are_not(config, writer, tmp_path):
    case = writer._replace(adapter=adapter(tmp_path / "original", writer.base, "CAUSAL_LM", **config))
    rows = [{"prompt": f"{n % 20} {n % 7} =", "completion": f" {n % 20}"} for n in range(60)]
    case = case._replace(prompts=write_jsonl(tmp_path / "rows.jsonl", rows))
    compress_adapter(case.adapter, tmp_path / "small", rank=1, base_model=case.base)
    report = distill(case, tmp_path / "small", tmp_path / "distilled", steps=30)
    assert report.after.kl_per_token < report.before.kl_per_token
    old, new = (load_file(tmp_path / name / WEIGHTS) for name in ("small", "distilled"))
    for name, tensor in old.items():
        assert (tensor == new[name]).all() == ("lora_magnitude_vector" in name), name


def test_completions_are_written_by_the_original_where_a_row_has_none(writer, tmp_path):
    compress_adapter(writer.adapter, tmp_path / "small", rank=1)
    report = distill(writer, tmp_path / "small", tmp_path / "distilled", steps=2)
    assert (report.given_completions, report.sampled_completions) == (30, 30)
    assert (report.training_rows, report.stopping_rows, report.held_out_rows) == (38, 7, 15)


def test_parts_share_no_row():
    parts = split(range(60), seed=1)
    assert sorted((*parts.training, *parts.stopping, *parts.held_out)) == list(range(60))
    assert split(range(60), seed=2) != parts


def test_the_gradient_is_that_of_the_divergence():
    torch.manual_seed(0)
    logits, teacher = torch.randn(2, 5, 7).double()
    logits.requires_grad_(True)
    p = teacher.log_softmax(dim=-1)
    (p.exp() * (p - logits.log_softmax(dim=-1))).sum().backward()
    torch.testing.assert_close(residual(logits.detach(), teacher), logits.grad, atol=1e-6, rtol=0)


def test_the_interval_is_of_a_ratio_of_sums():
    sums = np.random.default_rng(0).gamma(1, size=40)
    mean = mean_kl(sums, np.ones(40, dtype=np.int64))
    assert (mean.low, mean.high) == pytest.approx(mean_difference(sums))
    tokens = np.arange(1, 41)
    exact = mean_kl(0.25 * tokens, tokens)  # every token the same: nothing varies
    assert (exact.kl_per_token, exact.low, exact.high) == pytest.approx((0.25, 0.25, 0.25))


# ---------------------------------------------------------------- refusals


@pytest.fixture(scope="module")
def small(classifier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / "small"
    compress_adapter(classifier.adapter, folder, rank=1)
    return folder


def test_adapters_that_do_not_belong_together_are_refused(classifier, writer, small, tmp_path):
    def refused(adapter, **options) -> str:
        with pytest.raises((UsageError, InputError)) as caught:
            distill(classifier, adapter, tmp_path / "distilled", **options)
        assert not (tmp_path / "distilled").exists()
        return caught.value.code

    assert refused(classifier.adapter, teacher=small) == "not-smaller"
    assert refused(small, teacher=small) == "same-adapter"
    few = write_jsonl(tmp_path / "few.jsonl", [{"text": text} for text in texts(15)])
    assert refused(small, prompts=few) == "too-few-rows"
    assert refused(small, prompts=writer.prompts) == "wrong-model"
    assert refused(small, lr=0.0) == "bad-lr"
    moved = edit_config(shutil.copytree(small, tmp_path / "base"), base_model_name_or_path="another/model")
    assert refused(moved) == "other-base"
    renamed = shutil.copytree(small, tmp_path / "modules")
    tensors = {
        name.replace("encoder", "another"): tensor for name, tensor in load_file(small / WEIGHTS).items()
    }
    save_file(tensors, renamed / WEIGHTS, {"format": "pt"})
    assert refused(renamed) == "other-modules"
    compress_adapter(writer.adapter, tmp_path / "less", rank=1)
    wide = adapter(tmp_path / "wide", tiny_bench.llama(tmp_path / "of" / "base", hidden_size=64), "CAUSAL_LM")
    options = {"base_model": writer.base, "prompts": writer.prompts}
    assert refused(tmp_path / "less", teacher=wide, **options) == "adapter-misfit"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("org/llama", "org/llama", True),
        ("org/llama", "Org/Llama", True),
        ("org/llama", "other/llama", False),
        ("org/llama", "/models/llama/", True),
        ("../models/llama", "C:\\models\\llama", True),
        ("org/llama", "llama", True),
        ("./llama", "./mistral", False),
        ("embedded:minilm", "embedded:smollm2", False),
    ],
    ids=str,
)
def test_names_on_the_hub_are_compared_whole_and_folders_by_their_last_part(one, other, same):
    assert may_be_one_base(one, other) is may_be_one_base(other, one) is same


def test_a_full_device_is_said(classifier, small, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("gradience.distill.train.train", full)
    with raises(OutputError, "out-of-memory", "not enough memory"):
        distill(classifier, small, tmp_path / "distilled")
    assert not (tmp_path / "distilled").exists()


@pytest.mark.parametrize("kind", ["classifier", "writer"])
def test_what_a_card_says_about_loading_is_run(kind, request, tmp_path):
    case = request.getfixturevalue(kind)
    folder = shutil.copytree(case.adapter, tmp_path / "adapter")
    edit_config(folder, base_model_name_or_path=str(case.base))
    assert run(["card", str(folder)]) == 0
    text = (folder / "README.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0].replace("path/to/this/folder", str(folder))
    names = {}
    exec(code.replace("…", "2"), names)
    logits = names["model"](input_ids=torch.tensor([[1, 2, 3]])).logits
    assert logits.isfinite().all()
    assert any("lora_A" in name for name, _ in names["model"].named_parameters())


def test_the_command_plans_distills_and_does_not_overwrite(classifier, small, tmp_path, capsys, command):
    output = tmp_path / "distilled"
    words = [
        "distill",
        str(small),
        "--teacher",
        str(classifier.adapter),
        "--prompts",
        str(classifier.prompts),
    ]
    words += ["--base-model", str(classifier.base), "--device", "cpu", "--steps", "3"]
    assert "no --output given" in command(*words, code=2).err
    words += ["-o", str(output)]
    shown = command(*words, "--dry-run").out
    assert "38 for training, 7 for early stopping, 15 held out" in shown
    assert " backward passes of an example, in " in shown
    assert run([*words, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "gradience.distill_forecast/1"
    assert not output.exists()
    page = tmp_path / "distilled.html"
    assert run([*words, "--html", str(page)]) == 0
    assert "Distance from the reference</h2>" in page.read_text(encoding="utf-8")
    assert "Distillation reduced" in capsys.readouterr().out
    card = (output / "README.md").read_bytes()
    assert b"- **distilled**: KL/example from the reference adapter" in card
    assert run(["card", str(output)]) == 0
    assert (output / "README.md").read_bytes() == card
    assert "already exists" in command(*words, code=2).err
    assert json.loads(command(*words, "--force", "--json").out)["schema"] == "gradience.distill/1"
    words[words.index("-o") + 1] = str(classifier.adapter)
    assert "the output is the adapter itself" in command(*words, "--force", code=2).err
