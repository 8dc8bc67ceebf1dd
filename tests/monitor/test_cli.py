"""`gradience monitor` as a user runs it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from pseudo_terminal import drawing

from gradience.cli.app import run
from gradience.cli.demo import example_adapter
from gradience.telemetry import RunStatus, TelemetryWriter
from tests.monitor.terminal import Terminal

RUNS = Path(__file__).parent / "runs"
GOOD, NAN = str(RUNS / "good.jsonl"), str(RUNS / "nan.jsonl")


def test_the_first_screen(capsys):
    assert run(["monitor", GOOD]) == 0
    out = capsys.readouterr().out
    for part in ("finished", "Loss", "Evaluation", "gap to training", "Use of rank", "Alerts"):
        assert part in out


def evaluation(screen):
    """The rows under the heading of the evaluation, by their labels."""
    rows = screen.partition("Evaluation")[2].splitlines()[2:]
    table = itertools.takewhile(lambda row: row.split()[:1] in (["best"], ["last"]), rows)
    return {row.split()[0]: row.split(maxsplit=1)[1] for row in table}


def test_a_loss_of_preferences_has_no_perplexity_and_no_threshold(capsys):
    """DPO's loss is no cross-entropy, and `memorization-gap` is not asked of it."""
    assert run(["monitor", str(RUNS / "dpo.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "gap to training  −0.0316\n" in out
    assert "2 evaluations on eval, the last is the best\n" in out
    assert evaluation(out)["last"].split()[:2] == ["40", "0.578"]
    assert "perplexity" not in out
    run(["monitor", str(RUNS / "sft.jsonl")])
    assert "nats (perplexity ratio 0.955, alert threshold 1.5)" in capsys.readouterr().out


def test_one_evaluation_stands_once(tmp_path, capsys):
    lines = (RUNS / "sft.jsonl").read_text().splitlines()
    evaluations = [text for text in lines if '"event":"eval"' in text.replace(" ", "")]
    kept = [text for text in lines if text not in evaluations[:-1]]
    (tmp_path / "run.jsonl").write_text("\n".join(kept) + "\n")
    assert run(["monitor", str(tmp_path / "run.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "1 evaluation on eval" in out
    assert list(evaluation(out)) == ["last"]
    assert evaluation(out)["last"].split()[:2] == ["60", "3.87"]


def test_modules_that_never_moved_have_no_k90_to_settle(capsys):
    assert run(["monitor", str(RUNS / "grpo_constant.jsonl")]) == 0
    assert "measured 4 times, steps 2 to 60; every ΔW is zero" in capsys.readouterr().out


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
    assert first[0].split()[-2:] == ["errors", "warnings"]
    assert first[2].split()[-2:] == ["1", "0"]


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


ROWS, COLUMNS = 12, 90


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
    assert "more lines" in terminal.other[-1]  # 12 rows are too few for all of it
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


DEEP = ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000,
        '{"run_id": "other", "step": 9, "x": ' + "[" * 60 + "]" * 60 + "}"]  # fmt: skip


@pytest.mark.parametrize("last", DEEP, ids=["lists", "mappings", "closed", "a record"])
def test_an_audit_is_appended_below_a_line_nested_too_deeply(tmp_path, last):
    path = tmp_path / "run.jsonl"
    before = '{"run_id": "mine", "step": 7}\n' + last + "\n"
    path.write_text(before)
    assert run(["audit", str(example_adapter()), "--append", str(path), "--quiet"]) == 0
    after = path.read_text()
    assert after.startswith(before)
    record = json.loads(after.splitlines()[-1])
    assert (record["run_id"], record["step"], record["kind"]) == ("mine", 7, "lora_audit")


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
