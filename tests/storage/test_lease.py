"""Of several processes one does a piece of work; what a dead or silent one held goes to another, and never to two."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gradience.errors import NetworkError, ReadError
from gradience.storage import lease as leases
from gradience.storage.lease import Holder, claim, holder_of, is_abandoned, is_running
from gradience.storage.place import Place

NAME = "leases/42/uniform_median.truncate/eval"


@pytest.fixture
def place(tmp_path):
    return Place.at(str(tmp_path / "shared"))


def elsewhere(place, name=f"{NAME}.1", heartbeat=0.01, takeover=60.0):
    """A lease that a process of another machine holds, which says nothing any more."""
    holder = Holder(
        token="t",
        host="far",
        pid=1,
        begun="1",
        world="another kernel",
        since=datetime.now(UTC),
        heartbeat=heartbeat,
        takeover=takeover,
    )
    assert place.create(name, holder.model_dump_json().encode())
    return holder


def test_one_has_it_until_it_lets_go(place):
    mine = claim(place, NAME)
    assert claim(place, NAME) is None
    mine.release()
    again = claim(place, NAME)
    assert again is not None
    again.release()
    assert place.names("leases") == []


def test_of_many_threads_that_try_at_once_one_succeeds(place):
    begin, got = threading.Barrier(16), []

    def attempt():
        begin.wait()
        got.append(claim(place, NAME))

    threads = [threading.Thread(target=attempt) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = [lease for lease in got if lease is not None]
    for lease in held:  # before anything is asserted: one that is lost ends its process
        lease.release()
    assert len(held) == 1


@pytest.mark.parametrize(
    ("takeover", "taken"), [(0.05, True), (60, False)], ids=["silent", "not long enough"]
)
def test_a_silent_holder_elsewhere_is_taken_over_after_a_while(place, takeover, taken):
    elsewhere(place, takeover=takeover)
    time.sleep(0.1)
    lease = claim(place, NAME, takeover=0.01)  # its own settings are no matter
    assert (lease is not None) == taken
    if lease is not None:
        assert lease.name == f"{NAME}.2"
        lease.release()
        assert place.names("leases") == []


def test_heartbeats_are_signs_of_life(place):
    mine = claim(place, NAME, heartbeat=0.02)
    before = place.written(mine.name)
    deadline = time.monotonic() + 30
    while place.written(mine.name) == before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert place.written(mine.name) > before
    mine.release()


def test_who_was_taken_over_notices_and_stops(place):
    lost = threading.Event()
    mine = claim(place, NAME, heartbeat=0.02, on_loss=lost.set)
    elsewhere(place, f"{NAME}.2")
    assert lost.wait(30)
    assert not mine.is_held
    mine.release()
    assert place.names("leases") == [f"{NAME}.1", f"{NAME}.2"]  # what another holds is not removed


def test_a_dead_process_of_this_machine_is_not_waited_for(place, tmp_path):
    code = (
        "import os, sys\n"
        "from gradience.storage.lease import claim\n"
        "from gradience.storage.place import Place\n"
        f"assert claim(Place.at({str(tmp_path / 'shared')!r}), {NAME!r})\n"
        "os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert holder_of(place, NAME)[0].host
    assert is_abandoned(place, f"{NAME}.1", takeover=3600)
    lease = claim(place, NAME, takeover=3600)
    assert lease is not None
    lease.release()


def test_a_living_process_of_this_machine_may_be_silent(place, monkeypatch):
    mine = claim(place, NAME, heartbeat=3600, takeover=0.01)
    time.sleep(0.05)
    assert claim(place, NAME) is None
    monkeypatch.setattr(leases, "_world", lambda: "")  # a system that does not tell its processes apart
    assert is_abandoned(place, mine.name, takeover=0.01)
    mine.release()


def test_who_takes_over_waits_until_the_other_has_noticed(place):
    elsewhere(place, heartbeat=0.2, takeover=0.05)
    time.sleep(0.1)
    began = time.monotonic()
    lease = claim(place, NAME)
    assert time.monotonic() - began > 0.2
    lease.release()


def test_a_process_that_is_hidden_is_not_taken_for_dead(place, monkeypatch):
    """Other users' processes under `hidepid`: no /proc, and no permission to ask."""
    mine = claim(place, NAME)
    assert is_running(mine.holder)

    def answers(error):
        def kill(pid, number):
            raise error

        return kill

    with monkeypatch.context() as patch:
        patch.setattr(leases, "Path", lambda path: Path("/nowhere") if "stat" in path else Path(path))
        patch.setattr(leases.os, "kill", answers(ProcessLookupError()))
        assert is_running(mine.holder) is False
        patch.setattr(leases.os, "kill", answers(PermissionError()))
        assert is_running(mine.holder) is None
        assert not is_abandoned(place, mine.name, takeover=0.01)
    mine.release()


def test_a_holder_is_not_robbed_while_the_claimer_s_storage_is_slow(place, monkeypatch):
    """What is slow is no silence of the holder, which gives signs of life meanwhile."""
    elsewhere(place, takeover=0.5)
    write = Place.write

    def slow(self, name, content):
        write(self, name, content)
        time.sleep(1.0)
        write(self, f"{NAME}.1", self.read(f"{NAME}.1"))  # the holder's

    monkeypatch.setattr(Place, "write", slow)
    assert claim(place, NAME) is None


def test_a_holder_that_reaches_nothing_ends_before_another_takes_over(place, monkeypatch):
    lost = threading.Event()
    mine = claim(place, NAME, heartbeat=0.05, takeover=0.3, on_loss=lost.set)

    def away(self, name):
        raise NetworkError("away", code="storage-connection")

    with monkeypatch.context() as patch:
        patch.setattr(Place, "read", away)
        began = time.monotonic()
        assert lost.wait(30)
        assert time.monotonic() - began < 10
    mine.release()


def test_a_heartbeat_that_breaks_is_a_loss(place, monkeypatch, capsys):
    lost = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def broken(self, name):
        raise MemoryError

    mine = claim(place, NAME, heartbeat=0.02, on_loss=lost.set)
    with monkeypatch.context() as patch:
        patch.setattr(Place, "read", broken)
        assert lost.wait(30)
    assert "MemoryError" in capsys.readouterr().err
    mine.release()


def test_letting_go_leaves_what_a_successor_holds(place, monkeypatch):
    mine = claim(place, NAME, on_loss=lambda: None)
    elsewhere(place, f"{NAME}.2")
    monkeypatch.setattr(type(mine), "is_held", True)  # it looked before the other took over
    mine.release()
    assert place.names("leases") == [f"{NAME}.2"]


def test_a_folder_that_cannot_be_read_is_not_empty(place, monkeypatch):
    mine = claim(place, NAME)
    listing = os.scandir

    def stale(path):
        if "leases" in str(path):
            raise OSError(errno.ESTALE, "Stale file handle")
        return listing(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", stale)
        with pytest.raises(ReadError):
            place.names("leases")
    assert mine.is_held
    mine.release()


def test_a_lease_that_is_being_written_is_alive(place):
    place.create(f"{NAME}.1", b"")
    assert claim(place, NAME) is None
    assert holder_of(place, NAME) is None
