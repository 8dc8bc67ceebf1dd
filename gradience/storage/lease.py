"""Who does a piece of work: a lease in the shared place, created exclusively and renewed by heartbeats.

A lease is a file `NAME.1`. Its holder writes it anew every so often. Where that has stopped for long enough, by the
clock of the storage, somebody else creates `NAME.2`, and holds it then; of several who try one succeeds. The holder
before, alive after all (a machine that slept), finds the newer lease at its next heartbeat, and ends: so long the new
one waits. A holder that reaches nothing ends before another may take over. One on this machine whose process is gone
is not waited for.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from gradience.errors import GradienceError
from gradience.storage.place import Place

HEARTBEAT, TAKEOVER = 30.0, 300.0
"""Seconds between two signs of life, and without one until another may take over."""
LEAST = 3
"""Heartbeats without a sign of life that are no silence yet: one may be late, or lost."""
NOTICES = 1.5
"""Heartbeats in which a holder that lives notices that it was taken over."""


class Holder(BaseModel):
    """Who holds a lease: the file's content."""

    token: str
    host: str
    pid: int
    begun: str
    """When its process began, by its kernel; where that cannot be told, empty."""
    world: str
    """The running kernel and the process's view of it: only there a process number means anything."""
    since: datetime
    """By the holder's clock."""
    heartbeat: float = HEARTBEAT
    takeover: float = TAKEOVER
    """What its holder promises, and is held to: another process may have other settings."""


@dataclass(slots=True)
class Lease:
    """A lease that this process holds, until `release`."""

    place: Place
    name: str
    """With its generation."""
    holder: Holder
    on_loss: Callable[[], None] = lambda: os._exit(75)
    """Called from the heartbeat's thread when another has taken over. By default the process ends at once."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def keep(self) -> None:
        """Give a sign of life every `heartbeat` seconds from now on."""
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    @property
    def is_held(self) -> bool:
        """Whether nobody has taken over."""
        content = self.place.read(self.name)
        return content is not None and _read(content) == self.holder and not self._is_overtaken()

    def release(self) -> None:
        """Let go. The file is removed, and with it those of holders that had been overtaken."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self.is_held:
            for name in _generations(self.place, _bare(self.name)):
                if _generation(name) <= _generation(self.name):  # a newer one is somebody else's
                    self.place.remove(name)

    def _is_overtaken(self) -> bool:
        return _generations(self.place, _bare(self.name))[-1:] != [self.name]

    def _beat(self) -> None:
        try:
            self._beats()
        except BaseException:  # another takes over, and this process must not go on beside it
            traceback.print_exc()
            self.on_loss()
            raise

    def _beats(self) -> None:
        heartbeat, takeover = self.holder.heartbeat, self.holder.takeover
        heard = time.monotonic()
        while not self._stop.wait(heartbeat):
            with suppress(GradienceError):  # away for a moment; silence is what others look at
                if not self.is_held:
                    self.on_loss()
                    return
                self.place.write(self.name, self.holder.model_dump_json().encode())
                heard = time.monotonic()
            if time.monotonic() - heard > takeover - heartbeat:
                self.on_loss()
                return


def claim(
    place: Place,
    name: str,
    *,
    heartbeat: float = HEARTBEAT,
    takeover: float = TAKEOVER,
    on_loss: Callable[[], None] | None = None,
) -> Lease | None:
    """Take the lease `name`, and keep it; None where a living process has it.

    heartbeat, takeover: seconds; the second is several of the first. One that is taken over from a process that may
    live after all is given when that has had the time to notice. Raises what the place does.
    """
    held = _generations(place, name)
    before = _holder(place, held[-1]) if held else None
    if held and not is_abandoned(place, held[-1], takeover):
        return None
    holder = this_process(heartbeat, takeover)
    mine = f"{name}.{_generation(held[-1]) + 1 if held else 1}"
    if not place.create(mine, holder.model_dump_json().encode()):
        return None
    lease = Lease(place, mine, holder)
    if on_loss is not None:
        lease.on_loss = on_loss
    lease.keep()
    if before is not None and is_running(before) is None:
        time.sleep(NOTICES * before.heartbeat)
    return lease


