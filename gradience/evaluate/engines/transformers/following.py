"""One pass in place of generation: the outputs of another adapter are drafts, which an adapter's largest logits verify.

A greedy output equals its draft exactly if each token of the draft is the most likely one behind those before it, and a
single forward pass tells that of all of them. What is written behind the first other token has to be generated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradience.evaluate.engines.base import Draft, Score
from gradience.evaluate.engines.transformers.forward import (
    GeneratedRow,
    gaps_of,
    logits_at,
    prompt_ids,
    room_of,
)
from gradience.evaluate.engines.transformers.scoring import EncodedPair, ResponseBatch, fitted, scores_of
from gradience.models.rendering import encode_pair, end_token

LOGITS = {"cpu": 2**26}
"""Logits of a pass at most, unless a single row has more: 256 MiB in float32."""
MORE_LOGITS = 2**28
"""Logits of a pass on other devices."""
STATES = 2**31
"""Bytes of the reference's states that are kept; those of further rows are computed for each adapter."""


@dataclass(frozen=True, slots=True)
class FollowedRow:
    """A draft behind its prompt, as ids, and the response that is scored in the same pass."""

    draft: EncodedPair
    response: EncodedPair | None
    texts: tuple[str, str | None]

    @property
    def tokens(self) -> int:
        """Positions that logits are made for."""
        return len(self.draft.response) + (0 if self.response is None else len(self.response.response))


def followed_row(
    tokenizer: Any, draft: Draft, stop: Sequence[str], max_new_tokens: int, max_length: int | None
) -> FollowedRow:
    """Return the ids of a draft and its response. A text without ids is encoded again, which may give other tokens:
    these are then not the most likely ones, and the output is generated from there on."""
    ids, output = list(draft.output.ids), draft.output
    if not ids:
        ends = stop[0] if stop and output.stopped_by == "stop_string" else ""
        _, ids = encode_pair(tokenizer, draft.prompt, output.text + ends)
        ids = ids if output.stopped_by == "eos" else ids[:-1]
    prompt, truncated = prompt_ids(tokenizer, draft.prompt, room_of(max_length, max_new_tokens))
    response = (
        None
        if draft.response is None
        else fitted(tokenizer, draft.prompt, draft.response, max_length, end=True)
    )
    pair = EncodedPair(prompt, ids[:max_new_tokens], truncated)
    return FollowedRow(pair, response, (draft.prompt, draft.response))


def passes(rows: Sequence[FollowedRow], vocabulary: int, device: torch.device) -> Iterator[list[FollowedRow]]:
    """Yield the rows that are read together."""
    limit, few, tokens = LOGITS.get(device.type, MORE_LOGITS) // vocabulary, list[FollowedRow](), 0
    for row in rows:
        if few and tokens + row.tokens > limit:
            yield few
            few, tokens = [], 0
        few.append(row)
        tokens += row.tokens
    if few:
        yield few


def read_drafts(
    rows: Sequence[FollowedRow], tokenizer: Any, device: torch.device, read: Callable[[ResponseBatch], Tensor]
) -> tuple[list[tuple[list[int], list[float]]], Tensor | None]:
    """Return the most likely token at each place of each draft with its gap, and the logits of all responses.

    Prompt, draft and response of a row are read once each, and once together if draft and response are the same.
    """
    pairs: dict[tuple[tuple[int, ...], tuple[int, ...]], EncodedPair] = {}

    def place(pair: EncodedPair) -> tuple[tuple[int, ...], tuple[int, ...]]:
        key = tuple(pair.prompt), tuple(pair.response)
        pairs.setdefault(key, pair)
        return key

    drafts = [place(row.draft) for row in rows]
    responses = [place(row.response) for row in rows if row.response is not None]
    batch = ResponseBatch(tokenizer, list(pairs.values()), device, choices=True)
    sizes = [len(response) for _, response in pairs]
    logits = dict(zip(pairs, torch.split(read(batch), sizes), strict=True))
    tops = []
    for key in drafts:
        best, gaps = logits[key].argmax(dim=-1), gaps_of(logits[key])
        tops.append((best.tolist(), gaps.tolist()))
    return tops, torch.cat([logits[key] for key in responses]) if responses else None


def verified(
    row: FollowedRow, tops: tuple[list[int], list[float]], near_tie: float, begun: GeneratedRow
) -> None:
    """Append the most likely tokens to `begun`, up to the first that differs from the draft or is a near tie."""
    for wanted, token, gap in zip(row.draft.response, *tops, strict=True):
        if gap <= near_tie:
            return
        begun.take(token, gap)
        if begun.stopped_by is not None or token != wanted:
            return


@dataclass(slots=True)
class KeptStates:
    """The reference's last hidden states on the responses, read once for all adapters."""

    of: dict[Any, Tensor] = field(default_factory=dict)
    bytes: int = 0

    def logits(
        self, rows: Sequence[FollowedRow], tokenizer: Any, using: Callable[[], Any], device: torch.device
    ) -> Tensor:
        """Return the reference's logits of shape (tokens of all responses, vocabulary). using: switches to it."""
        missing = [row for row in rows if row.texts not in self.of]
        new: Mapping[Any, Tensor] = {}
        with using() as model:
            if missing:
                pairs = [row.response for row in missing if row.response is not None]
                states = ResponseBatch(tokenizer, pairs, device).states(model)
                split = torch.split(states, [len(pair.response) for pair in pairs])
                new = {row.texts: part.cpu() for row, part in zip(missing, split, strict=True)}
            states = torch.cat([new[row.texts] if row.texts in new else self.of[row.texts] for row in rows])
            states, one = states.to(device), torch.tensor([[end_token(tokenizer)]], device=device)
            logits: Tensor = logits_at(model, lambda _: states, input_ids=one, use_cache=False).logits
        for texts, part in new.items():
            if self.bytes + part.nbytes <= STATES:
                self.of[texts] = part.clone()
                self.bytes += part.nbytes
        return logits


def scores(rows: Sequence[FollowedRow], logits: Tensor, of_reference: Tensor | None) -> list[Score]:
    """Return the score of each response."""
    pairs = [row.response for row in rows if row.response is not None]
    targets = torch.tensor([token for pair in pairs for token in pair.response], device=logits.device)
    return scores_of(pairs, targets, logits, of_reference)
