"""Processes that are stopped and continued, and clocks that jump (R9)."""

from __future__ import annotations

import pytest

from gradience.monitor import monitor_runs
from gradience.reports.base.run import Stopwatch
from gradience.telemetry import TelemetryReader, TelemetryWriter
from hostile.crashing import answer_of
from hostile.figures import record

HOUR = 3600.0


@pytest.mark.hostile
def test_a_writer_stopped_while_another_one_writes_the_same(tmp_path):
    answer = answer_of("stopped", tmp_path, 60)
    assert answer["problems"] == []
    stops = sum(count for name, count in answer["tally"].items() if ":" not in name)
    record(
        "R9", "stopped while another writes, then continued", stops=stops, seconds=round(answer["seconds"])
    )


def test_a_writer_stopped_at_a_few_moments(tmp_path):
    answer = answer_of("stopped", tmp_path, 2)
    assert answer["problems"] == []
    assert answer["tally"]["stages: 0 6"] == 2


def test_a_clock_that_jumps_moves_no_duration(tmp_path, monkeypatch):
    """An hour back and forth, as when a machine's clock is set or the time zone of a naive clock changes."""
    jumps, label = iter([0.0, HOUR, -HOUR, 0.0, -50 * HOUR, 50 * HOUR, 0.0]), 1.8e9
    monkeypatch.setattr("time.time", lambda: label + next(jumps))
    watch = Stopwatch("audit")
    with TelemetryWriter(tmp_path / "run.jsonl") as run:
        run.start({"lora": {"r": 8}})
        for step in range(1, 6):
            run.train_step(step, loss=1.0 / step)
    monkeypatch.undo()
    records = list(TelemetryReader(tmp_path / "run.jsonl"))
    elapsed = [entry.number("elapsed_s") for entry in records if entry.event != "run_start"]
    assert elapsed == sorted(elapsed)
    assert 0 <= elapsed[0] <= elapsed[-1] < HOUR
    assert 0 <= watch.run_info().seconds < HOUR
    (report,) = monitor_runs([tmp_path / "run.jsonl"]).runs
    assert report.seconds is not None
    assert 0 <= report.seconds < HOUR
