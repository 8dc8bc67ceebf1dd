"""`gradience compare`, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from killing import HANGS

from gradience import compress_adapter
from gradience.cli.app import run
from gradience.cli.demo import example_adapter
from gradience.reports.comparison import ComparisonReport
from gradience.reports.compression import CompressionReport

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "schemas" / "comparison.schema.json"


def compare(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "gradience", "compare", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        timeout=HANGS,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def smaller(tmp_path_factory):
    """The bundled adapter at rank 3."""
    output = tmp_path_factory.mktemp("compare") / "smaller"
    compress_adapter(example_adapter(), output, rank=3)
    return output


def test_the_screen_is_made_from_the_json(smaller):
    screen, printed = compare(example_adapter(), smaller), compare(example_adapter(), smaller, "--json")
    assert (screen.returncode, screen.stderr, printed.returncode, printed.stderr) == (0, "", 0, "")
    jsonschema.validate(json.loads(printed.stdout), json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert printed.stdout.count("\n") == 1
    report = ComparisonReport.model_validate_json(printed.stdout)
    assert screen.stdout == report.to_text()
    assert report.run.command == f"gradience compare {example_adapter().name} {smaller.name} --json"


def test_compress_and_compare_say_the_same(smaller, capsys):
    assert run(["compare", str(example_adapter()), str(smaller), "--json"]) == 0
    comparison = ComparisonReport.model_validate_json(capsys.readouterr().out)
    compression = CompressionReport.read(smaller / "compression_report.json")
    assert comparison.relative_difference == pytest.approx(compression.measured_error, rel=1e-6)
    errors = {row.name: row.measured_error for row in compression.modules}
    assert {row.name: row.relative_difference for row in comparison.modules} == pytest.approx(
        errors, rel=1e-6
    )
    assert comparison.replicates.verdict == "truncation"


def test_an_adapter_is_itself(capsys):
    adapter = str(example_adapter())
    assert run(["compare", adapter, adapter, "--layers"]) == 0
    text = capsys.readouterr().out
    assert "16 modules in both\n" in text
    assert re.search(r"difference +0 ", text)
    assert re.search(r"cosine +1.00 ", text)
    assert len([line for line in text.splitlines() if line.startswith("  bert.encoder.layer.")]) == 16


def test_quiet_says_nothing(smaller, capsys):
    assert run(["compare", str(example_adapter()), str(smaller), "-q"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (lambda folder: shutil.rmtree(folder), 3, "no such file"),
        (lambda folder: (folder / "adapter_config.json").unlink(), 3, "is unknown: no config beside it"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 100), 3, "safetensors"),
    ],
    ids=["absent", "no-config", "broken"],
)
def test_trouble(spoil, code, words, tmp_path, capsys):
    other = Path(shutil.copytree(example_adapter(), tmp_path / "other"))
    spoil(other)
    assert run(["compare", str(example_adapter()), str(other)]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert "\n\nhint: " in captured.err


def test_one_adapter_is_not_enough(capsys):
    assert run(["compare", str(example_adapter())]) == 2
    assert "Missing argument" in capsys.readouterr().err


def test_a_path_that_is_no_utf_8(tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    shutil.copytree(example_adapter(), odd)
    done = compare(odd, example_adapter(), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["path_a"].endswith("caf\\xe9")
    assert "caf\\xe9" in compare(odd, example_adapter()).stdout
