"""Progress of a run: seeds, their stages, and the steps within."""

from __future__ import annotations


class Watcher:
    """Called as a run proceeds. This one shows nothing; a subclass does."""

    def seed(self, seed: int, number: int, of: int) -> None:
        """A seed begins."""

    def stage(self, name: str, number: int, of: int | None) -> None:
        """A stage of the seed begins. of: how many there are; None until the probe is audited."""

    def step(self, done: int, total: int) -> None:
        """A step of a training, or a batch of an evaluation, is done."""

    def note(self, text: str) -> None:
        """Something is done again, for this reason."""
