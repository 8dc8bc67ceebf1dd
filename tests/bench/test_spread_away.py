"""A storage that cannot be reached for a while, by who coordinates a run or by who makes a stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from spread_here import Here, runner_over, write_config

from gradience.artifacts.stage_spec import StageFailure
from gradience.bench.run.places import SHARED, failure_name
from gradience.errors import NetworkError
from gradience.executors.executor import FAILED, Ended
from gradience.storage.place import Place


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory)


@pytest.fixture
def spread_over(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return runner_over(config_file, monkeypatch)


class Interrupted(Here):
    """After each stage the storage cannot be reached for a while by who coordinates."""

    left = 0

    def ended(self, seconds: float) -> list[Ended]:
        self.left = 0
        ended = super().ended(seconds)
        self.left = 2 if ended else 0
        return ended


def cut_off(here: Interrupted, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Place.read

    def answer(self: Place, name: str) -> bytes | None:
        if here.left > 0:
            here.left -= 1
            raise NetworkError("the storage cannot be reached", code="storage-connection")
        return read(self, name)

    monkeypatch.setattr(Place, "read", answer)


def statuses(output: Path) -> set[str]:
    """Of the variants of a run of one seed."""
    return {row["status"] for row in json.loads((output / "bench.json").read_text())["variants"]}


def test_a_storage_that_is_away_for_a_while_is_waited_for(spread_over, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIENCE_SCRATCH", str(tmp_path / "scratch"))
    here = Interrupted()
    cut_off(here, monkeypatch)
    watcher = spread_over(here, tmp_path / "out", "seeds=[1]", f"runtime.storage=file://{tmp_path}/storage")
    assert "ERROR" not in statuses(tmp_path / "out")
    assert set(here.done.values()) == {1}
    assert "the storage is away: the storage cannot be reached" in watcher.notes


def test_a_storage_that_stays_away_ends_the_run(spread_over, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIENCE_SCRATCH", str(tmp_path / "scratch"))
    here = Interrupted()
    cut_off(here, monkeypatch)
    monkeypatch.setattr(here, "ended", lambda seconds: setattr(here, "left", 1000) or [])
    given = ["runtime.heartbeat=0.05", "runtime.takeover=0.5"]
    with pytest.raises(NetworkError, match="cannot be reached"):
        spread_over(here, tmp_path / "out", f"runtime.storage=file://{tmp_path}/storage", *given)


def test_a_worker_that_could_not_reach_the_storage_is_tried_again(spread_over, tmp_path):
    def plot(name, times):
        if name != "1/audit" or times > 1:
            return None
        said = StageFailure(stage="audit", seed=1, kind="NetworkError", message="no connection")
        shared = tmp_path / "out" / SHARED / failure_name(1, "audit")
        shared.parent.mkdir(parents=True, exist_ok=True)
        said.save(shared)
        return FAILED

    watcher = spread_over(Here(plot), tmp_path / "out", "seeds=[1]")
    assert "ERROR" not in statuses(tmp_path / "out")
    assert "audit: tried again: no connection" in "".join(watcher.notes)
