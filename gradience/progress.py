"""Progress callbacks: one signature for all single operations, and a class for runs of several stages."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called after each module, step or batch with the number done and the total."""


class Watcher:
    """Callbacks of a run. They do nothing here; a subclass shows them."""

    def seed(self, seed: int, number: int, of: int) -> None:
        """Report that a seed begins."""

    def data_set(self, name: str, number: int, of: int) -> None:
        """Report that one of several data sets begins."""

    def stage(self, name: str, number: int, of: int | None) -> None:
        """Report that a stage begins. of: number of stages, if known."""

    def step(self, done: int, total: int) -> None:
        """Report a finished training step, or the number of examples that an evaluation has answered."""

    def smallest_margin(self, text: str) -> None:
        """Report the margin that the examples can show, before a model is loaded."""

    def note(self, text: str) -> None:
        """Report a remark, such as why a stage is repeated."""

    def planned(self, text: str) -> None:
        """Report the digest of the written plan, before anything is trained."""
