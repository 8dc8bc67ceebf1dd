"""`calibrate_adapter` and `gradience calibrate`: rows of every kind, equal files, what is excluded or refused."""

import json
import shutil

import numpy as np
import pytest
from calibrated_cases import adapter, texts
from data_files import write_jsonl
from factory import edit_config
from transformers import AutoModelForSequenceClassification

from gradience import UsageError, calibrate_adapter, tasks
from gradience.calibrate.verb import needs_of, read_rows
from gradience.cli.app import run
from gradience.errors import InputError
from gradience.evaluate.inputs import reader_of
from gradience.reports.calibration import Calibration


def tensors(calibration) -> dict[str, np.ndarray]:
    arrays = {
        f"{name}:{key}": array
        for name, each in calibration.modules.items()
        for key, array in each._asdict().items()
    }
    return {**arrays, "tokens": calibration.tokens, "selection": calibration.selection}


def again(case, output, **options):
    given = {"prompts": case.prompts, "base_model": case.base, "completion_tokens": 5, "device": "cpu"}
    return calibrate_adapter(case.adapter, output, **{**given, **options})


@pytest.mark.parametrize("kind", ["classifier", "writer"])
def test_the_same_rows_give_the_same_file_in_whatever_order_they_stand(kind, request, tmp_path):
    case = request.getfixturevalue(kind)
    first, second = Calibration.read(case.calibration), again(case, tmp_path / "again.safetensors")
    assert first.report.model_dump(exclude={"run"}) == second.report.model_dump(exclude={"run"})
    assert first.sha256 == second.sha256
    for name, array in tensors(first).items():
        np.testing.assert_array_equal(tensors(second)[name], array, err_msg=name)
    lines = case.prompts.read_text().splitlines(keepends=True)
    (tmp_path / "turned.jsonl").write_text("".join(reversed(lines)) + lines[0])
    turned = again(case, tmp_path / "turned.safetensors", prompts=tmp_path / "turned.jsonl")
    assert turned.report.duplicates == first.report.duplicates + 1
    for name, array in tensors(first).items():
        np.testing.assert_array_equal(tensors(turned)[name], array, err_msg=name)


def test_another_seed_draws_other_labels(classifier, tmp_path):
    first = Calibration.read(classifier.calibration)
    other = again(classifier, tmp_path / "c.safetensors", seed=1)
    assert (tensors(first)["tokens"] == tensors(other)["tokens"]).all()
    assert first.sha256 != other.sha256
    assert any(
        (tensors(first)[name] != array).any() for name, array in tensors(other).items() if array.ndim == 2
    )


def test_completions_are_sampled_where_a_row_has_none(writer):
    report = Calibration.read(writer.calibration).report
    assert (report.given_completions, report.sampled_completions) == (30, 30)
    tokens = Calibration.read(writer.calibration).tokens
    assert tokens.min() >= 1
    assert tokens.max() <= 5
    assert len(set(tokens.tolist())) > 1
    assert report.scored_tokens == tokens[1::2].sum()


def test_progress_counts_every_batch_the_sampled_ones_too(writer, tmp_path):
    seen = []
    again(writer, tmp_path / "c.safetensors", progress=lambda *done: seen.append(done))
    total = 4 + 4 + 8  # batches of 8: 30 rows are sampled, 30 choose, and 60 are measured
    assert seen == [(done, total) for done in range(1, total + 1)]


def test_moments_and_components_come_from_the_rows_that_select_alone(classifier):
    """Other rows in the half that predicts change neither moments nor components, nor their order."""
    first = Calibration.read(classifier.calibration)
    assert first.selection.tolist() == [True, False] * 30
    for moments in first.modules.values():
        scores = np.square(moments.effects[first.selection].astype(float)).mean(axis=0)
        assert (np.diff(scores) <= 1e-6 * scores[0]).all()
        k = len(moments.values)
        np.testing.assert_allclose(moments.q.T @ moments.p, np.eye(k), atol=1e-8)
        assert (moments.lost[0], moments.lost[-1]) == (pytest.approx(1.0), 0.0)


def test_rows_of_conversations_and_of_pairs(writer, classifier, tmp_path):
    pairs = [
        {"text": first, "text_pair": second} for first, second in zip(texts(8), texts(9)[1:], strict=True)
    ]
    read = again(
        classifier, tmp_path / "pairs.safetensors", prompts=write_jsonl(tmp_path / "pairs.jsonl", pairs)
    )
    assert read.report.rows == 8
    talks = write_jsonl(tmp_path / "talks.jsonl", [{"messages": [{"role": "user", "content": "3 4 ="}]}])
    with pytest.raises(InputError, match="has no chat template"):
        again(writer, tmp_path / "talks.safetensors", prompts=talks)


CHOICES = {"choices": [" red", "blue "]}


