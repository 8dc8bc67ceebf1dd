"""Which examples are answered together: a matter of the examples alone, so that it is the same for every adapter.

The composition of a batch can move a logit in the last bits, and in bfloat16 by more.
"""

from __future__ import annotations

from collections.abc import Sequence


def fixed_batches(texts: Sequence[str], batch_size: int) -> list[list[int]]:
    """Places of the texts in each batch: sorted by length, so that little is padded.

    They depend on the texts alone: neither on their order nor on what is answered.
    """
    order = sorted(range(len(texts)), key=lambda place: (len(texts[place]), texts[place], place))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
