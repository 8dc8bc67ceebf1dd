"""One forward pass of a causal language model that makes logits only where they are wanted.

A vocabulary has 50,000 entries and more, so that the logits of all positions would outweigh everything else. And
`logits_to_keep` of transformers hands the head a view of three dimensions, for which the processor copies the
head's weights once for every row (seen with torch 2.13: 4.7 s a call). So the head is given contiguous rows. What
the model does behind its head (a cap, a scale) still happens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


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


def last(hidden: Tensor) -> Tensor:
    """The last position of each row."""
    return hidden[:, -1]


def next_logits(
    model: Any, ids: Tensor, mask: Tensor, cache: Any = None, choose: Callable[[Tensor], Tensor] = last
) -> tuple[Tensor, Any]:
    """Logits (rows, vocabulary) of the tokens after the chosen ones, and the cache of keys and values.

    ids: (batch, new). mask: (batch, old + new), 0 where a row is padded. choose: as in `logits_at`.
    """
    name = cache_name(model)
    inputs = {"input_ids": ids, "attention_mask": mask, name: cache, "use_cache": True}
    if "position_ids" in _parameters(model):  # a model with ALiBi has none
        inputs["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    out = logits_at(model, choose, **inputs)
    return out.logits, getattr(out, name)


def cache_name(model: Any) -> str:
    """What the model calls its cache: late releases of transformers 5 `cache`; before, it was `past_key_values`."""
    return "cache" if "cache" in _parameters(model) else "past_key_values"


def caches(model: Any) -> bool:
    """Whether the model keeps keys and values, which rows may share; not a state that every token changes."""
    return cache_name(model) in _parameters(model) and not getattr(inner_of(model), "_is_stateful", False)


def inner_of(model: Any) -> Any:
    """The model of transformers below that of PEFT."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _parameters(model: Any) -> frozenset[str]:
    """Parameters of the model's forward, below that of PEFT, which takes anything."""
    return frozenset(inspect.signature(inner_of(model).forward).parameters)


def padded(rows: Sequence[list[int]], *, fill: int, left: bool, device: Any) -> tuple[Tensor, Tensor]:
    """Rows of ids as one tensor (rows, longest), and its mask: 1 where there is a token, whatever its id is."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), fill)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for place, row in enumerate(rows):
        where = slice(longest - len(row), None) if left else slice(len(row))
        ids[place, where] = torch.tensor(row)
        mask[place, where] = 1
    return ids.to(device), mask.to(device)
