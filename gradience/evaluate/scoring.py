"""How likely models find given responses, with the right tokens before each: no generation, one forward a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradience.errors import InputError
from gradience.evaluate.forward import logits_at, padded
from gradience.evaluate.generation import prompt_ids
from gradience.evaluate.session import Session
from gradience.models.rendering import encode_pair, end_token

CHUNK = 2**24
"""Logits that are held in float32 at a time."""


@dataclass(frozen=True, slots=True)
class Score:
    """One response under one model; sums over its tokens and the end token, in nats."""

    loglikelihood: float
    n_tokens: int
    exact: bool
    kl: float | None
    flips: int | None
    truncated: bool


def score_batch(
    session: Session,
    names: Sequence[str | None],
    pairs: Sequence[tuple[str, str]],
    *,
    reference: str | None = None,
    max_length: int | None = None,
) -> list[list[Score]]:
    """Scores of the (prompt, response) pairs under each of `names`, in their order.

    reference: the adapter that KL(reference ‖ adapter) and changed argmaxes are measured against.
    """
    batch = _Batch(session, [_fitted(session.tokenizer, *pair, max_length) for pair in pairs])
    scores = []
    with torch.inference_mode():
        told = batch.logits(reference) if reference is not None else None
        for name in names:
            own = told if told is not None and name == reference else batch.logits(name)
            scores.append(batch.scores(own, told))
    return scores


@dataclass(frozen=True, slots=True)
class _Pair:
    prompt: list[int]
    response: list[int]
    truncated: bool


def _fitted(tokenizer: Any, prompt: str, response: str, max_length: int | None) -> _Pair:
    """Ids of both; where they are too many, the prompt loses its beginning, never the response its end."""
    _, answer = encode_pair(tokenizer, prompt, response)
    room = None if max_length is None else max_length - len(answer)
    if room is not None and room < 1:
        raise InputError(
            f"a response of {len(answer)} tokens leaves no room for its prompt in max_length={max_length}",
            code="response-too-long",
            hint="allow a longer text or leave this example out",
        )
    before, truncated = prompt_ids(tokenizer, prompt, room)
    return _Pair(before, answer, truncated)


class _Batch:
    """Pairs padded on the right, and the places whose next token belongs to a response."""

    def __init__(self, session: Session, pairs: Sequence[_Pair]) -> None:
        self.session, self.pairs = session, pairs
        rows = [pair.prompt + pair.response for pair in pairs]
        device = session.base.device
        self.ids, self.mask = padded(rows, fill=end_token(session.tokenizer), left=False, device=device)
        self.wanted = torch.zeros_like(self.mask, dtype=torch.bool)
        for place, pair in enumerate(pairs):
            self.wanted[place, len(pair.prompt) - 1 : len(rows[place]) - 1] = True
        self.targets = torch.tensor([token for pair in pairs for token in pair.response], device=device)

    def logits(self, name: str | None) -> Tensor:
        """Shape (response tokens of the batch, vocabulary), in the base's dtype."""
        with self.session.using(name) as model:
            out = logits_at(
                model,
                lambda hidden: hidden[self.wanted],
                input_ids=self.ids,
                attention_mask=self.mask,
                use_cache=False,
            )
        found: Tensor = out.logits
        return found

    def scores(self, own: Tensor, told: Tensor | None) -> list[Score]:
        """Sums over the tokens of each pair."""
        terms = measure(own, self.targets, told)
        ends = accumulate(len(pair.response) for pair in self.pairs)
        return [
            _summed(terms, slice(end - len(pair.response), end), pair)
            for pair, end in zip(self.pairs, ends, strict=True)
        ]


class Terms(NamedTuple):
    """One value for every token of the responses of a batch: shape (tokens,), on the processor."""

    likelihood: Tensor
    """Log of the probability of the token, float64."""
    hits: Tensor
    """Whether it is the most likely one."""
    kl: Tensor | None
    """KL(reference ‖ adapter) of the whole distribution, float64; None without a reference."""
    flips: Tensor | None
    """Whether another token is the most likely one than under the reference."""


def measure(own: Tensor, targets: Tensor, told: Tensor | None = None) -> Terms:
    """Terms of the tokens `targets` (tokens,) under the logits `own`, with the reference's logits `told`.

    own, told: (tokens, vocabulary), in any dtype; a few rows at a time are made float32.
    """
    rows = max(1, CHUNK // own.shape[1])
    some = [slice(start, start + rows) for start in range(0, len(own), rows)]
    parts = [_measure(own[few], targets[few], None if told is None else told[few]) for few in some]
    return Terms(
        likelihood=torch.cat([part.likelihood for part in parts]),
        hits=torch.cat([part.hits for part in parts]),
        kl=torch.cat([part.kl for part in parts if part.kl is not None]) if told is not None else None,
        flips=torch.cat([part.flips for part in parts if part.flips is not None])
        if told is not None
        else None,
    )


def _measure(own: Tensor, targets: Tensor, told: Tensor | None) -> Terms:
    logs, best = own.float().log_softmax(dim=-1), own.argmax(dim=-1)
    # To the processor first: MPS has no float64.
    likelihood, hits = logs.gather(1, targets[:, None])[:, 0].cpu().double(), (best == targets).cpu()
    if told is None:
        return Terms(likelihood, hits, None, None)
    truth = told.float().log_softmax(dim=-1)
    kl = (truth.exp() * (truth - logs)).sum(dim=-1)
    return Terms(likelihood, hits, kl.cpu().double(), (told.argmax(dim=-1) != best).cpu())


def _summed(terms: Terms, where: slice, pair: _Pair) -> Score:
    return Score(
        loglikelihood=float(terms.likelihood[where].sum()),
        n_tokens=len(pair.response),
        exact=bool(terms.hits[where].all()),
        kl=None
        if terms.kl is None
        else max(0.0, float(terms.kl[where].sum())),  # rounding may leave it below 0
        flips=None if terms.flips is None else int(terms.flips[where].sum()),
        truncated=pair.truncated,
    )
