"""How far a piece of work is: the one signature for it, from the audit to the training; and a run of several stages."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called after each piece (a module, a step, a batch) with how many are done, and how many there are in all."""


class Watcher:
    """Called as a run proceeds. This one shows nothing; a subclass does."""

    def seed(self, seed: int, number: int, of: int) -> None:
        """A seed begins."""

    def stage(self, name: str, number: int, of: int | None) -> None:
        """A stage begins. of: how many there are, where that is known."""

    def step(self, done: int, total: int) -> None:
        """A step of a training is done, or so many examples of an evaluation are answered."""

    def tokens(self, count: int) -> None:
        """So many tokens were read and written for the batch of which `step` speaks next."""

    def note(self, text: str) -> None:
        """Something is done again, for this reason."""
