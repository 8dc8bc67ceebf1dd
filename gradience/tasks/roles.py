"""Roles for data that come with splits: the official test split confirms, and dev is taken out of train."""

from __future__ import annotations

from typing import TypeVar

from gradience.errors import UsageError
from gradience.tasks.examples import Examples, Labelled, Question, hold_out

DEV = 500
"""Examples of train that become dev by default; a fifth of train where that is less."""

Item = TypeVar("Item", Labelled, Question)


def with_dev(examples: Examples[Item], dev: int | None) -> Examples[Item]:
    """The same examples, `dev` of the training examples made dev; None takes the default.

    Which ones depends on their identities alone, not on the order of the rows.
    Raises UsageError (`task-dev`) when nothing would be left to train on.
    """
    train = len(examples.of("train"))
    if dev is not None and dev >= train > 0:
        raise UsageError(
            f"`dev: {dev}` leaves none of the {train} training examples",
            code="task-dev",
            hint="leave `dev` out: then a fifth, and no more than 500, is held out",
        )
    return hold_out(examples, min(DEV, train // 5) if dev is None else dev)
