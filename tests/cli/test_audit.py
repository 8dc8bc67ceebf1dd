"""`gradience audit`, as a user types it: what it prints, what it writes, and what it says when something is wrong."""

import json
import re
import shlex
import shutil

import ml_dtypes  # noqa: F401  (bfloat16 for numpy)
import numpy as np
import pytest
from factory import edit_config
from running import gradience
from safetensors.numpy import load_file, save_file

from gradience.cli import app, demo
from gradience.cli.demo import example_adapter
from gradience.reports.audit import AuditReport

MODULES = 16
"""Modules of the bundled adapter."""


def untrain(tensors):
    for key in tensors:
        if "lora_B" in key:
            tensors[key] = np.zeros_like(tensors[key])


def poison(tensors):
    key = next(key for key in tensors if "lora_A" in key)
    tensors[key] = np.full_like(tensors[key], np.nan)


def edit(adapter, change):
    """Rewrite the weights after `change(tensors)`."""
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_the_screen(adapter, command):
    done = gradience("audit", adapter)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Half of the {MODULES} modules keep 90 %" in done.stdout
    assert f"Next: gradience shrink {adapter} --data rows.jsonl" in " ".join(done.stdout.split())
    assert command("audit", "--peft-dir", adapter).out == done.stdout
    narrow = gradience("audit", adapter, environment={"PYTHONIOENCODING": "ascii"})
    assert narrow.stdout.isascii()
    assert [*map(len, narrow.stdout.splitlines())] == [*map(len, done.stdout.splitlines())]


def test_no_command_is_advised_that_would_refuse(adapter, command):
    (adapter / "adapter_config.json").unlink()
    shown = command("audit", adapter).out
    assert f"Next: gradience audit {adapter} --layers" in " ".join(shown.split())
    assert "gradience shrink" not in shown.partition("  Next: ")[2]


def test_output_holds_what_json_prints_and_replaces_nothing_unless_told(adapter, tmp_path, command):
    target = tmp_path / "audit.json"
    printed = command("audit", adapter, "--json", "--output", target).out
    assert json.loads(printed) == json.loads(target.read_text())
    target.write_text("precious")
    printed = command("audit", adapter, "--output", target, code=2)
    assert (printed.out, "--force" in printed.err, target.read_text()) == ("", True, "precious")
    command("audit", adapter, "--output", target, "--force", "--quiet")
    assert AuditReport.read(target).n_layers == MODULES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "audit.json"]


def test_tau_and_allowed_ranks_change_the_suggestion(adapter, command):
    default, other = (
        AuditReport.model_validate_json(command("audit", adapter, "--json", *more).out).suggestions
        for more in ((), ("--tau", "0.5", "--allowed-ranks", "3,5,8"))
    )
    assert (other.tau, other.allowed_ranks) == (0.5, (3, 5, 8))
    assert other.median.rank in (3, 5, 8)
    assert other.median.unrounded < default.median.unrounded


# ---------------------------------------------------------------- several adapters


def test_a_bad_one_among_several_does_not_hide_the_others(run_folder, adapter, tmp_path, command):
    edit(adapter, untrain)
    paths = [*run_folder.glob("checkpoint-*"), adapter, tmp_path / "nowhere"]
    for options in ([], ["--json"]):
        shown = command("audit", *paths, *options, code=4)
        assert "nowhere: no such file or folder" in shown.err
        assert "incomplete" in shown.err
        assert "checkpoint-200" in shown.out
    command("audit", *paths[:3], tmp_path / "nowhere", code=3)


# ---------------------------------------------------------------- trouble


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (untrain, f"incomplete: all {MODULES} modules are untrained"),
        (poison, f"NaN or infinity in 1 of {MODULES} modules"),
    ],
    ids=["untrained", "NaN"],
)
def test_what_was_not_measured_is_shown_and_exits_4(adapter, spoil, words, command):
    edit(adapter, spoil)
    shown = command("audit", adapter, "--layers", code=4)
    assert "Incomplete: " in shown.out
    assert words in shown.err
    assert command("audit", adapter, "--suggest-per-layer", code=4).out == ""