@pytest.mark.parametrize(
    ("row", "response"),
    [
        ({**CHOICES, "answer": 0}, " red"),
        ({**CHOICES, "answer": "1"}, " blue"),
        ({**CHOICES, "answer": " blue"}, " blue"),
        ({"answer": "  4 "}, " 4"),
        ({"answer": 4}, " 4"),
        ({"completion": "  4 "}, "  4 "),
        ({"completion": "so 4", "answer": "4"}, "so 4"),
        ({"answer": "4", "choices": None}, " 4"),
    ],
)
def test_a_row_is_scored_on_what_an_evaluation_scores(tmp_path, row, response):
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": f"{place} of", **row} for place in range(8)])
    profile, options = reader_of(rows)
    given = {**options, "file": str(rows), **({} if options else {"scorer": "contains"})}
    task = tasks.load(profile, given, needed=())
    read = {(each.text, each.more) for each in read_rows(rows, "causal_lm", None).all}
    assert read == {(each.prompt, each.response) for each in task.examples.all}
    assert {more for _, more in read} == {response}


def test_an_untrained_module_is_excluded_with_its_reason(writer, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(writer.adapter, tmp_path / "partly")
    weights = load_file(folder / "adapter_model.safetensors")
    zero = next(name for name in weights if "layers.0.self_attn.v_proj.lora_B" in name)
    weights[zero] = np.zeros_like(weights[zero])
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    case = writer._replace(adapter=folder)
    report = again(case, tmp_path / "c.safetensors").report
    assert [(row.name, row.reason) for row in report.excluded] == [
        ("model.layers.0.self_attn.v_proj", "its update or its gradient is 0")
    ]
    assert len(report.modules) == 5


def test_dora_cannot_be_calibrated_and_it_is_said(writer, tmp_path):
    dora = adapter(tmp_path / "dora", writer.base, "CAUSAL_LM", use_dora=True)
    with pytest.raises(InputError, match="not plain LoRA"):
        again(writer._replace(adapter=dora), tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([{"text": "a b"}] * 9, "1 different rows, but at least 4 are needed"),
        ([{"prompt": "3"}] * 9, "its rows do not fit"),
        ([{"query": "3"}] * 9, r"no prompt, messages or text column \(columns: query\)"),
        ([], "has no rows"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(classifier, tmp_path, rows, what):
    prompts = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises((InputError, UsageError), match=what):
        again(classifier, tmp_path / "c.safetensors", prompts=prompts)


def test_another_kind_of_model_is_refused(classifier, tmp_path):
    folder = edit_config(shutil.copytree(classifier.adapter, tmp_path / "tokens"), task_type="TOKEN_CLS")
    with pytest.raises(UsageError, match="its task_type is TOKEN_CLS"):
        again(classifier._replace(adapter=folder), tmp_path / "c.safetensors")


def test_a_base_that_the_adapter_does_not_fit_is_refused_before_it_is_loaded(
    classifier, writer, tmp_path, monkeypatch
):
    monkeypatch.setattr("gradience.models.load.load_base", lambda *_, **__: pytest.fail("a model is loaded"))
    with pytest.raises(InputError, match="does not fit base: the base has no modules named") as caught:
        again(classifier._replace(base=writer.base), tmp_path / "c.safetensors")
    assert caught.value.code == "adapter-misfit"


def test_the_command_writes_shows_and_does_not_overwrite(classifier, tmp_path, capsys, command):
    output = tmp_path / "c.safetensors"
    words = ["calibrate", str(classifier.adapter), "--prompts", str(classifier.prompts), "-o", str(output)]
    words += ["--base-model", str(classifier.base), "--device", "cpu"]
    shown = command(*words, "--dry-run").out
    assert "60: 30 to select components, 30 to predict" in shown
    assert "90 forward and 90 backward passes of an example" in shown
    assert run([*words, "--dry-run", "--json"]) == 0
    base = AutoModelForSequenceClassification.from_pretrained(classifier.base, num_labels=2)
    weights = sum(weight.nbytes for weight in base.parameters())
    planned = json.loads(capsys.readouterr().out)
    assert planned["weights_bytes"] == weights
    assert not output.exists()
    shown, said = command(*words)
    assert said.splitlines()[0].split()[:2] == ["0:00", "calibrating"]  # there is no terminal
    assert "Importance of modules" in shown
    assert "excluded" not in shown
    assert "already exists" in command(*words, code=2).err
    page = tmp_path / "c.html"
    assert run([*words, "--force", "--json", "--html", str(page)]) == 0
    assert "Importance of modules" in page.read_text(encoding="utf-8")
    assert json.loads(capsys.readouterr().out)["schema"] == "gradience.calibration/2"
    compress = [
        "compress",
        str(classifier.adapter),
        "--calibration",
        str(output),
        "--max-kl-per-token",
        "0.001",
    ]
    shown = command(*compress, "--dry-run").out
    assert "predicted KL" in shown
    assert run([*compress, "-o", str(tmp_path / "small")]) == 0
    assert (tmp_path / "small" / "adapter_model.safetensors").exists()


def test_what_a_model_of_7b_parameters_needs():
    """32 layers, seven modules, r = 64, 256 rows in batches of 8 × 512 tokens: under 1 GB beside the base."""
    held, batch = needs_of([64] * 224, rows=256, tokens=8 * 512)
    assert held < 200e6
    assert batch < 300e6
    twice, _ = needs_of([64] * 224, rows=512, tokens=8 * 512)
    assert twice - held == 8 * 2 * 256 * 64 * 224  # effects alone grow with the rows
