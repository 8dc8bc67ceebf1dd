"""`gradience evidence`, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from killing import HANGS

from gradience.cli.app import run
from gradience.reports.evidence import EvidenceReport

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ROOT / "docs" / "schemas" / "evidence.schema.json"
LOGS = ROOT / "tests" / "evidence" / "logs" / "lm_eval"


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
        (FEW, (), 0),
        (WORSE, (), 0),
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
def test_exit_codes(tmp_path, capsys, cells, required, code):
    assert run(["evidence", *tables(tmp_path, *cells), *required]) == code
    shown = capsys.readouterr()
    assert bool(shown.out) == (code != 2)


def test_the_screen_is_made_from_the_json(tmp_path, capsys):
    words = ["evidence", *tables(tmp_path, *FEW)]
    assert run(words) == 0
    screen = capsys.readouterr().out
    assert run([*words, "--json"]) == 0
    printed = capsys.readouterr().out
    jsonschema.validate(json.loads(printed), json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert printed.count("\n") == 1
    assert screen == EvidenceReport.model_validate_json(printed).to_text()
    assert run([*words, "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_no_folder_of_the_machine_is_in_the_json(tmp_path, capsys):
    paths = tables(tmp_path, *FEW)
    assert run(["evidence", *paths, "--json"]) == 0
    assert str(tmp_path) not in capsys.readouterr().out


def test_two_logs_of_lm_eval_in_a_process_of_their_own():
    """Neither torch nor anything of a model is loaded."""
    paths = [str(path) for side in "ab" for path in (LOGS / side).glob("samples_sums_*")]
    words = ["evidence", *paths, "--filter", "strict-match", "--margin", "5", "--flips", "1"]
    heavy = {"torch", "transformers", "peft", "datasets", "pandas"}
    code = (
        "import sys; from gradience.cli.app import run\n"
        f"assert run({words!r}) == 0\n"
        "assert 'scipy' in sys.modules\n"
        f"assert not {heavy} & {{m.partition('.')[0] for m in sys.modules}}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "score  sums · exact_match · strict-match · 24 examples" in done.stdout
    assert "… 2 more examples: --flips N" in done.stdout
    assert "grade C: neither shown" in done.stdout


def test_without_scipy_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    assert run(["evidence", *tables(tmp_path, *FEW)]) == 2
    said = capsys.readouterr().err
    assert "scipy is not installed" in said
    assert 'pip install ".[stats]"' in said


def test_logs_that_do_not_fit_end_with_3(tmp_path, capsys):
    paths = tables(tmp_path, *FEW)
    (tmp_path / "b.csv").write_text("id,score\nq0,1\nq1,1\n")
    assert run(["evidence", *paths, "--require-grade", "B"]) == 3
    assert "198 examples only in" in capsys.readouterr().err
