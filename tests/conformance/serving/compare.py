"""What vLLM answered beside what PEFT answered: one outcome per case. Pure."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

TOLERANCE = 1e-3
"""Two log-probabilities this close are equal: float32 kernels of two libraries differ by about 1e-5 here."""
MOVES = 50 * TOLERANCE
"""An adapter under test moves some log-probability at least this far from the base model's, or the case is void:
then leaving the adapter out, or another scale, could pass for equality."""

Outcome = Literal["equal", "refused", "differs", "no effect", "void", "not run"]
Logprobs = Sequence[Sequence[float]]


class Compared(NamedTuple):
    """One case. difference: largest |log-probability of vLLM − PEFT|.   moved: largest |PEFT − base|."""

    outcome: Outcome
    difference: float | None
    moved: float | None
    refusal: str = ""


def furthest(first: Logprobs, second: Logprobs) -> float:
    """Largest absolute difference; raises ValueError where the shapes differ."""
    return max(
        abs(one - other)
        for row, other_row in zip(first, second, strict=True)
        for one, other in zip(row, other_row, strict=True)
    )


def compare(*, peft: Logprobs | None, base: Logprobs, served: Logprobs | None, refusal: str = "") -> Compared:
    """The outcome of a case.

    peft: PEFT's log-probabilities; None where PEFT was not asked.   base: of the base model.
    served: vLLM's; None where it refused, with the text in `refusal`.
    """
    moved = None if peft is None else furthest(peft, base)
    if served is None:
        return Compared("refused", None, moved, refusal)
    if peft is None or moved is None:
        return Compared("void", None, moved)
    difference = furthest(served, peft)
    if difference <= TOLERANCE:
        return Compared("equal" if moved >= MOVES else "void", difference, moved)
    return Compared("no effect" if furthest(served, base) <= TOLERANCE else "differs", difference, moved)
