"""`gradience monitor` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gradience.cli.app import run
from gradience.telemetry import RunStatus, TelemetryWriter

RUNS = Path(__file__).parent / "runs"
GOOD, NAN = str(RUNS / "good.jsonl"), str(RUNS / "nan.jsonl")


def test_the_first_screen(capsys):
    assert run(["monitor", GOOD]) == 0
    out = capsys.readouterr().out
    for part in ("finished", "Loss", "Evaluation", "gap to training", "Use of rank", "Alerts"):
        assert part in out


def test_verbose_adds_evidence_and_sources(capsys):
    run(["monitor", NAN])
    brief = capsys.readouterr().out
    run(["monitor", NAN, "--verbose"])
    full = capsys.readouterr().out
    assert "source:" in full
    assert "source:" not in brief
    assert "attention.self.query" in full


def test_json_is_the_artifact(capsys):
    assert run(["monitor", GOOD, NAN, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "gradience.monitor/1"
    assert [r["outcome"] for r in report["runs"]] == ["ok", "ok"]


def test_several_files_begin_with_a_table(capsys):
    run(["monitor", GOOD, NAN])
    first = capsys.readouterr().out.splitlines()[:3]
    assert first[0].split()[:3] == ["run", "outcome", "steps"]
    assert "✗1" in first[2]


@pytest.mark.parametrize(
    ("file", "fail_on", "code"),
    [(GOOD, "error", 0), (GOOD, "warning", 0), (NAN, "error", 1), (NAN, "warning", 1), (NAN, None, 0)],
)
def test_fail_on(file, fail_on, code, capsys):
    assert run(["monitor", file, *(["--fail-on", fail_on] if fail_on else [])]) == code


@pytest.mark.parametrize(
    ("arguments", "code"),
    [([], 2), (["nowhere.jsonl"], 3), ([GOOD, "--gap-threshold", "0.5"], 2), ([GOOD, NAN, "--follow"], 2)],
    ids=["nothing", "missing", "threshold", "follow two"],
)
def test_exit_codes_of_what_cannot_be_done(arguments, code, capsys):
    assert run(["monitor", *arguments]) == code


def test_follow_prints_again_and_ends_with_the_run(tmp_path):
    path = tmp_path / "run.jsonl"
    log = TelemetryWriter(path)
    log.start({})
    log.train_step(1, loss=1.0)
    child = subprocess.Popen(
        [sys.executable, "-m", "gradience", "monitor", str(path), "--follow", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    first = json.loads(child.stdout.readline())
    log.train_step(2, loss=0.5)
    log.end(RunStatus.OK, step=2)
    log.close()
    rest, _ = child.communicate()  # it ends by itself: the run has
    assert child.returncode == 0
    assert first["runs"][0]["outcome"] == "unfinished"
    assert json.loads(rest.splitlines()[-1])["runs"][0]["last_step"] == 2


def test_an_audit_is_appended_to_the_run_and_shown(tmp_path, capsys):
    from tests.live.tiny import give_random_factors, lora_llama

    give_random_factors(lora_llama()).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "run.jsonl"
    path.write_bytes((RUNS / "crashed.jsonl").read_bytes())
    last = path.read_text().splitlines()[-1]
    assert run(["audit", str(tmp_path / "adapter"), "--append", str(path), "--quiet"]) == 0
    record = json.loads(path.read_text().splitlines()[-1])
    assert (record["event"], record["kind"]) == ("metrics", "lora_audit")
    assert record["run_id"] == json.loads(last)["run_id"]
    assert record["metrics"]["n_layers"] == 14
    assert record["metrics"]["suggested_r_global_90"] >= 1
    capsys.readouterr()
    run(["monitor", str(path)])
    out = capsys.readouterr().out
    assert "Audits" in out
    assert f"suggests rank {record['metrics']['suggested_r_global_90']}" in out
    assert run(["audit", str(tmp_path / "adapter"), "--append", str(tmp_path / "none.jsonl")]) == 2
