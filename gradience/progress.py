"""Progress of a piece of work: one callback signature, from the audit to the training; and runs of several stages."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called after each piece (a module, a step, a batch) with how many are done, and how many there are in all."""


class Watcher:
    """Called as a run proceeds. This one shows nothing; a subclass does."""

    def seed(self, seed: int, number: int, of: int) -> None:
        """A seed begins."""

    def data_set(self, name: str, number: int, of: int) -> None:
        """A data set of several begins."""

    def stage(self, name: str, number: int, of: int | None) -> None:
        """Report that a stage begins. of: number of stages, if known."""

    def step(self, done: int, total: int) -> None:
        """Report a finished training step, or the number of examples that an evaluation has answered."""

    def showable(self, text: str) -> None:
        """Report the margin that the examples can show, before a model is loaded."""

    def note(self, text: str) -> None:
        """Something is done again, for this reason."""

    def planned(self, text: str) -> None:
        """The plan is on the disk, with this digest; nothing is trained yet."""
