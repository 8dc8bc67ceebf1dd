"""`gradience compress`, as a user runs it: real processes for what streams and files hold, the rest in this process."""

import json
import re
import sys
from pathlib import Path

import jsonschema
import pytest
from pseudo_terminal import drawn_by
from running import gradience

from gradience.cli.app import run
from gradience.reports.base.blocks import View
from gradience.reports.compression import CompressionPlan, CompressionReport

DOCS = Path(__file__).resolve().parents[2] / "docs"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def fits_the_schema(text, name):
    committed = json.loads((DOCS / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads(text), committed)


def everything(folder):
    """All files below a folder, with their bytes."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys, tmp_path, *arguments):
    """Code and stderr of a command that must neither print a result nor write or change anything."""
    before = everything(tmp_path)
    code = run(["compress", *map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert everything(tmp_path) == before
    assert re.match(r"error: .+\n\nhint: .+\n$", captured.err, flags=re.DOTALL)
    return code, captured.err


# ---------------------------------------------------------------- a smaller adapter


def test_the_report_on_disk_is_the_report_on_the_screen(adapter, tmp_path):
    output = tmp_path / "smaller"
    done = gradience("compress", adapter, "--rank", "4", "--output", output, "--layers")
    assert (done.returncode, done.stderr) == (0, "")
    report = CompressionReport.read(output / "compression_report.json")
    assert done.stdout == report.to_text(view=View(full=True, paths=(str(adapter), str(output))))
    assert (output / "compression_report.md").read_text(encoding="utf-8") == report.to_markdown()
    assert report.run.command == f"gradience compress {adapter.name} --rank 4 --output {output.name} --layers"
    assert {path.name for path in output.iterdir()} >= {
        WEIGHTS,
        CONFIG,
        "README.md",
        "compression_report.json",
    }
    assert json.loads((output / CONFIG).read_text())["r"] == 4
    assert (output / WEIGHTS).stat().st_size == report.new_bytes < report.old_bytes


def test_a_dry_run_writes_nothing_and_its_plan_can_be_edited_and_applied(adapter, tmp_path, capsys):
    before = everything(tmp_path)
    done = gradience(
        "compress", adapter, "--reduction", "0.6", "--allowed-ranks", "2,4", "--dry-run", "--json"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert everything(tmp_path) == before
    fits_the_schema(done.stdout, "compression_plan")
    plan = CompressionPlan.model_validate_json(done.stdout)
    assert plan.reduction >= 0.6

    path = tmp_path / "plan.json"
    path.write_text(done.stdout, encoding="utf-8")
    assert run(["compress", str(adapter), "--plan", str(path), "-o", str(tmp_path / "as-planned")]) == 0
    written = CompressionReport.read(tmp_path / "as-planned" / "compression_report.json")
    assert written.criterion == plan.criterion
    assert [row.new_rank for row in written.modules] == [row.new_rank for row in plan.modules]

    edited = json.loads(done.stdout)
    edited["modules"][0]["new_rank"] = 0
    edited["modules"][1]["new_rank"] = 7
    path.write_text(json.dumps(edited), encoding="utf-8")
    capsys.readouterr()
    for output, advice in (((), "replace --dry-run with --output"), (("-o", "new"), "leave out --dry-run")):
        assert run(["compress", str(adapter), "--plan", str(path), "--dry-run", *output]) == 0
        assert f"Next: {advice}" in capsys.readouterr().out
    assert run(["compress", str(adapter), "--plan", str(path), "--dry-run", "--json"]) == 0
    again = CompressionPlan.model_validate_json(capsys.readouterr().out)
    first, second = again.modules[:2]
    # Everything but the ranks is worked out anew: the file still holds the old figures.
    assert (first.new_rank, first.new_params, first.predicted_error) == (0, 0, 1.0)
    assert (second.new_rank, second.new_params) == (7, second.old_params // 8 * 7)
    assert again.criterion == f"{plan.criterion}, then edited"
    assert again.new_params == sum(row.new_params for row in again.modules)
    assert run(["compress", str(adapter), "--plan", str(path), "-o", str(tmp_path / "edited")]) == 0
    written = CompressionReport.read(tmp_path / "edited" / "compression_report.json")
    assert written.dropped == (first.name,)
    assert written.predicted_error == again.predicted_error != plan.predicted_error


def test_on_a_terminal_it_is_colored_fits_and_leaves_no_progress_behind(adapter, tmp_path):
    # Without patience: on a busy machine the bar may be drawn, and must be gone at the end.
    code = "from gradience.cli import app, progress; progress.PATIENCE_SECONDS = 0.0; app.main()"
    arguments = ["compress", str(adapter), "--rank", "4", "--layers", "-o", str(tmp_path / "out")]
    text = drawn_by([sys.executable, "-c", code, *arguments])[0].replace("\r\n", "\n")
    drawn, _, screen = text.rpartition("\x1b[2K")  # the bar's last sign erases its line
    assert "compressing" in drawn
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
    assert "\x1b[" in screen
    assert "\x1b" not in plain
    assert max(map(len, plain.splitlines())) <= 80, sorted(plain.splitlines(), key=len)[-2:]
    report = CompressionReport.read(tmp_path / "out" / "compression_report.json")
    paths = (str(adapter), str(tmp_path / "out"))
    expected = report.to_text(width=80, view=View(full=True, paths=paths))
    assert plain.strip().endswith(expected.strip())


# ---------------------------------------------------------------- what makes no sense: exit code 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["A", "-o", "out"], "no target size given"),
        (["A", "-o", "out", "--rank", "4", "--energy", "0.9"], "--rank and --energy"),
        (["A", "-o", "out", "--max-params", "9", "--max-error", ".1"], "give only one of"),
        (["A", "--rank", "4"], "no --output"),
        (["A", "-o", "out", "--rank", "x"], "--rank"),
        (["A", "-o", "out", "--rank", "0"], "'--rank': must be at least 1"),
        (["A", "-o", "out", "--energy", "95"], "give a fraction: --energy 0.95"),
        (["A", "-o", "out", "--energy", "1.5"], "--energy"),
        (["A", "-o", "out", "--reduction", "1"], "--reduction"),
        (["A", "-o", "out", "--reduction", "50"], "give a fraction: --reduction 0.5"),
        (["A", "-o", "out", "--max-params", "5"], "removes every module"),
        (["A", "-o", "out", "--suggested", "mean"], "--suggested"),
        (["A", "-o", "out", "--rank", "4", "--encoding", "zip"], "unknown encoding 'zip'"),
        (["A", "-o", "out", "--rank", "4", "--dtype", "float33"], "'float33'"),
        (["A", "-o", "out", "--rank", "4", "--allowed-ranks", "4,x"], "--allowed-ranks"),
        (["A", "-o", "A", "--rank", "4"], "the output is the adapter itself"),
        (["A", "-o", "A/smaller", "--rank", "4"], "the output is the adapter itself"),
        (["A", "-o", "out", "--plan", "plan.json", "--allowed-ranks", "2"], "--allowed-ranks"),
        (["A", "-o", "out", "--plan", "plan.json", "--rank", "2"], "--rank and --plan"),
        (["A", "-o", "out", "--plan", "another.json"], "for another adapter"),
        (["A", "-o", "out", "--plan", "too-high.json"], "rank 9 for"),
        (["A", "-o", "out", "--plan", "fewer.json"], "fewer.json: no rank for"),
        (["A", "-o", "out", "--plan", "more.json"], "more.json: lm_head is no module of the adapter"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_usage(arguments, words, adapter, tmp_path, monkeypatch, capsys, plans):
    monkeypatch.chdir(tmp_path)
    code, error = refused(
        capsys, tmp_path, *(word.replace("A", "adapter") if word[0] == "A" else word for word in arguments)
    )
    assert code == 2
    assert words in error


@pytest.fixture
def plans(adapter, tmp_path, command):
    """A plan of the adapter, and plans that do not fit it."""
    good = json.loads(command("compress", adapter, "--rank", "4", "--dry-run", "--json").out)
    variants = {
        name: json.loads(json.dumps(good)) for name in ("plan", "another", "too-high", "fewer", "more")
    }
    variants["another"]["adapter_sha256"] = "0" * 64
    variants["too-high"]["modules"][3]["new_rank"] = 9
    variants["fewer"]["modules"].pop()
    variants["more"]["modules"].append(good["modules"][0] | {"name": "lm_head"})
    for name, content in variants.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path