def holder_of(place: Place, name: str) -> tuple[Holder, float] | None:
    """Who holds the lease, and the seconds since the last sign of life; None where nobody does."""
    held = _generations(place, name)
    if not held:
        return None
    content, silent = place.read(held[-1]), _silent(place, held[-1])
    holder = None if content is None else _read(content)
    return None if holder is None or silent is None else (holder, silent)


def is_abandoned(place: Place, name: str, takeover: float) -> bool:
    """Whether the holder of a lease, its generation included, is dead as far as can be told from here.

    takeover: for a lease that does not say its own yet.
    """
    holder = _holder(place, name)
    runs = None if holder is None else is_running(holder)
    if runs is not None:
        return not runs
    silent = _silent(place, name)
    return silent is not None and silent > (takeover if holder is None else holder.takeover)


def is_running(holder: Holder) -> bool | None:
    """Whether the holder's process runs; None where that cannot be told from here: another machine, or container."""
    if not holder.world or holder.world != _world():
        return None
    began = _began(holder.pid)
    return None if began is None else began == holder.begun


@dataclass(frozen=True, slots=True)
class Sighting:
    """A lease as somebody sees it who wants nothing of it."""

    holder: Holder
    written: datetime
    """The last sign of life, by the clock of the storage."""


def sightings(place: Place, folder: str) -> dict[str, Sighting]:
    """Every lease below `folder`, by its name without the generation. Nothing is written."""
    latest = {_bare(name): name for name in sorted(place.names(folder), key=_number)}
    seen = {}
    for name, newest in latest.items():
        content, written = place.read(newest), place.written(newest)
        holder = None if content is None else _read(content)
        if holder is not None and written is not None:
            seen[name] = Sighting(holder, written)
    return seen


def this_process(heartbeat: float = HEARTBEAT, takeover: float = TAKEOVER) -> Holder:
    """This process, as holder."""
    pid = os.getpid()
    return Holder(
        token=secrets.token_hex(16),
        host=socket.gethostname(),
        pid=pid,
        begun=_began(pid) or "",
        world=_world(),
        since=datetime.now(UTC),
        heartbeat=heartbeat,
        takeover=takeover,
    )


def _silent(place: Place, name: str) -> float | None:
    """Seconds since a file was written, both ends by the clock of the storage.

    The file is looked at last: while the storage is slow, its holder may write it.
    """
    probe = f"clock/{secrets.token_hex(8)}"
    place.write(probe, b"")
    now = place.written(probe)
    place.remove(probe)
    written = place.written(name)
    return None if written is None or now is None else (now - written).total_seconds()


def _world() -> str:
    """The kernel that runs here, and the name space of its process numbers; empty where the system tells neither."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _began(pid: int) -> str | None:
    """When a process of this machine began, in the kernel's ticks; empty where there is none that runs, None where that
    is hidden (other users' processes under `hidepid`)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None if _is_hidden(pid) else ""
    state, *rest = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]


def _is_hidden(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _holder(place: Place, name: str) -> Holder | None:
    content = place.read(name)
    return None if content is None else _read(content)


def _read(content: bytes) -> Holder | None:
    try:
        return Holder.model_validate_json(content)
    except ValidationError:  # it is being written
        return None


def _generations(place: Place, name: str) -> list[str]:
    """The files of a lease, oldest first."""
    folder = name.rpartition("/")[0]
    there = [each for each in place.names(folder) if _bare(each) == name and each != name]
    return sorted((each for each in there if each.rpartition(".")[2].isdigit()), key=_generation)


def _bare(name: str) -> str:
    return name.rpartition(".")[0]


def _generation(name: str) -> int:
    return int(name.rpartition(".")[2])


def _number(name: str) -> int:
    """The generation in the name of any file; 0 where it has none."""
    last = name.rpartition(".")[2]
    return int(last) if last.isdigit() else 0
