"""Stages beside each other on a machine with several GPUs, which are mocked: real processes say which they see."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from gradience.bench.run import processes
from gradience.bench.run.orders import StageFailure, StageOrder
from gradience.bench.run.processes import Processes
from gradience.errors import InputError, UsageError
from gradience.models.devices import VISIBLE, devices_of

HANGS = 60.0
"""Seconds after which a test is given up; nothing waits for so long."""


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have so many GPUs, as far as they can be had without one."""

    def have(count: int, visible: str | None = None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.delenv(VISIBLE, raising=False)
        if visible is not None:
            monkeypatch.setenv(VISIBLE, visible)

    return have


class Machine:
    """Processes that say which GPUs they see, and end when they are let go."""

    def __init__(self, folder: Path, device: str = "auto", workers: int | None = None) -> None:
        self.folder, self.notes = folder, list[str]()
        self.processes = Processes(device, workers, self.notes.append)

    def submit(self, name: str, gpus: int) -> bool:
        return self.processes.submit(StageOrder({}, "", 1, name, "", ()), self.folder, gpus)

    def seen(self, name: str) -> list[str]:
        """The GPUs that a running process was given."""
        file, until = self.folder / f"{name}.seen", time.monotonic() + HANGS
        while not file.exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        text = file.read_text()
        return text.split(",") if text else []

    @property
    def running(self) -> dict[str, subprocess.Popen[bytes]]:
        return {each.order.stage: each.process for each in self.processes.running}

    def ended(self) -> list[tuple[str, StageFailure | None]]:
        return [(order.stage, failure) for order, failure in self.processes.ended()]

    def let_go(self, name: str) -> None:
        (self.folder / f"{name}.go").touch()
        assert self.ended() == [(name, None)]


SCRIPT = (
    f'printf "%s" "${{{VISIBLE}-all}}" > "$0/$1.part"; mv "$0/$1.part" "$0/$1.seen"; echo "hello from $1" >&2;'
    ' until [ -e "$0/$1.go" ]; do sleep 0.01; done'
)


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Machine]]:
    begun: list[Machine] = []
    monkeypatch.setattr(processes, "WORKER", ("sh", "-c", SCRIPT))

    def one(**settings: Any) -> Machine:
        begun.append(Machine(tmp_path, **settings))
        return begun[-1]

    yield one
    for each in begun:
        each.processes.close()


def test_a_stage_gets_as_many_gpus_as_it_needs_and_nobody_shares_them(begin: Any, gpus: Any) -> None:
    gpus(8)
    machine = begin()
    wanted = {"a": 2, "b": 1, "c": 4, "d": 1}
    assert all(machine.submit(name, count) for name, count in wanted.items())
    seen = {name: machine.seen(name) for name in wanted}
    assert {name: len(given) for name, given in seen.items()} == wanted
    assert sorted(each for given in seen.values() for each in given) == [str(n) for n in range(8)]


def test_a_killed_process_is_started_again_twice(begin: Any, gpus: Any) -> None:
    gpus(2)
    machine = begin()
    machine.submit("b", 1)
    machine.submit("a", 1)
    for _ in range(processes.ATTEMPTS - 1):
        (machine.folder / "a.seen").unlink(missing_ok=True)
        killed = machine.running["a"]
        killed.kill()
        killed.wait()
        (machine.folder / "b.go").touch()
        machine.ended()
        assert machine.seen("a") == ["1"]
        (machine.folder / "b.go").unlink()
        machine.submit("b", 1)
    machine.running["a"].kill()
    (_, failure), *_ = machine.ended()
    log = machine.folder / processes.LOGS / "a.log"
    assert failure == StageFailure("ProcessEnded", f"its process ended with -9 ({log} has its output)")
    assert "hello from a" in log.read_text()
    assert [note.partition(" (")[0] for note in machine.notes] == [
        "a: tried again: its process ended with -9"
    ] * 2


def test_a_failure_comes_back_and_a_bug_is_not_tried_again(
    begin: Any, gpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(0)
    machine = begin(workers=2)
    failure = StageFailure(
        "InputError", "no rows", "no-rows", "give some", ("Traceback", "InputError: no rows")
    )
    for name, script in {"a": f"printf '%s' '{json.dumps(asdict(failure))}'", "b": "exit 1"}.items():
        monkeypatch.setattr(processes, "WORKER", ("sh", "-c", script))
        machine.submit(name, 0)
    ended = dict(machine.ended())
    ended |= dict(machine.ended())
    assert ended["a"] == failure
    assert str(ended["a"].error()) == "no rows"
    assert isinstance(ended["a"].error(), InputError)
    assert ended["b"].message.startswith("its process ended with 1 (")
    assert machine.notes == []


@pytest.mark.parametrize("device", ["auto", "cuda:1"])
def test_a_stage_that_there_will_never_be_gpus_for_is_refused(begin: Any, gpus: Any, device: str) -> None:
    gpus(2)
    machine = begin(device=device)
    most = len(machine.processes.devices)
    with pytest.raises(UsageError, match=f"large needs 3 GPUs, and this machine has {most} GPU") as error:
        machine.submit("large", 3)
    assert (error.value.code, error.value.exit_code) == ("too-few-gpus", 2)
    machine.submit("small", 1)
    assert machine.seen("small") == ["1" if device == "cuda:1" else "0"]


@pytest.mark.parametrize("device", ["auto", "cpu", "mps"])
def test_without_gpus_workers_share_the_processor(begin: Any, gpus: Any, device: str) -> None:
    gpus(0 if device == "auto" else 8)
    machine = begin(device=device, workers=2)
    assert [machine.submit(name, 2) for name in "abc"] == [True, True, False]
    assert machine.seen("a") == ["all"]  # the variable is left alone


@pytest.mark.parametrize(
    ("count", "visible", "device", "names"),
    [
        (3, None, "auto", ["0", "1", "2"]),
        (2, "2, 5", "cuda", ["2", "5"]),
        (2, "2,5", "cuda:1", ["5"]),
        (2, "GPU-8932f937,GPU-1b2c", "auto", ["GPU-8932f937", "GPU-1b2c"]),
        (1, "MIG-4a,", "auto", ["MIG-4a"]),
        (1, "3,-1,4", "auto", ["3"]),
        (0, "", "auto", []),
        (4, "0,1,2,3", "cpu", []),
        (4, None, "mps", []),
    ],
    ids=["all", "some", "one of some", "uuids", "mig", "behind none", "hidden", "cpu", "mps"],
)
def test_gpus_have_the_names_that_cuda_gives_them(
    gpus: Any, count: int, visible: str | None, device: str, names: list[str]
) -> None:
    gpus(count, visible)
    assert list(devices_of(device)) == names


def test_what_is_closed_ends_its_processes(begin: Any, gpus: Any) -> None:
    gpus(0)
    machine = begin(workers=1)
    machine.submit("a", 0)
    machine.seen("a")
    process = machine.running["a"]
    machine.processes.close()
    assert process.returncode == -15
