"""One seed for a run, and a random stream of its own for everything that is drawn.

A head that is made with more classes, or an adapter with another rank, consumes another amount of randomness.
With one stream for all, every later draw would move; with named streams the data keep their order.
"""

from __future__ import annotations

from typing import Literal, get_args

from gradience.digests import sha256_text

Stream = Literal["base", "lora", "data order", "training"]
"""What the base lacks (a fresh head), the LoRA factors, the order of the examples, and dropout."""
STREAMS: tuple[Stream, ...] = get_args(Stream)


def stream(seed: int, name: Stream) -> int:
    """Return the seed of one stream: 31 bits of sha256, so that neighbouring seeds have nothing in common."""
    return int(sha256_text(f"{seed}/{name}")[:8], 16) >> 1
