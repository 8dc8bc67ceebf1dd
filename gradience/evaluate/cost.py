"""What an evaluation costs: kernels that are counted, lengths that were read, rates of a machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gradience.evaluate.counting import Work, decoding_work, forward_of, work_of
from gradience.evaluate.evaluator import SCORED_AT_ONCE
from gradience.evaluate.machines import H100, Machine, this_processor
from gradience.models.settings import ModelSettings

PACKED_BITS = 4.127
"""Of a weight in NF4 with its block constants (QLoRA)."""
LOADED = 1e9
"""Bytes of a checkpoint that are loaded in a second."""
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


def dtype_of(model: ModelSettings, shape: Any) -> torch.dtype:
    """The precision of the frozen base; `auto` is what its config.json says."""
    if model.dtype != "auto":
        return getattr(torch, model.dtype)  # type: ignore[no-any-return]
    said = getattr(shape, "dtype", None)
    return said if isinstance(said, torch.dtype) else torch.float32


def evaluation_work(network: Any, rows: int, prompt: int, new: int) -> tuple[Work, Work | None, Work | None]:
    """Return the work of reading a batch, of one decoding step of it, and of scoring a batch of responses.

    new: tokens that a batch generates; 0 for labels, which have the first alone.
    """
    prompt = max(1, prompt)
    if not new:
        return work_of(lambda: forward_of(network, rows=rows, length=prompt)), None, None
    return (
        work_of(lambda: forward_of(network, rows=rows, length=prompt, logits=1)),
        decoding_work(network, rows, cached=prompt + new // 2),
        work_of(lambda: forward_of(network, rows=SCORED_AT_ONCE, length=prompt + new, logits=new)),
    )


def answering_bytes(shape: Any, works: Sequence[Work], *, cached: int, scored: int, itemsize: int) -> int:
    """Bytes beside the base: of a batch that is answered, or of the responses that are scored, whichever are more.

    works: of reading a batch, and of a decoding step. cached: tokens whose keys and values are kept. scored: positions
    that are scored together, each with the logits of a whole vocabulary.
    """
    text = shape.get_text_config()
    answering = max(size for work in works for _, size, _ in work.kernels)
    if cached:
        heads = getattr(text, "num_attention_heads", 0) or 1
        width = getattr(text, "head_dim", None) or text.hidden_size // heads
        groups = getattr(text, "num_key_value_heads", None) or heads
        answering += 2 * cached * text.num_hidden_layers * groups * width * itemsize
    return int(max(answering, scoring_bytes(scored * text.vocab_size, itemsize) if scored else 0))


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


def machines_for(model: ModelSettings, shape: Any, device: str, threads: int | None) -> list[Machine]:
    """Return an H100, and this processor where a run on `device` would take it."""
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if device not in ("cpu", "auto") or (device == "auto" and gpu):
        return [H100]
    text = shape.get_text_config()
    width = text.hidden_size
    inner = getattr(text, "intermediate_size", None) or getattr(text, "hidden_dim", None) or 4 * width
    return [H100, this_processor(dtype_of(model, text), threads, width=width, inner=inner)]
