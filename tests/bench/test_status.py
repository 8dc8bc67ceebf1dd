"""How far a run is, seen from outside: while it runs, when it was killed, where a stage failed, and over a storage."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bench_process import start, write_inputs
from killing import HANGS
from pseudo_terminal import drawing
from spread_here import SECTIONS, Here, Silent

from gradience.artifacts.bench_status import BenchStatus, StageStatus, StageWorker
from gradience.bench.config.load import load_config
from gradience.bench.plan.graph import StageNode
from gradience.bench.run import spread
from gradience.bench.run.bench import run_bench
from gradience.bench.run.one import do_stage, read_spec
from gradience.bench.run.places import place_of
from gradience.bench.status.left import seconds_left
from gradience.bench.status.look import look
from gradience.cli.app import run
from gradience.executors.executor import FAILED
from gradience.report.bench_status import changes, status_text
from gradience.report.faces import to_markdown
from gradience.storage.lease import claim
from tests.monitor.terminal import Terminal

COLOUR = re.compile(r"\x1b\[[0-9;]*[1-9][0-9;]*m")
"""A sequence that changes how text looks."""


def stage_of(status: BenchStatus, seed: int, name: str) -> StageStatus:
    return {(number, stage.name): stage for number, stage in status.stages}[seed, name]


def listing(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def until(condition: Any) -> Any:
    """What the condition gives, once it gives something."""
    end = time.monotonic() + HANGS
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError("it never came")


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"), **SECTIONS)


def test_a_run_in_one_process_while_it_runs_and_after_a_kill(config_file, tmp_path):
    output = tmp_path / "out"
    process = start(config_file, output, "train.max_steps=1000000")
    watching = None
    try:
        until(lambda: (output / "plan.json").is_file() and (output / "config.yaml").is_file())
        status = until(
            lambda: _if(look(output), lambda seen: stage_of(seen, 1, "probe/train").state == "running")
        )
        stage = stage_of(status, 1, "probe/train")
        assert (status.state, stage.worker.pid, stage.worker.alive) == ("going on", process.pid, True)
        assert stage_of(status, 2, "uniform_median/train").state == "waiting"
        assert status.left_unknown == "no training and no evaluation has finished"
        counted = until(lambda: _if(look(output), lambda seen: stage_of(seen, 1, "probe/train").worker.done))
        assert stage_of(counted, 1, "probe/train").worker.of == 1_000_000
        watching = subprocess.Popen(
            [sys.executable, "-m", "gradience", "bench", "status", str(output), "--watch"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert "1 running; running; time left: not known yet" in watching.stdout.readline()
        assert (
            f"seed 1 probe/train: running on {stage.worker.host}, pid {process.pid}"
            in watching.stdout.readline()
        )
        process.kill()
        process.communicate()
        gone = look(output)
        assert gone.state == "stopped"
        assert stage_of(gone, 1, "probe/train").state == "waiting"
        assert "no process at work" in watching.stdout.readline()
        assert "seed 1 probe/train: waiting again" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        assert watching.wait(HANGS) == 130
    finally:
        for each in (process, watching):
            if each is not None:
                each.kill()
                each.communicate()


def _if(value: Any, holds: Any) -> Any:
    return value if holds(value) else None


def test_a_finished_run_in_which_a_variant_failed(config_file, tmp_path, monkeypatch, capsys):
    from gradience.bench.run import seed

    def breaks(task: Any, *, output: Path, **arguments: Any) -> Any:
        if output.parent.name == "uniform_median" and "seed_2" in str(output):
            raise RuntimeError("the card fell off the bus")
        return trains(task, output=output, **arguments)

    trains = seed.train
    monkeypatch.setattr(seed, "train", breaks)
    output = tmp_path / "out"
    run_bench(load_config(config_file), output, Silent(), page_of=to_markdown)
    before = listing(output)
    status = look(output)
    assert listing(output) == before
    assert (status.state, status.seconds_left) == ("finished", 0)
    failed = stage_of(status, 2, "uniform_median/train")
    assert (failed.state, failed.message) == ("failed", "RuntimeError: the card fell off the bus")
    assert any("in breaks" in line for line in failed.log)
    assert (2, "uniform_median/eval") not in {(number, stage.name) for number, stage in status.stages}
    assert {stage.state for number, stage in status.stages if number == 1} == {"done"}
    shown = status_text(status)
    assert "the card fell off the bus" in shown
    assert "in breaks" in shown
    assert run(["bench", "status", str(output), "--watch", "--json"]) == 0  # it ends at once: the run has
    assert json.loads(capsys.readouterr().out)["state"] == "finished"


class _Stopped(Exception):
    """The run is broken off from within."""


@pytest.fixture(scope="module")
def broken_off(config_file, tmp_path_factory):
    """A run over a storage that was broken off at a training, and the spec of that."""
    folder = tmp_path_factory.mktemp("broken off")

    def stops(name: str, times: int) -> None:
        if name == "1/uniform_median/train":
            raise _Stopped

    here = Here(stops)
    config = load_config(config_file, ["runtime.workers=2", f"runtime.storage=file://{folder}/storage"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIENCE_SCRATCH", str(folder / "scratch"))
        patch.setattr(spread, "executor", lambda name, order: here)
        with pytest.raises(_Stopped):
            run_bench(config, folder / "out", Silent(), page_of=to_markdown)
    spec = next(job.command[-1] for job in here.seen if job.name == "1/uniform_median/train")
    return folder / "out", read_spec(spec)


def test_who_holds_a_lease_in_the_storage_runs_a_stage(broken_off):
    output, spec = broken_off
    before = look(output)
    assert (before.state, before.storage) == ("stopped", spec.storage)
    assert stage_of(before, 1, "uniform_median/train").state == "waiting"
    lease = claim(place_of(spec.storage, spec.plan_digest), f"leases/1/{spec.stage}")
    files = listing(Path(spec.storage.removeprefix("file://")))
    status = look(output)
    assert listing(Path(spec.storage.removeprefix("file://"))) == files
    stage = stage_of(status, 1, "uniform_median/train")
    assert (status.state, stage.state, stage.worker.pid) == ("going on", "running", os.getpid())
    assert any(
        f"running on {stage.worker.host}, pid {os.getpid()}" in line for line in changes(before, status)
    )
    lease.release()
    assert look(output).state == "stopped"


def test_a_stage_that_failed_elsewhere_says_why_until_it_is_handed_in_again(broken_off):
    output, spec = broken_off
    assert do_stage(spec.model_copy(update={"key": "0" * 64})) == FAILED
    failed = stage_of(look(output), 1, "uniform_median/train")
    assert failed.state == "failed"
    assert "others on this machine" in failed.message
    assert failed.log
    place_of(spec.storage, spec.plan_digest).write(f"specs/1/{spec.stage}.json", spec.to_json().encode())
    assert stage_of(look(output), 1, "uniform_median/train").state == "waiting"


def watched(output: Path, terminal: Terminal, columns: int, **environment: str) -> Any:
    command = [sys.executable, "-m", "gradience", "bench", "status", str(output), "--watch"]
    return drawing(command, terminal, rows=terminal.rows, columns=columns, **environment)


def titles(screen: list[str]) -> int:
    return sum(line.strip() == "Stages" for line in screen)


def test_on_a_terminal_the_status_is_drawn_in_place_at_its_size_and_left_behind_by_ctrl_c(broken_off):
    output, spec = broken_off
    with watched(output, Terminal(60), 110) as shown:
        terminal = shown.terminal
        shown.until(lambda: any("no process at work" in line for line in terminal.other))
        assert (terminal.on_other, titles(terminal.other), "".join(terminal.main)) == (True, 1, "")
        lease = claim(place_of(spec.storage, spec.plan_digest), f"leases/1/{spec.stage}")
        shown.until(lambda: any(f"{os.getpid()}" in line for line in terminal.other))
        assert titles(terminal.other) == 1
        shown.resize(12, 70)
        shown.until(lambda: "more lines" in terminal.other[-1])
        assert len(terminal.other) == 12
        assert max(map(len, terminal.other)) <= 70
        lease.release()
        shown.resize(60, 110)
        shown.until(lambda: "more lines" not in terminal.other[-1] and titles(terminal.other) == 1)
        shown.press(b"\x03")
        shown.until()
        assert shown.process.returncode == 130
        assert (terminal.on_other, titles(terminal.main)) == (False, 1)
        assert "Traceback" not in shown.drawn
        assert COLOUR.search(shown.drawn)


def test_without_colour_where_the_reader_wants_none(broken_off):
    output, _ = broken_off
    with watched(output, Terminal(60), 110, NO_COLOR="1") as shown:
        shown.until(lambda: titles(shown.terminal.other) == 1)
        shown.press(b"\x03")
        shown.until()
        assert shown.process.returncode == 130
        assert titles(shown.terminal.main) == 1
        assert not COLOUR.search(shown.drawn)


def test_a_terminal_that_cannot_redraw_gets_lines(broken_off):
    output, _ = broken_off
    with watched(output, Terminal(60), 110, TERM="dumb") as shown:
        shown.until(lambda: any("no process at work" in line for line in shown.terminal.main))
        assert "\x1b[?1049h" not in shown.drawn
        shown.press(b"\x03")
        shown.until()
        assert shown.process.returncode == 130


def test_a_folder_that_holds_no_run(tmp_path, capsys):
    assert run(["bench", "status", str(tmp_path)]) == 3
    assert "no plan.json" in capsys.readouterr().err


NOW = datetime(2026, 11, 27, tzinfo=UTC)


def running(seconds: float, done: int | None = None, of: int | None = None) -> StageWorker:
    since = NOW - timedelta(seconds=seconds)
    return StageWorker(host="a", pid=1, since=since, seen=NOW, alive=True, done=done, of=of)


def seen(name: str, kind: Any, state: Any, *after: str, **more: Any) -> tuple[StageNode, StageStatus]:
    return StageNode(name, kind, after), StageStatus(name=name, state=state, **more)


def test_time_left_is_what_finished_stages_took():
    stages = [
        seen("probe/train", "training", "done", seconds=100),
        seen("probe/eval", "evaluation", "done", "probe/train", seconds=10),
        seen("audit", "audit", "waiting", "probe/eval"),
        seen("a/train", "training", "running", "audit", worker=running(30)),
        seen("a/eval", "evaluation", "waiting", "a/train"),
        seen("b/train", "training", "waiting", "audit"),
        seen("b/eval", "evaluation", "waiting", "b/train"),
    ]
    assert seconds_left({1: stages}, 1, NOW) == (70 + 100 + 10 + 10, "")
    assert seconds_left({1: stages}, 2, NOW) == (100 + 10, "")


def test_time_left_counts_the_start_of_a_process_for_each_stage_that_has_not_begun():
    stages = [
        seen("probe/train", "training", "done", seconds=100, starting_seconds=6),
        seen("probe/eval", "evaluation", "done", "probe/train", seconds=10, starting_seconds=8),
        seen("a/train", "training", "running", "probe/eval", worker=running(30)),
        seen("a/eval", "evaluation", "waiting", "a/train"),
    ]
    assert seconds_left({1: stages}, 1, NOW) == (70 + 7 + 10, "")


def test_time_left_goes_by_steps_where_nothing_has_finished_and_not_beyond_a_failure():
    stages = [seen("probe/train", "training", "running", worker=running(30, 3, 9))]
    assert seconds_left({1: stages}, 1, NOW) == (60, "")
    later = [*stages, seen("probe/eval", "evaluation", "waiting", "probe/train")]
    assert seconds_left({1: later}, 1, NOW) == (None, "no evaluation has finished")
    failed = [seen("probe/train", "training", "failed"), later[1]]
    assert seconds_left({1: failed}, 1, NOW) == (0, "")
