"""Encoder–decoder models: the prompt goes into the encoder whole, and the decoder begins anew.

Prompts and targets are tokenized as they are in training (`tokenizer(prompt)`, `tokenizer(text_target=response)`), so a
target has no blank before it. What a tokenizer puts before every target (BART's `<s>`) is given to the decoder, as
transformers' `forced_bos_token_id` does: it is neither generated nor scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradience.errors import InputError
from gradience.evaluate.engines.base import Output
from gradience.evaluate.engines.transformers.forward import (
    GeneratedRow,
    cache_name,
    empty_prompt,
    greedy,
    inner_of,
    last,
    logits_at,
    padded,
)
from gradience.evaluate.engines.transformers.scoring import EncodedPair, no_room
from gradience.models.rendering import end_token


def generate_targets(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    max_length: int | None = None,
) -> list[Output]:
    """Outputs of one batch; `max_length`: tokens of a prompt, and of an output. Raises as `generate_batch`."""
    sources = [source_ids(tokenizer, prompt, max_length) for prompt in prompts]
    rows = [GeneratedRow(tokenizer, tuple(stop), cut) for _, cut in sources]
    first = opening(model, tokenizer)
    room = max_new_tokens if max_length is None else min(max_new_tokens, max_length - len(first))
    with torch.inference_mode():
        advance = decoding(model, tokenizer, [ids for ids, _ in sources])
        return greedy(rows, torch.tensor([first] * len(rows), device=model.device), advance, room)


def decoding(model: Any, tokenizer: Any, sources: Sequence[list[int]]) -> Callable[[Tensor], Tensor]:
    """Encode `sources`; what is returned takes ids (rows, new) of the decoder, and gives logits behind them."""
    name, cache, encoded = cache_name(model), None, _encoded(model, tokenizer, sources)

    def advance(ids: Tensor) -> Tensor:
        nonlocal cache
        inputs = {"decoder_input_ids": ids, name: cache, "use_cache": True, **encoded}
        out = logits_at(model, last, **inputs)
        cache = getattr(out, name)
        return out.logits  # type: ignore[no-any-return]

    return advance


class TargetBatch:
    """Pairs of a prompt and a target; a prompt that several pairs share is encoded once."""

    def __init__(
        self,
        tokenizer: Any,
        pairs: Sequence[tuple[str, str]],
        max_length: int | None,
        device: torch.device,
        *,
        end: bool = True,
    ) -> None:
        """Tokenize (prompt, response) pairs; `max_length`: tokens of each; `end`: the end token counts."""
        self.tokenizer, self.device, before = tokenizer, device, _before(tokenizer)
        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompt for prompt, _ in pairs))}
        sources = [source_ids(tokenizer, prompt, max_length) for prompt in places]
        self.sources = [ids for ids, _ in sources]
        self.source_of = torch.tensor([places[prompt] for prompt, _ in pairs], device=device)
        self.pairs = [
            EncodedPair(before, target_ids(tokenizer, response, end=end), sources[places[prompt]][1])
            for prompt, response in pairs
        ]
        for pair in self.pairs:
            if max_length is not None and len(before) + len(pair.response) > max_length:
                raise no_room(len(pair.response), max_length)
        self.targets = torch.tensor([token for pair in self.pairs for token in pair.response], device=device)

    def logits(self, model: Any) -> Tensor:
        """Shape (tokens of the targets, vocabulary), in the base's dtype."""
        first = opening(model, self.tokenizer)
        rows = [[*first, *pair.response[:-1]] for pair in self.pairs]
        ids, mask = padded(rows, fill=end_token(self.tokenizer), left=False, device=self.device)
        wanted = mask.bool()
        wanted[:, : len(first) - 1] = False
        wanted &= torch.tensor([bool(pair.response) for pair in self.pairs], device=self.device)[:, None]
        encoded = _encoded(model, self.tokenizer, self.sources, self.source_of)
        logits: Tensor = logits_at(
            model, lambda hidden: hidden[wanted], decoder_input_ids=ids, use_cache=False, **encoded
        ).logits
        return logits


def _encoded(
    model: Any, tokenizer: Any, sources: Sequence[list[int]], rows: Tensor | None = None
) -> dict[str, Any]:
    """Return what the decoder attends to: the encoder's states of `sources`, each once or as `rows` says, and their
    mask."""
    ids, mask = padded(sources, fill=end_token(tokenizer), left=False, device=model.device)
    states = inner_of(model).get_encoder()(input_ids=ids, attention_mask=mask)
    if rows is not None:
        states.last_hidden_state, mask = states.last_hidden_state[rows], mask[rows]
    return {"encoder_outputs": states, "attention_mask": mask}


def source_ids(tokenizer: Any, prompt: str, limit: int | None) -> tuple[list[int], bool]:
    """Return the ids of the prompt, and whether its end was cut, its end token apart."""
    ids = list(tokenizer(prompt, verbose=False)["input_ids"])
    if not ids:
        raise empty_prompt()
    if limit is None or len(ids) <= limit:
        return ids, False
    last = ids[-1:] if ids[-1] == end_token(tokenizer) else []
    return [*ids[: limit - len(last)], *last], True


def target_ids(tokenizer: Any, response: str, *, end: bool) -> list[int]:
    """Return the ids of the response as a target, without the tokens that begin every target."""
    ids = _target(tokenizer, response.lstrip(" "))[len(_before(tokenizer)) :]
    return [*ids, end_token(tokenizer)] if end else ids


def _before(tokenizer: Any) -> list[int]:
    """Return what the tokenizer puts before every target."""
    return _target(tokenizer, "")


def _target(tokenizer: Any, text: str) -> list[int]:
    """Return a target without its end token."""
    ids = list(tokenizer(text_target=text, verbose=False)["input_ids"])
    return ids[:-1] if ids and ids[-1] == end_token(tokenizer) else ids


def opening(model: Any, tokenizer: Any) -> list[int]:
    """Return with what every decoder of this model begins; its last token predicts the first that is scored.

    Raises InputError (`no-decoder-start`).
    """
    config = inner_of(model).config
    start = getattr(config, "decoder_start_token_id", None)
    if start is None:
        raise InputError(
            f"{config._name_or_path}: its config.json has no decoder_start_token_id",
            code="no-decoder-start",
            hint="set it to the token that started the decoder's sequences in training",
        )
    return [int(start), *_before(tokenizer)]
