"""Logits of sequence classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gradience.errors import UsageError
from gradience.evaluate.engines.base import Classified


def classify_batch(
    model: Any, tokenizer: Any, texts: Sequence[tuple[str, str | None]], *, max_length: int | None
) -> list[Classified]:
    """Logits of one batch of texts or pairs, each cut at `max_length` tokens.

    Raises UsageError (`mixed-examples`).
    """
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
        logits = model(**inputs).logits.float().cpu().numpy()
    return [
        Classified(row, max_length is not None and length > max_length)
        for row, length in zip(logits, lengths, strict=True)
    ]
