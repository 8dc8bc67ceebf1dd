"""When each of several pieces of work begins and ends, on machines that are given to whatever can begin first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work."""

    name: str
    seconds: float
    after: tuple[str, ...] = ()
    """Pieces that must have ended; those that are not in the list have."""
    takes: int = 1
    """Machines (or GPUs) that it takes; 0 for none."""


def schedule(pieces: Sequence[Work], machines: int) -> dict[str, tuple[float, float]]:
    """Return when each begins and ends, in seconds: whatever can begin does, the first of the list first.

    >>> schedule([Work("probe", 5), Work("a", 3, ("probe",)), Work("b", 2, ("probe",))], machines=2)
    {'probe': (0.0, 5.0), 'a': (5.0, 8.0), 'b': (5.0, 7.0)}

    Raises ValueError for a piece that takes more machines than there are, or waits for one that waits for it.
    """
    names = {piece.name for piece in pieces}
    waiting, times, free, now = list(pieces), dict[str, tuple[float, float]](), machines, 0.0
    running: list[Work] = []
    while waiting or running:
        ended = {name for name, (_, end) in times.items() if end <= now}
        for piece in list(waiting):
            if piece.takes <= free and all(name in ended or name not in names for name in piece.after):
                waiting.remove(piece)
                running.append(piece)
                free -= piece.takes
                times[piece.name] = now, now + piece.seconds
        if not running:
            raise ValueError(f"{waiting[0].name} can never begin")
        now = min(times[piece.name][1] for piece in running)
        over = [piece for piece in running if times[piece.name][1] <= now]
        running = [piece for piece in running if piece not in over]
        free += sum(piece.takes for piece in over)
    return times


def span(times: dict[str, tuple[float, float]]) -> float:
    """Return the seconds from the beginning to the last end."""
    return max((end for _, end in times.values()), default=0.0)
