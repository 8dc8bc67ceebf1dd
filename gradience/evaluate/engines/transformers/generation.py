"""Greedy generation in batches: always the most likely next token, each row until it ends.

Nothing of the checkpoint's generation settings is used (temperature, sampling, penalties, further end tokens): what
an output is depends on the model, the prompt and the arguments alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradience.errors import InputError, UsageError
from gradience.evaluate.engines.base import Output
from gradience.evaluate.engines.transformers.forward import next_logits, padded
from gradience.files.records import StopReason
from gradience.models.rendering import encode_prompt, end_token


def generate_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    max_length: int | None = None,
) -> list[Output]:
    """Outputs of one batch. The rows that have ended stay in it until all have.

    So what a row is computed beside depends on the prompts alone, not on when others end, which would differ
    from adapter to adapter.
    """
    encoded = [prompt_ids(tokenizer, prompt, room_of(max_length, max_new_tokens)) for prompt in prompts]
    rows = [Row(tokenizer, tuple(stop), truncated) for _, truncated in encoded]
    first, mask = padded(
        [ids for ids, _ in encoded], fill=end_token(tokenizer), left=True, device=model.device
    )
    with torch.inference_mode():
        return greedy(rows, first, continuing(model, mask), max_new_tokens)


def continuing(model: Any, mask: Tensor) -> Callable[[Tensor], Tensor]:
    """What takes ids (rows, new), at first prompts of this mask, and gives logits (rows, vocabulary) behind them."""
    cache: Any = None

    def advance(ids: Tensor) -> Tensor:
        nonlocal cache, mask
        if cache is not None:
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        logits, cache = next_logits(model, ids, mask, cache)
        return logits

    return advance


def greedy(
    rows: Sequence[Row], first: Tensor, advance: Callable[[Tensor], Tensor], max_new_tokens: int
) -> list[Output]:
    """Outputs of rows that begin with `first`; advance: ids (rows, new) -> logits (rows, vocabulary) behind them."""
    ids = first
    for _ in range(max_new_tokens):
        ids = advance(ids).argmax(dim=-1, keepdim=True)
        for row, token in zip(rows, ids[:, 0].tolist(), strict=True):
            row.take(token)
        if all(row.stopped_by for row in rows):
            break
    return [row.output() for row in rows]


@dataclass(slots=True)
class Row:
    """The output of one prompt, token by token."""

    tokenizer: Any
    stop: tuple[str, ...]
    truncated: bool
    ids: list[int] = field(default_factory=list)
    stopped_by: StopReason | None = None

    def take(self, token: int) -> None:
        if self.stopped_by is not None:
            return
        self.ids.append(token)
        if token == end_token(self.tokenizer):
            self.stopped_by = "eos"
        elif self.stop and _first(self.stop, self._text()) is not None:
            self.stopped_by = "stop_string"

    def output(self) -> Output:
        text = self._text()
        return Output(
            text[: _first(self.stop, text)], len(self.ids), self.stopped_by or "length", self.truncated
        )

    def _text(self) -> str:
        written = self.ids[:-1] if self.stopped_by == "eos" else self.ids
        return str(self.tokenizer.decode(written, clean_up_tokenization_spaces=False))


def _first(stop: Sequence[str], text: str) -> int | None:
    """Where the first stop string begins in `text`."""
    return min((place for place in map(text.find, stop) if place >= 0), default=None)


def room_of(max_length: int | None, max_new_tokens: int) -> int | None:
    """Tokens that a prompt may have; None where nothing limits it. Raises UsageError (`no-room`)."""
    if max_length is None:
        return None
    if max_length <= max_new_tokens:
        raise UsageError(
            f"max_new_tokens={max_new_tokens} leaves no room for a prompt in max_length={max_length}",
            code="no-room",
            hint="lower max_new_tokens or raise max_length",
        )
    return max_length - max_new_tokens


def prompt_ids(tokenizer: Any, prompt: str, room: int | None) -> tuple[list[int], bool]:
    """Ids of the prompt, the last `room` of them, and whether any were cut.

    Raises InputError (`empty-prompt`) when there is nothing that a model could continue.
    """
    ids = encode_prompt(tokenizer, prompt)
    if not ids:
        raise empty_prompt()
    cut = room is not None and len(ids) > room
    return (ids[-room:] if cut and room else ids), cut


def empty_prompt() -> InputError:
    """What is raised for a prompt without tokens."""
    return InputError(
        "a prompt is empty, and the tokenizer puts nothing before it",
        code="empty-prompt",
        hint="leave this example out",
    )
