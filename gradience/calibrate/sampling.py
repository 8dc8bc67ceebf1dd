"""Random numbers that belong to a row, not to its place, and completions that the adapted model writes with them.

Completions are drawn from the model as it is, for prompts without one: no temperature, no cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradience.calibrate.batches import EncodedRow
from gradience.evaluate.batches import fixed_batches
from gradience.evaluate.engines.transformers.forward import continuing, padded
from gradience.models.rendering import end_token
from gradience.spectra import FloatArray

_STREAMS = {"signs": 0, "completion": 1}


def uniforms(seed: int, row_id: str, count: int) -> FloatArray:
    """`count` numbers in [0, 1) that draw a completion of the row with this identity (hexadecimal digits)."""
    return _stream(seed, row_id, "completion").random(count)


def signs(seed: int, row_id: str, count: int, classes: int) -> NDArray[np.float32]:
    """+1 or −1, as likely, for each scored token of the row and each class: (count, classes)."""
    drawn = np.frombuffer(_stream(seed, row_id, "signs").bytes(-(-count * classes // 8)), dtype=np.uint8)
    bits = np.unpackbits(drawn, count=count * classes).reshape(count, classes)
    return bits.astype(np.float32) * 2 - 1


def signs_of(seed: int, rows: Sequence[tuple[str, int]], classes: int) -> NDArray[np.float32]:
    """The signs of several rows (identity, scored tokens), one row after the other."""
    return np.concatenate([signs(seed, row, count, classes) for row, count in rows])


def _stream(seed: int, row_id: str, of: Literal["signs", "completion"]) -> np.random.Generator:
    return np.random.default_rng([seed, _STREAMS[of], int(row_id, 16)])


def with_completions(
    model: Any,
    tokenizer: Any,
    rows: Sequence[EncodedRow],
    *,
    tokens: int,
    batch_size: int,
    seed: int,
    on_batch: Callable[[], None] = lambda: None,
) -> list[EncodedRow]:
    """The rows, each with a completion of at most `tokens` tokens; those that have one keep it."""
    lacking = [row for row in rows if not row.completion]
    written: dict[str, list[int]] = {}
    for places in fixed_batches(["·" * len(row.prompt) + row.id for row in lacking], batch_size):
        batch = [lacking[place] for place in places]
        for row, completion in zip(batch, _written(model, tokenizer, batch, tokens, seed), strict=True):
            written[row.id] = completion
        on_batch()
    return [
        replace(row, completion=tuple(written[row.id]), scored=len(written[row.id]))
        if row.id in written
        else row
        for row in rows
    ]


def _written(
    model: Any, tokenizer: Any, rows: Sequence[EncodedRow], tokens: int, seed: int
) -> list[list[int]]:
    """Token ids up to the end token, which is one of them. Rows that have ended stay until all have."""
    end = end_token(tokenizer)
    draws = np.stack([uniforms(seed, row.id, tokens) for row in rows])
    completions: list[list[int]] = [[] for _ in rows]
    with torch.inference_mode():
        prompts = [list(row.prompt) for row in rows]
        ids, mask = padded(prompts, fill=end, left=True, device=model.device)
        advance = continuing(model, mask)
        for step in range(tokens):
            drawn = draw(advance(ids).float().softmax(dim=-1), draws[:, step])
            for completion, token in zip(completions, drawn.tolist(), strict=True):
                if not completion or completion[-1] != end:
                    completion.append(token)
            if all(completion[-1] == end for completion in completions):
                break
            ids = drawn[:, None].to(model.device)
    return completions


def draw(p: Tensor, draws: FloatArray) -> Tensor:
    """One class for each row of probabilities, by the inverse of their sums; on the processor."""
    sums = p.cpu().double().cumsum(dim=-1)
    wanted = torch.from_numpy(draws)[:, None] * sums[:, -1:]
    return torch.searchsorted(sums, wanted, right=True)[:, 0].clamp(max=p.shape[1] - 1)
