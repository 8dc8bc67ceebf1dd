"""Commands beside each other on a machine with several GPUs, which are mocked: real processes say which they see."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gradience.artifacts.stage_spec import StageNeeds
from gradience.errors import UsageError
from gradience.executors.executor import Ended, Job, Order
from gradience.executors.local import LocalExecutor
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
    """An executor whose jobs say which GPUs they see, and end when they are let go."""

    def __init__(self, folder: Path, **order: Any) -> None:
        self.folder = folder
        self.executor = LocalExecutor(Order(**order))

    def submit(self, name: str, gpus: int) -> None:
        script = (
            f'printf "%s" "${{{VISIBLE}-all}}" > "$0.part"; mv "$0.part" "$0.seen";'
            ' until [ -e "$0.go" ]; do sleep 0.01; done'
        )
        command = ["sh", "-c", script, str(self.folder / name)]
        self.executor.submit(Job(name, command, StageNeeds(gpus=gpus), self.folder / "logs" / name))

    def seen(self, name: str) -> list[str]:
        """The GPUs that a running job was given."""
        file, until = self.folder / f"{name}.seen", time.monotonic() + HANGS
        while not file.exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        text = file.read_text()
        return text.split(",") if text else []

    @property
    def running(self) -> set[str]:
        return set(self.executor.running)

    def let_go(self, name: str) -> None:
        (self.folder / f"{name}.go").touch()
        assert self.executor.ended(HANGS) == [Ended(name, 0)]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    begun: list[Machine] = []

    def one(**order: Any) -> Machine:
        begun.append(Machine(tmp_path, **order))
        return begun[-1]

    yield one
    for each in begun:
        each.executor.close()


def test_each_gpu_has_a_worker(begin: Any, gpus: Any) -> None:
    gpus(8)
    machine = begin()
    for number in range(8):
        assert machine.executor.room == 8 - number
        machine.submit(str(number), 1)
    assert [machine.seen(str(number)) for number in range(8)] == [[str(number)] for number in range(8)]
    assert machine.executor.room == 0


def test_a_job_gets_as_many_gpus_as_it_needs_and_nobody_shares_them(begin: Any, gpus: Any) -> None:
    gpus(8)
    machine = begin()
    wanted = {"a": 2, "b": 1, "c": 4, "d": 1}
    for name, count in wanted.items():
        machine.submit(name, count)
    seen = {name: machine.seen(name) for name in wanted}
    assert {name: len(given) for name, given in seen.items()} == wanted
    assert sorted(each for given in seen.values() for each in given) == [str(n) for n in range(8)]


def test_gpus_that_are_given_back_are_given_again(begin: Any, gpus: Any) -> None:
    gpus(2)
    machine = begin(workers=5)
    for name in "abcde":
        machine.submit(name, 1)
    assert machine.running == {"a", "b"}
    one = machine.seen("a")
    machine.let_go("a")
    assert machine.running == {"b", "c"}
    assert machine.seen("c") == one
    for name in "bcd":
        machine.let_go(name)
    assert machine.seen("e") in (["0"], ["1"])


def test_fewer_workers_than_gpus(begin: Any, gpus: Any) -> None:
    gpus(8)
    machine = begin(workers=2)
    for name in "abc":
        machine.submit(name, 2)
    assert machine.running == {"a", "b"}
    assert machine.seen("a") + machine.seen("b") == ["0", "1", "2", "3"]


def test_a_job_that_needs_many_gpus_is_not_overtaken_by_those_that_need_one(begin: Any, gpus: Any) -> None:
    gpus(4)
    machine = begin(workers=8)
    machine.submit("one", 1)
    machine.submit("four", 4)
    for number in range(3):
        machine.submit(f"late {number}", 1)
    machine.submit("none", 0)  # takes nothing that the other waits for
    assert machine.running == {"one", "none"}
    assert machine.seen("none") == []
    machine.let_go("one")
    assert machine.running == {"four", "none"}
    assert machine.seen("four") == ["0", "1", "2", "3"]
    machine.let_go("four")
    assert machine.running == {"none", *(f"late {number}" for number in range(3))}


@pytest.mark.parametrize("device", ["auto", "cuda:1"])
def test_a_job_that_there_will_never_be_gpus_for_is_refused(begin: Any, gpus: Any, device: str) -> None:
    gpus(2)
    machine = begin(device=device)
    most = len(machine.executor.devices)
    with pytest.raises(UsageError, match=f"large needs 3 GPUs, and this machine has {most} GPU") as error:
        machine.submit("large", 3)
    assert (error.value.code, error.value.exit_code) == ("too-few-gpus", 2)
    machine.submit("small", 1)
    assert machine.seen("small") == ["1" if device == "cuda:1" else "0"]


@pytest.mark.parametrize("device", ["auto", "cpu", "mps"])
def test_without_gpus_workers_share_the_processor(begin: Any, gpus: Any, device: str) -> None:
    gpus(0 if device == "auto" else 8)
    machine = begin(device=device, workers=2)
    for name in "abc":
        machine.submit(name, 2)
    assert machine.running == {"a", "b"}
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


def test_a_gpu_that_this_machine_lacks(gpus: Any) -> None:
    gpus(2, "4,5")
    with pytest.raises(UsageError, match=r"no cuda:2: this machine has 2 GPUs"):
        devices_of("cuda:2")


def test_what_is_closed_ends_its_processes(begin: Any, gpus: Any) -> None:
    gpus(0)
    machine = begin(workers=1)
    machine.submit("a", 0)
    machine.seen("a")
    process = machine.executor.running["a"].process
    machine.executor.close()
    assert process.returncode == -15
