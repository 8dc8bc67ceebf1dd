"""Logits of sequence classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gradience.errors import UsageError
from gradience.evaluate.batches import fixed_batches

Logits = NDArray[np.float32]
"""Shape (examples, labels), in the order of the texts that were given."""


def classify(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    pairs: Sequence[str | None] | None = None,
    batch_size: int,
    max_length: int | None,
) -> Logits:
    """Logits of a transformers (or PEFT) sequence classifier for `texts`, each cut at `max_length` tokens.

    pairs: the second text of each. Raises UsageError (`no-examples`).
    """
    if not texts:
        raise UsageError("there is no text to classify", code="no-examples")
    seconds = [None] * len(texts) if pairs is None else pairs
    whole = [
        first if second is None else f"{first}\0{second}"
        for first, second in zip(texts, seconds, strict=True)
    ]
    batches = fixed_batches(whole, batch_size)
    logits = [
        classify_batch(
            model, tokenizer, [(texts[place], seconds[place]) for place in places], max_length=max_length
        )[0]
        for places in batches
    ]
    out = np.empty((len(texts), logits[0].shape[1]), dtype=np.float32)
    for places, values in zip(batches, logits, strict=True):
        out[places] = values
    return out


def classify_batch(
    model: Any, tokenizer: Any, texts: Sequence[tuple[str, str | None]], *, max_length: int | None
) -> tuple[Logits, list[bool]]:
    """Logits of one batch of texts or pairs, and whether each was longer than `max_length` tokens."""
    firsts, seconds = [first for first, _ in texts], [second for _, second in texts]
    if None in seconds and any(second is not None for second in seconds):
        raise UsageError("some examples are pairs of texts and some are not", code="mixed-examples")
    arguments = (firsts,) if None in seconds else (firsts, seconds)
    inputs = tokenizer(
        *arguments,
        padding=True,
        truncation=max_length is not None,
        max_length=max_length,
        return_tensors="pt",
    ).to(model.device)
    lengths = [len(ids) for ids in tokenizer(*arguments, truncation=False, verbose=False)["input_ids"]]
    with torch.inference_mode():
        logits: Logits = model(**inputs).logits.float().cpu().numpy()
    return logits, [max_length is not None and length > max_length for length in lengths]
