"""Several responses behind one prompt: the prompt is read once, and its keys and values serve all of them.

Of multiple choice that is most of the work, of choices of one token all of it: they need no second pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from gradience.evaluate.engines.transformers.forward import caches, next_logits, padded


def shared_logits(
    model: Any, rows: Sequence[tuple[list[int], list[int]]], fill: int, device: torch.device
) -> Tensor | None:
    """Logits (response tokens, vocabulary) of (prompt, response) ids, in their order; every prompt is read once.

    None where that is not possible or does not save anything: no prompt is there twice, or the model keeps something
    else than keys and values.
    """
    places = {
        prompt: place for place, prompt in enumerate(dict.fromkeys(tuple(before) for before, _ in rows))
    }
    if len(places) == len(rows) or not caches(model):
        return None
    ids, mask = padded([list(prompt) for prompt in places], fill=fill, left=True, device=device)
    first, cache = next_logits(model, ids, mask)
    prompt_of = torch.tensor([places[tuple(before)] for before, _ in rows], device=device)
    longer = [place for place, (_, response) in enumerate(rows) if len(response) > 1]
    if not longer:
        return first[prompt_of]
    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return None
    of_longer = prompt_of[torch.tensor(longer, device=device)]
    cache.batch_select_indices(of_longer)
    ids, beyond = padded([rows[place][1][:-1] for place in longer], fill=fill, left=False, device=device)
    wanted = beyond.bool()
    rest, _ = next_logits(
        model, ids, torch.cat([mask[of_longer], beyond], dim=1), cache, lambda hidden: hidden[wanted]
    )
    return torch.cat([first, rest])[_order(rows, prompt_of.tolist(), len(first), device)]


def _order(
    rows: Sequence[tuple[list[int], list[int]]], prompt_of: Sequence[int], rest: int, device: torch.device
) -> Tensor:
    """Where the logits of each token are: of a first one at its prompt, of the others one behind the other."""
    order: list[int] = []
    for (_, response), prompt in zip(rows, prompt_of, strict=True):
        if response:
            order += [prompt, *range(rest, rest + len(response) - 1)]
            rest += len(response) - 1
    return torch.tensor(order, device=device)
