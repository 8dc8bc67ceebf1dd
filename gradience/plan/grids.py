"""The ranks that a module may get: all of them, those of a list, or multiples of a number. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gradience.errors import UsageError

EXAMPLE = "--allowed-ranks 4,8,16"


def checked_ranks(allowed: Iterable[int]) -> tuple[int, ...]:
    """`allowed` ascending, each once. Raises UsageError (bad-grid) where it is empty, or holds a rank below 1."""
    ranks = tuple(sorted(set(allowed)))
    if not ranks or ranks[0] < 1:
        raise UsageError("allowed ranks are integers of at least 1", code="bad-grid", hint=EXAMPLE)
    return ranks


def parse_ranks(text: str) -> tuple[int, ...]:
    """`"16,4,8"` -> (4, 8, 16). Raises UsageError (bad-grid)."""
    try:
        return checked_ranks(map(int, text.split(",")))
    except ValueError:
        raise UsageError(
            f"allowed ranks are integers separated by commas, not {text!r}", code="bad-grid", hint=EXAMPLE
        ) from None


@dataclass(frozen=True, slots=True)
class Grid:
    """Ranks that are allowed besides a module's own. Raises UsageError (two-grids, bad-grid).

    >>> Grid(allowed=(4, 16)).up(5, rank=64), Grid(multiple_of=3).up(5, rank=64), Grid().up(5, rank=64)
    (16, 6, 5)
    """

    allowed: Sequence[int] | None = None
    multiple_of: int | None = None

    def __post_init__(self) -> None:
        if self.allowed is not None and self.multiple_of is not None:
            raise UsageError(
                "give only one of --allowed-ranks and --multiple-of",
                code="two-grids",
                hint="leave one of them out",
            )
        if self.allowed is not None:
            checked_ranks(self.allowed)
        if self.multiple_of is not None:
            checked_ranks([self.multiple_of])

    @property
    def is_open(self) -> bool:
        """Whether every rank is allowed."""
        return self.allowed is None and self.multiple_of is None

    def steps(self, rank: int) -> Sequence[int]:
        """Ranks that a module of `rank` may get, ascending, without 0; the last is its own."""
        if self.allowed is not None:
            return sorted({step for step in self.allowed if step < rank} | {rank})
        if self.multiple_of is not None:
            return [*range(self.multiple_of, rank, self.multiple_of), rank]
        return range(1, rank + 1)

    def up(self, needed: int, rank: int) -> int:
        """The smallest step of a module of `rank` that covers `needed`; its own rank where none does."""
        steps = self.steps(rank)
        return steps[min(bisect_left(steps, needed), len(steps) - 1)]

    @property
    def words(self) -> str:
        """What a plan says of it, behind its criterion."""
        if self.allowed is not None:
            return f", ranks from {', '.join(map(str, checked_ranks(self.allowed)))}"
        return f", ranks a multiple of {self.multiple_of}" if self.multiple_of is not None else ""


EVERY_RANK = Grid()
