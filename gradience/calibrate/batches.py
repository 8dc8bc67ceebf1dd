"""Rows as batches of tensors: which positions are scored, which are padding, and which row a number belongs to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradience.calibrate.inputs import CalibrationRow
from gradience.errors import InputError
from gradience.evaluate.engines.base import fixed_batches
from gradience.evaluate.engines.transformers.forward import continuing, logits_at, padded, prompt_ids
from gradience.models.rendering import encode_pair, end_token
from gradience.spectra import FloatArray


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One row as token ids. For a classifier, the prompt is the whole text, and its label is scored.

    scored: number of labels drawn for the row.
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


# ---------------------------------------------------------------- random numbers and completions
#
# Random numbers depend on the row, not on its position. Missing completions are sampled from the full distribution:
# temperature 1, no top-k or top-p.


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
