"""Assignment of examples to batches. It depends only on the examples, so it is the same for every adapter.

The composition of a batch can move a logit in the last bits, and in bfloat16 by more, so paired answers must
come from the same batches.
"""

from collections.abc import Sequence

CPU_TOKENS = 4096
"""Tokens in a batch on a CPU; larger batches are not faster (docs/decisions/014-batches.md)."""
TRIED_TOKENS = 32768
"""Initial tokens in a batch on other devices, before testing if memory can hold the longest one."""
SCORED_SHARE = 4
"""Factor by which a batch of teacher-forced scoring is smaller: its logits over the whole vocabulary need memory."""


def fixed_batches(texts: Sequence[str], batch_size: int) -> list[list[int]]:
    """Return the indices of the texts in each batch, sorted by length to reduce padding.

    They depend only on the texts: neither on their order nor on the answers.
    """
    order = sorted(range(len(texts)), key=lambda place: (len(texts[place]), texts[place], place))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def budget_batches(
    texts: Sequence[str], lengths: Sequence[int], tokens: int, rows: Sequence[int]
) -> list[list[int]]:
    """Return the indices of the texts in each batch, the longest first, so that memory problems show at once.

    A batch has at most `tokens` tokens, including padding, unless a single example has more. The batches
    depend only on the texts and their lengths.

    >>> budget_batches(["a", "b", "c", "d"], [9, 2, 3, 4], 8, [1, 1, 1, 1])
    [[0], [3, 2], [1]]
    """
    order = sorted(range(len(texts)), key=lambda place: (-lengths[place], texts[place], place))
    batches: list[list[int]] = []
    room = 0
    for place in order:
        if not batches or rows[place] > room:
            batches.append([])
            room = tokens // max(1, lengths[place])
        batches[-1].append(place)
        room -= rows[place]
    return batches
