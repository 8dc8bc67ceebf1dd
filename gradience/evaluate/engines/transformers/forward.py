"""Batched forward passes: selected logits, greedy generation, labels.

With a vocabulary of 50,000 entries or more, the logits of all positions would dominate memory. And
`logits_to_keep` of transformers passes the head a three-dimensional view, for which the CPU copies the head's
weights once per row (seen with torch 2.13: 4.7 s a call). So the head gets contiguous rows. Operations after
the head (a cap, a scale) are still applied.

Generation takes the most likely next token until each row ends. The checkpoint's generation settings are
ignored (temperature, sampling, penalties, further end tokens): an output depends only on the model, the
prompt and the arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradience.errors import InputError, UsageError
from gradience.evaluate.engines.base import Classified, Decoding, Output
from gradience.files.records import StopReason
from gradience.models.rendering import encode_prompt, end_token


def logits_at(model: Any, choose: Callable[[Tensor], Tensor], **inputs: Any) -> Any:
    """Call `model` with `inputs`; the `logits` of its output have shape (rows, vocabulary).

    choose: hidden states (batch, length, width) -> the rows (rows, width) that logits are made of.
    """

    def narrow(_: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (choose(arguments[0]).contiguous(), *arguments[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(narrow)
    try:
        return model(**inputs)
    finally:
        handle.remove()


@contextmanager
def inputs_of_head(model: Any) -> Iterator[list[Tensor]]:
    """Yield a list to which every call of the model's head appends its hidden states (rows, width)."""
    inputs: list[Tensor] = []
    handle = model.get_output_embeddings().register_forward_hook(lambda _, given, __: inputs.append(given[0]))
    try:
        yield inputs
    finally:
        handle.remove()


def last(hidden: Tensor) -> Tensor:
    """The last position of each row."""
    return hidden[:, -1]


