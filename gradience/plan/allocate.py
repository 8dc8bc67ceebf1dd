"""Choose a rank for every module under one limit over all of them. Pure, and independent of the scores'
meaning.

Every module offers steps of its leading components, each with a worth and a cost. Steps are taken by worth
per cost. If the worth of components falls along a module, as singular values do, so does that density, and
the result is the best for its cost. A limit between two such results is filled with the cheaper steps that
still fit, and the result is then at most the worth of one step below the best.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gradience.spectra import FloatArray


class ModuleSteps(NamedTuple):
    """One module.

    worth: (rank,) of its components, none negative.   cost: of one component.
    start: rank that it gets in any case.   steps: ranks that it may have, ascending.
    """

    name: str
    worth: FloatArray
    cost: int
    start: int
    steps: Sequence[int]


class RankStep(NamedTuple):
    """From the rank before it to `rank`."""

    name: str
    rank: int
    worth: float
    cost: int


def fill(items: Sequence[ModuleSteps], limit: int) -> dict[str, int]:
    """Return ranks that cost at most `limit`, if the starts do. A larger limit never keeps less worth."""
    chosen = {item.name: item.start for item in items}
    used = start_cost(items)
    closed: set[str] = set()
    for step in steps_of(items):
        if step.name in closed:
            continue
        if used + step.cost > limit:
            closed.add(step.name)  # its next steps stand on this one; cheaper modules may still fit
            continue
        used += step.cost
        chosen[step.name] = step.rank
    return chosen


def cover(items: Sequence[ModuleSteps], allowed_loss: float) -> dict[str, int]:
    """Ranks under which the worth of all that is left out is at most `allowed_loss`."""
    chosen = {item.name: item.start for item in items}
    steps = steps_of(items)
    # What is lost before each step, summed from the small end: differences of large sums would be noise.
    lost = np.cumsum([step.worth for step in reversed(steps)])[::-1]
    for step, missing in zip(steps, lost, strict=True):
        if missing <= allowed_loss:
            break
        chosen[step.name] = step.rank
    return chosen


def start_cost(items: Sequence[ModuleSteps]) -> int:
    """Return the cost of the starts, below which no limit can be met."""
    return sum(item.cost * item.start for item in items)


def steps_of(items: Sequence[ModuleSteps]) -> list[RankStep]:
    """All steps that are worth something, by falling density; equal ones by name, so that no order of files decides."""
    keyed = []
    for item in items:
        rank, density = item.start, np.inf
        for target in item.steps:
            if target <= item.start:
                continue
            step = RankStep(
                item.name, target, float(item.worth[rank:target].sum()), item.cost * (target - rank)
            )
            if step.worth > 0:
                # The running minimum keeps the steps of a module in their order whatever the scores are.
                density = min(density, step.worth / step.cost)
                keyed.append(((-density, item.name, target), step))
                rank = target
    keyed.sort(key=lambda pair: pair[0])
    return [step for _, step in keyed]