def test_a_refused_initialization_has_no_config_and_says_so(adapter, command):
    edit_config(adapter, init_lora_weights="pissa")
    command("audit", adapter)
    shown = command("audit", adapter, "--suggest-per-layer", code=4)
    assert (shown.out, "no rank is suggested" in shown.err) == ("", True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no adapter"),
        (["A", "--tau", "1.5"], "tau"),
        (["A", "--tau", "x"], "--tau"),
        (["A", "--allowed-ranks", "4,x"], "--allowed-ranks"),
        (["A", "--top-wasteful", "-1"], "--top-wasteful"),
        (["A", "--layers", "--suggest-per-layer"], "--suggest-per-layer"),
        (["A", "A", "--output", "x.json"], "--output"),
        (["A", "A", "--top-wasteful", "3"], "--top-wasteful"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_exit_2_and_print_no_result(adapter, arguments, words, command):
    shown = command("audit", *(adapter if word == "A" else word for word in arguments), code=2)
    assert shown.out == ""
    assert words in shown.err
    assert "hint: " in shown.err


# ---------------------------------------------------------------- `gradience compare`, as a user runs it


def test_an_adapter_is_itself(command):
    adapter = str(example_adapter())
    text = command("compare", adapter, adapter, "--layers").out
    assert "differ by 0 % of A's norm (cosine 1.00)" in text
    assert "16 in both\n" in text
    assert len([line for line in text.splitlines() if line.startswith("  bert.encoder.layer.")]) == 16


# ---------------------------------------------------------------- `gradience demo`: the audit of the bundled


def test_its_next_commands_can_be_typed(tmp_path, monkeypatch, capsys):
    """Also from a folder whose name has a space: the command is read as a shell reads it."""
    folder = tmp_path / "my tools"
    shutil.copytree(demo.example_adapter(), folder / "example")
    monkeypatch.setattr(demo, "example_adapter", lambda: folder / "example")
    monkeypatch.chdir(tmp_path)
    assert app.run(["demo"]) == 0
    screen = capsys.readouterr().out
    assert screen.startswith("$ gradience audit 'my tools/example'\n\nAudit of ")
    commands = re.findall("  (?:Next: )?(gradience .*)$", screen, re.MULTILINE)
    assert len(commands) == 4
    rows = [json.dumps({"text": f"review {place}", "label": place % 2}) for place in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    shutil.copytree(folder / "example", tmp_path / "your_adapter")
    for command in commands:
        if "shrink" in command:
            command += " --base-model embedded:minilm"
        if "audit" not in command and "help" not in command:
            command += " --dry-run"
        assert app.run(shlex.split(command)[1:]) == 0


# ---------------------------------------------------------------- `gradience evidence`, as a user runs it


def tables(folder, both, lost, gained, neither):
    a = [1] * (both + lost) + [0] * (gained + neither)
    b = [1] * both + [0] * lost + [1] * gained + [0] * neither
    for name, scores in (("a", a), ("b", b)):
        rows = "".join(f"q{number},{score}\n" for number, score in enumerate(scores))
        (folder / f"{name}.csv").write_text(f"id,score\n{rows}")
    return [str(folder / "a.csv"), str(folder / "b.csv")]


EQUAL, FEW, WORSE = (900, 10, 10, 80), (150, 12, 8, 30), (700, 120, 20, 160)


@pytest.mark.parametrize(
    ("cells", "required", "code"),
    [
        (EQUAL, (), 0),
        (FEW, (), 8),
        (WORSE, (), 1),
        (EQUAL, ("--require-grade", "B"), 0),
        (FEW, ("--require-grade", "B"), 8),
        (WORSE, ("--require-grade", "B"), 1),
        (EQUAL, ("--require-grade", "C"), 0),
        (FEW, ("--require-grade", "C"), 0),
        (WORSE, ("--require-grade", "C"), 1),
        (EQUAL, ("--require-grade", "A"), 2),
        (EQUAL, ("--flips", "-1"), 2),
    ],
)
def test_exit_codes(tmp_path, command, cells, required, code):
    shown = command("evidence", *tables(tmp_path, *cells), *required, code=code)
    assert bool(shown.out) == (code != 2)


def test_logs_that_do_not_fit_end_with_3(tmp_path, command):
    paths = tables(tmp_path, *FEW)
    (tmp_path / "b.csv").write_text("id,score\nq0,1\nq1,1\n")
    assert "198 examples only in" in command("evidence", *paths, "--require-grade", "B", code=3).err
