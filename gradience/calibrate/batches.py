"""Rows as batches of tensors: which positions are scored, which are padding, and which row a number belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradience.calibrate.rows import CalibrationRow
from gradience.errors import InputError
from gradience.evaluate.batches import fixed_batches
from gradience.evaluate.engines.transformers.forward import logits_at, padded, prompt_ids
from gradience.models.rendering import encode_pair, end_token


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One row as token ids; of a classifier the prompt is the whole text, and its label is what is scored.

    scored: how many labels are drawn for it.
    """

    id: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    scored: int
    truncated: bool
    extra: dict[str, list[int]] = field(default_factory=dict)
    """Further inputs with a number for each token, such as `token_type_ids`."""

    @property
    def ids(self) -> list[int]:
        """All tokens."""
        return [*self.prompt, *self.completion]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that are computed together.

    mask: (rows, length), 1 where there is a token.
    wanted: (rows, length), true where the next token is scored; None if each row has one label.
    """

    rows: tuple[EncodedRow, ...]
    inputs: dict[str, Tensor]
    mask: Tensor
    wanted: Tensor | None

    def logits(self, model: Any) -> Tensor:
        """One row of logits for each label, row after row."""
        if self.wanted is None:
            logits: Tensor = model(**self.inputs).logits
            return logits
        wanted = self.wanted
        logits = logits_at(model, lambda hidden: hidden[wanted], **self.inputs, use_cache=False).logits
        return logits

    def by_row(self, values: Tensor) -> Tensor | None:
        """Values of some layer as (rows, places, r), 0 at padding; None if their positions are unknown.

        A layer sees all positions, one vector a row (a head), all positions of all rows in a line, or only those that
        are scored (the last layer of a language model).
        """
        rows = len(self.rows)
        if values.dim() == 3 and values.shape[0] == rows:
            mask = self._mask(values.shape[1])
            return values if mask is None else values * mask[..., None].to(values.dtype)
        if values.dim() != 2:
            return None
        if self.wanted is not None and values.shape[0] == int(self.wanted.sum()):
            spread = values.new_zeros(*self.wanted.shape, values.shape[1])
            spread[self.wanted] = values
            return spread
        length, left = divmod(values.shape[0], rows)
        mask = self._mask(length)
        if mask is not None and not left:
            return values.reshape(rows, length, -1) * mask[..., None].to(values.dtype)
        return values[:, None] if values.shape[0] == rows else None

    def count(self, values: Tensor) -> int:
        """Return the number of vectors of `by_row` that belong to a token, not to padding."""
        mask = self._mask(values.shape[1])
        return len(self.rows) * values.shape[1] if mask is None else int(mask.sum())

    def _mask(self, length: int) -> Tensor | None:
        return self.mask if self.mask.shape[1] == length else None


def encode_pairs(
    tokenizer: Any, rows: Sequence[CalibrationRow], max_length: int | None, completion_tokens: int
) -> list[EncodedRow]:
    """Prompts and completions, the end token behind them; if they are too long, the prompt loses its beginning.

    A row without a completion keeps none, and leaves room for `completion_tokens`.
    Raises InputError (`completion-too-long`, `empty-prompt`, `no-end-token`).
    """
    encoded = []
    for row in rows:
        completion = [] if row.more is None else encode_pair(tokenizer, row.text, row.more)[1]
        needed = completion_tokens if row.more is None else len(completion)
        room = None if max_length is None else max_length - needed
        if room is not None and room < 1:
            raise InputError(
                f"a completion of {needed} tokens leaves no room for its prompt in {max_length}",
                code="completion-too-long",
                hint="raise --max-length, lower --completion-tokens, or leave the row out",
            )
        before, truncated = prompt_ids(tokenizer, row.text, room)
        encoded.append(EncodedRow(row.id, tuple(before), tuple(completion), len(completion), truncated))
    return encoded


def encode_texts(tokenizer: Any, rows: Sequence[CalibrationRow], max_length: int | None) -> list[EncodedRow]:
    """Texts or pairs of texts for a classifier, each cut at `max_length` tokens."""
    encoded = []
    for row in rows:
        texts = (row.text,) if row.more is None else (row.text, row.more)
        values = tokenizer(*texts, truncation=max_length is not None, max_length=max_length)
        whole = len(tokenizer(*texts, truncation=False, verbose=False)["input_ids"])
        extra = {name: values[name] for name in values if name not in ("input_ids", "attention_mask")}
        ids = values["input_ids"]
        encoded.append(EncodedRow(row.id, tuple(ids), (), 1, whole > len(ids), extra=extra))
    return encoded


def batches_of(tokenizer: Any, rows: Sequence[EncodedRow], batch_size: int, device: Any) -> list[Batch]:
    """Batches of rows of about one length."""
    order = fixed_batches(["·" * len(row.ids) + row.id for row in rows], batch_size)
    return [_batch(tokenizer, [rows[place] for place in places], device) for places in order]


def _batch(tokenizer: Any, rows: Sequence[EncodedRow], device: Any) -> Batch:
    labels = not rows[0].completion
    fill = tokenizer.pad_token_id if labels else end_token(tokenizer)
    ids, mask = padded([row.ids for row in rows], fill=fill, left=False, device=device)
    inputs = {"input_ids": ids, "attention_mask": mask}
    for name in rows[0].extra:
        inputs[name], _ = padded([row.extra[name] for row in rows], fill=0, left=False, device=device)
    if labels:
        return Batch(tuple(rows), inputs, mask, None)
    wanted = torch.zeros_like(mask, dtype=torch.bool)
    for place, row in enumerate(rows):
        end = len(row.ids)
        wanted[place, end - 1 - len(row.completion) : end - 1] = True
    return Batch(tuple(rows), inputs, mask, wanted)
