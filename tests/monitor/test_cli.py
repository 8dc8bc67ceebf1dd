"""`gradience monitor` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pseudo_terminal import drawing

from gradience.cli.app import run
from gradience.telemetry import RunStatus, TelemetryWriter
from tests.monitor.terminal import Terminal

RUNS = Path(__file__).parent / "runs"
GOOD, NAN = str(RUNS / "good.jsonl"), str(RUNS / "nan.jsonl")


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
    assert report["schema"] == "gradience.monitor/2"
    assert [r["outcome"] for r in report["runs"]] == ["ok", "ok"]


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


ROWS, COLUMNS = 8, 90


@pytest.fixture
def followed(tmp_path):
    """A run that goes on, `gradience monitor --follow` on a real pseudo-terminal, and what that shows."""
    path = tmp_path / "run.jsonl"
    log = TelemetryWriter(path)
    log.start({})
    log.train_step(1, loss=4.0)
    command = [sys.executable, "-m", "gradience", "monitor", str(path), "--follow"]
    with drawing(command, Terminal(ROWS), rows=ROWS, columns=COLUMNS) as shown:
        yield log, shown
    log.close()


def headings(screen):
    return sum(line.startswith("Loss") for line in screen)


def test_follow_redraws_in_place_and_leaves_one_report_behind(followed):
    log, shown = followed
    terminal, until = shown.terminal, shown.until
    for step in (2, 3):
        until(lambda: any(f"{step - 1} step" in line for line in terminal.other))  # noqa: B023
        assert terminal.on_other
        assert headings(terminal.other) == 1
        assert "".join(terminal.main) == ""  # nothing stacks behind it
        log.train_step(step, loss=4.0 / step)
    until(lambda: any("3 step" in line for line in terminal.other))
    assert "more lines" in terminal.other[-1]  # 8 rows are too few for all of it
    log.end(RunStatus.OK, step=3)
    until()
    assert shown.process.returncode == 0
    assert not terminal.on_other
    assert headings(terminal.main) == 1
    assert "finished" in "".join(terminal.main[:2])  # below the file's name where that is long


def test_ctrl_c_ends_following_with_the_report_as_it_is(followed):
    _, shown = followed
    terminal, until = shown.terminal, shown.until
    until(lambda: any("1 step" in line for line in terminal.other))
    shown.press(b"\x03")
    until()
    assert shown.process.returncode == 130
    assert not terminal.on_other
    assert headings(terminal.main) == 1


def test_strict_schema_refuses_what_is_otherwise_skipped(tmp_path, capsys):
    path = tmp_path / "run.jsonl"
    path.write_text((RUNS / "good.jsonl").read_text() + "not json\n{}\n")
    assert run(["monitor", str(path)]) == 0
    assert run(["monitor", GOOD, "--strict-schema"]) == 0
    capsys.readouterr()
    assert run(["monitor", str(path), "--strict-schema"]) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "not JSON" in shown.err
    assert "(2 such lines)" in shown.err


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


def test_an_audit_is_appended_to_no_file_that_is_no_run(tmp_path, capsys):
    """A mistyped name, or a link that leads elsewhere, must not gain a line."""
    from tests.adapters.factory import adapter, modules

    other, link = tmp_path / "notes.txt", tmp_path / "run.jsonl"
    other.write_text("root:x:0:0\n")
    link.symlink_to(other)
    folder = adapter(tmp_path / "adapter", modules())
    for path in (other, link):
        assert run(["audit", str(folder), "--append", str(path), "--output", str(tmp_path / "a.json")]) == 3
        assert f"{path}: contains no telemetry records" in capsys.readouterr().err
    assert other.read_text() == "root:x:0:0\n"
    assert not (tmp_path / "a.json").exists()
    (tmp_path / "empty.jsonl").touch()
    assert run(["audit", str(folder), "--append", str(tmp_path / "empty.jsonl"), "--quiet"]) == 0
