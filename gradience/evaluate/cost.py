"""Memory of an evaluation, from shapes that are counted and lengths that were read."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from typing import Any

import torch

from gradience.evaluate.counting import forward_of, largest_step

PACKED_BITS = 4.127
"""Of a weight in NF4 with its block constants (QLoRA)."""
MEASURED = 5
"""Numbers in float32 for each logit of which KL is computed: both log-probabilities, a probability, the difference of
the logs, and the product of the last two."""


def longest_of(lengths: Sequence[int], batch: int) -> float:
    """The expected longest of `batch` lengths that are drawn at random: how long a padded row of training is.

    >>> longest_of([10, 20], 1), longest_of([10, 20], 2)
    (15.0, 17.5)
    """
    n, before, expected = len(lengths), 0.0, 0.0
    for place, length in enumerate(sorted(lengths), start=1):
        below = (place / n) ** batch  # the chance that no drawn length is further right than this
        expected += length * (below - before)
        before = below
    return expected


def sorted_longest(lengths: Sequence[int], batch: int) -> float:
    """The mean longest of batches that are sorted by length, as an evaluation makes them.

    >>> sorted_longest([3, 9, 4, 10], 2)
    7.0
    """
    longest = sorted(lengths)[batch - 1 :: batch] or [max(lengths)]
    return sum(longest) / len(longest)


def answering_bytes(
    shape: Any, network: Any, *, rows: int, prompt: int, new: int, scored: int, itemsize: int
) -> int:
    """Return the bytes beside the base: those of a batch that is answered, or of the responses scored together.

    rows, prompt: shape of the batch. new: tokens that it generates; 0 for labels. scored: positions scored together,
    each with the logits of a whole vocabulary.
    """
    text, length = shape.get_text_config(), max(1, prompt)
    answering = largest_step(lambda: forward_of(network, rows=rows, length=length, logits=1 if new else None))
    if new:
        heads = getattr(text, "num_attention_heads", 0) or 1
        width = getattr(text, "head_dim", None) or text.hidden_size // heads
        groups = getattr(text, "num_key_value_heads", None) or heads
        answering += 2 * rows * (prompt + new) * text.num_hidden_layers * groups * width * itemsize
    return max(answering, scoring_bytes(scored * text.vocab_size, itemsize) if scored else 0)


def scoring_bytes(logits: int, itemsize: int) -> int:
    """Bytes of so many logits of an adapter and of the reference, and of what is computed of some in float32."""
    from gradience.evaluate.engines.transformers.scoring import CHUNK

    return 2 * logits * itemsize + MEASURED * 4 * min(logits, CHUNK)


def weights_bytes_of(base: Any, *, packed: bool) -> int:
    """Bytes of the base's weights; packed: the linear layers in NF4, everything else and the head in float32."""
    weights = {name: weight for name, weight in base.named_parameters() if "lora_" not in name}
    if not packed:
        return sum(weight.nbytes for weight in weights.values())
    linear = {
        id(module.weight)
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name
    }
    head = base.get_output_embeddings()
    linear -= {id(head.weight)} if head is not None else set()
    bits = sum(weight.numel() * (PACKED_BITS if id(weight) in linear else 32) for weight in weights.values())
    return int(bits / 8)


def process_bytes(device: str) -> int:
    """Return the peak memory of this process: Python and the libraries, before a base is loaded; 0 for a GPU."""
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if device != "cpu" and (device != "auto" or gpu):
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
