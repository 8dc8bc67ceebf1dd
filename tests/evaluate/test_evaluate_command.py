"""`gradience evaluate`: its screen, its files, its exit codes, its plan."""

import hashlib
import json

import adapters_to_compare as data
import pytest

from gradience import evaluate_adapters
from gradience.cli.app import run
from gradience.cli.evaluate import code_of
from gradience.errors import UsageError
from gradience.evaluate.settings import options_of
from gradience.files.digests import Digests
from gradience.reports.evaluation import EvaluationForecast, EvaluationReport


@pytest.fixture
def arguments(prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    return ["evaluate", "reference", "other", "-b", "base", "--data", "rows.csv", "--device", "cpu"]


def test_a_run_says_what_it_can_show_prints_rows_and_writes_them(arguments, tmp_path, capsys):
    out = tmp_path / "out"
    code = run([*arguments, "-o", str(out), "--with-base", "--margin", "90"])
    printed = capsys.readouterr()
    report = EvaluationReport.read(out / "evaluation.json")
    assert (code, report.candidates[0].grade) == (0, "B")
    assert printed.err.startswith(
        f"note: {data.LABELS}\n60 examples: 80 % power to rule out a drop of about "
    )
    for words in ("stage 3 of 3: evaluating base", f"written: {out}/evaluation.json, evaluation.md"):
        assert words in printed.err
    assert printed.out == report.to_text()
    for words in (
        "Candidates, compared with reference",
        "Gain of reference over the base model",
        "other: B, shown",
    ):
        assert words in printed.out
    assert f"{report.adapters[0].correct}  " in (out / "evaluation.md").read_text(encoding="utf-8")
    assert run([*arguments, "-o", str(out), "--margin", "0.5", "--json", "--quiet"]) in (1, 8)
    again = EvaluationReport.model_validate(json.loads(capsys.readouterr().out))
    assert again.candidates[0].pairs == report.candidates[0].pairs
    listed = Digests.read(out / "digests.json").files
    records = {file.path for row in again.adapters for file in row.records}
    assert listed.keys() == {"evaluation.json", "evaluation.md", "records/manifest.json"} | records
    assert listed == {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in listed}
    page = out / "evaluation.md"
    page.write_text(page.read_text(encoding="utf-8").replace("other", "mine"), encoding="utf-8")
    assert run([*arguments, "-o", str(out), "--margin", "90"]) == 0
    assert (
        Digests.read(out / "digests.json").files["evaluation.md"]
        == hashlib.sha256(page.read_bytes()).hexdigest()
    )


def test_a_candidate_that_cannot_be_evaluated_gives_4(arguments, prepared, tmp_path, capsys):
    data.adapter(prepared / "inert", prepared / "base", 3, init_lora_weights=True)
    assert run([*arguments, "inert", "-o", str(tmp_path), "--margin", "90"]) == 4
    printed = capsys.readouterr()
    assert "inert: X, could not be evaluated: inert: has no effect" in " ".join(printed.out.split())


def test_python_gets_the_same_plan_preview_notes_and_page(prepared, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(prepared)
    adapters, notes = ["reference", "other"], []
    how = {"base_model": "base", "data": "rows.csv", "device": "cpu", "margin": 90, "note": notes.append}
    command = ["evaluate", *adapters, "-b", "base", "--data", "rows.csv", "--device", "cpu", "--margin", "90"]
    for name in ("dry_run", "preview"):
        shown = json.loads(evaluate_adapters(adapters, **how, **{name: True}).to_json())
        assert run([*command, f"--{name.replace('_', '-')}", "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        # the memory of this process has grown since
        assert printed | {"process_bytes": 0} == shown | {"process_bytes": 0}
    report = evaluate_adapters(adapters, **how, output=tmp_path)
    assert (tmp_path / "evaluation.md").read_text(encoding="utf-8") == report.to_markdown()
    assert notes == list(report.notes)


@pytest.mark.parametrize(
    ("grades", "code"),
    [("", 0), ("B", 0), ("BC", 8), ("CD", 1), ("BDCX", 4)],
)
def test_the_worst_grade_is_the_exit_code(grades, code):
    kept = EvaluationReport.read(data.KEPT)
    rows = [kept.candidates[0].model_copy(update={"grade": grade}) for grade in grades]
    assert code_of(kept.model_copy(update={"adapters": (kept.adapters[0], *rows)})) == code


def test_a_plan_loads_nothing_and_names_margins_and_memory(arguments, capsys, monkeypatch):
    monkeypatch.setattr("gradience.models.load.load_base", lambda *_, **__: pytest.fail("a model is loaded"))
    assert run([*arguments, "--dry-run", "--json"]) == 0
    plan = EvaluationForecast.model_validate(json.loads(capsys.readouterr().out))
    assert (plan.examples, plan.adapters) == (60, ("reference", "other"))
    assert plan.weights_bytes > 0 < plan.batch_bytes
    assert 100e6 < plan.process_bytes < 4e9  # PyTorch and transformers
    assert run([*arguments, "--dry-run"]) == 0
    assert "Smallest margin" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ([], 2, "no --output given"),
        (["--dry-run", "--margin", "much"], 2, "margin"),
        (["--dry-run", "--option", "text_column"], 2, "not KEY=VALUE"),
        (["--dry-run", "--columns", "text=words,label=label"], 3, "words"),
        (["nowhere", "--dry-run"], 3, "nowhere"),
    ],
)
def test_a_wrong_command_says_what_to_do(arguments, more, code, words, capsys):
    assert run([*arguments, *more]) == code
    printed = capsys.readouterr()
    assert words in printed.err
    assert "hint: " in printed.err


def test_options_are_read_as_yaml_reads_them():
    assert options_of(["a=1", "b=[x, y]", "c=d=e", "f=true"]) == {
        "a": 1,
        "b": ["x", "y"],
        "c": "d=e",
        "f": True,
    }
    with pytest.raises(UsageError):
        options_of(["=1"])