def next_logits(
    model: Any, ids: Tensor, mask: Tensor, cache: Any = None, choose: Callable[[Tensor], Tensor] = last
) -> tuple[Tensor, Any]:
    """Return logits (rows, vocabulary) of the tokens after the chosen ones, and the cache of keys and values.

    ids: (batch, new). mask: (batch, old + new), 0 for padding. choose: as in `logits_at`.
    """
    name = cache_name(model)
    seen = mask if cache is None or attends(model) else mask[:, -ids.shape[1] :]
    inputs = {"input_ids": ids, "attention_mask": seen, name: cache, "use_cache": True}
    if "position_ids" in _parameters(model):  # a model with ALiBi has none
        inputs["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    out = logits_at(model, choose, **inputs)
    return out.logits, getattr(out, name)


def cache_name(model: Any) -> str:
    """Return the name of the model's cache: `cache` since late releases of transformers 5, else `past_key_values`."""
    return "cache" if "cache" in _parameters(model) else "past_key_values"


def caches(model: Any) -> bool:
    """Return True if the model keeps keys and values, which rows may share; not a state that every token changes."""
    return cache_name(model) in _parameters(model) and not stateful(inner_of(model))


def attends(model: Any) -> bool:
    """Return False for a model without attention, such as Mamba, whose mask covers only the new tokens."""
    inner = inner_of(model)
    return not stateful(inner) or hasattr(inner.config.get_text_config(), "num_attention_heads")


def stateful(inner: Any) -> bool:
    """Return True if the model has a recurrent state, which every token changes."""
    return bool(getattr(inner, "_is_stateful", False))


def inner_of(model: Any) -> Any:
    """Return the transformers model inside a PEFT model."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _parameters(model: Any) -> frozenset[str]:
    """Parameters of the model's forward, below that of PEFT, which takes anything."""
    return frozenset(inspect.signature(inner_of(model).forward).parameters)


def padded(rows: Sequence[Sequence[int]], *, fill: int, left: bool, device: Any) -> tuple[Tensor, Tensor]:
    """Return rows of ids as one tensor (rows, longest), and its mask: 1 for every token, whatever its id."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), fill)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for place, row in enumerate(rows):
        filled = slice(longest - len(row), None) if left else slice(len(row))
        ids[place, filled] = torch.tensor(row)
        mask[place, filled] = 1
    return ids.to(device), mask.to(device)


# ---------------------------------------------------------------- generation


def generate_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    how: Decoding,
    *,
    begun: Sequence[GeneratedRow] = (),
    cache: Any = None,
) -> list[Output]:
    """Return the outputs of one batch. Finished rows stay in it until all rows have finished.

    So the batch composition depends only on the prompts, not on the lengths of other outputs, which differ
    between adapters. begun: unfinished rows to continue, one for each prompt. cache: keys and values of all their
    tokens except the last, padded on the left.
    """
    encoded = [prompt_ids(tokenizer, prompt, how.room) for prompt in prompts]
    rows = begun or [GeneratedRow(tokenizer, how, truncated) for _, truncated in encoded]
    first, mask = padded(
        [[*ids, *row.ids] for (ids, _), row in zip(encoded, rows, strict=True)],
        fill=end_token(tokenizer),
        left=True,
        device=model.device,
    )
    ids, advance = first if cache is None else first[:, -1:], continuing(model, mask, cache)
    with torch.inference_mode():
        for _ in range(how.max_new_tokens):
            logits = advance(ids)
            ids = logits.argmax(dim=-1, keepdim=True)
            gaps = gaps_between(logits.topk(2, dim=-1).values).tolist()
            for row, token, gap in zip(rows, ids[:, 0].tolist(), gaps, strict=True):
                row.take(token, gap)
            if all(row.stopped_by for row in rows):
                break
    return [row.output() for row in rows]


def continuing(model: Any, mask: Tensor, cache: Any = None) -> Callable[[Tensor], Tensor]:
    """Return a function from ids (rows, new) to next-token logits (rows, vocabulary).

    The first call takes the prompts of this mask, later calls one token per row. cache: keys and values of the mask's
    tokens before the first ids.
    """

    def advance(ids: Tensor) -> Tensor:
        nonlocal cache, mask
        logits, cache = next_logits(model, ids, mask, cache)
        mask = torch.cat([mask, mask.new_ones((len(mask), 1))], dim=1)
        return logits

    return advance


def gaps_between(two: Tensor) -> Tensor:
    """Return the gap between the two largest logits of each row: (rows, 2) -> (rows,)."""
    return two[:, 0].float() - two[:, 1].float()


@dataclass(slots=True)
class GeneratedRow:
    """The output of one prompt, token by token."""

    tokenizer: Any
    how: Decoding
    truncated: bool
    ids: list[int] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    stopped_by: StopReason | None = None

    def take(self, token: int, gap: float | None = None) -> None:
        if self.stopped_by is not None:
            return
        self.ids.append(token)
        if gap is not None:
            self.gaps.append(gap)
        if token == end_token(self.tokenizer):
            self.stopped_by = "eos"
        elif self.how.stop and _first(self.how.stop, self._text()) is not None:
            self.stopped_by = "stop_string"
        elif len(self.ids) == self.how.max_new_tokens:
            self.stopped_by = "length"

    def output(self) -> Output:
        text = self._text()
        return Output(
            text[: _first(self.how.stop, text)],
            len(self.ids),
            self.stopped_by or "length",
            self.truncated,
            tuple(self.ids),
            tuple(self.gaps),
        )

    def _text(self) -> str:
        written = self.ids[:-1] if self.stopped_by == "eos" else self.ids
        return str(self.tokenizer.decode(written, clean_up_tokenization_spaces=False))


def _first(stop: Sequence[str], text: str) -> int | None:
    """Return the position of the earliest stop string in `text`."""
    return min((place for place in map(text.find, stop) if place >= 0), default=None)


def prompt_ids(tokenizer: Any, prompt: str, room: int | None) -> tuple[list[int], bool]:
    """Return the last `room` ids of the prompt, and True if it was truncated.

    Raises InputError (`empty-prompt`) if the prompt has no tokens.
    """
    ids = encode_prompt(tokenizer, prompt)
    if not ids:
        raise InputError(
            "a prompt is empty, and the tokenizer adds no start token",
            code="empty-prompt",
            hint="leave this example out",
        )
    cut = room is not None and len(ids) > room
    return (ids[-room:] if cut and room else ids), cut


# ---------------------------------------------------------------- labels


def classify_batch(
    model: Any, tokenizer: Any, texts: Sequence[tuple[str, str | None]], *, max_length: int | None
) -> list[Classified]:
    """Logits of one batch of texts or pairs, each cut at `max_length` tokens.

    Raises UsageError (`mixed-examples`).
    """
    if len({second is None for _, second in texts}) > 1:
        raise UsageError("some examples are pairs of texts and some are not", code="mixed-examples")
    rows, truncated = [], []
    for first, second in texts:
        given = (first,) if second is None else (first, second)
        row = tokenizer(*given, verbose=False)
        truncated.append(max_length is not None and len(row["input_ids"]) > max_length)
        if truncated[-1]:
            row = tokenizer(*given, truncation=True, max_length=max_length, verbose=False)
        rows.append({name: list(values) for name, values in row.items()})
    inputs = tokenizer.pad(rows, return_tensors="pt", verbose=False).to(model.device)
    with torch.inference_mode():
        logits = model(**inputs).logits.float().cpu().numpy()
    return [Classified(*row) for row in zip(logits, truncated, strict=True)]
