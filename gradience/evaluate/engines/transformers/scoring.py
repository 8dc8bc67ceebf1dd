"""How likely models find given responses, with the right tokens before each: no generation, one forward a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from gradience.errors import InputError
from gradience.evaluate.engines.base import Score
from gradience.evaluate.engines.transformers.forward import logits_at, padded
from gradience.evaluate.engines.transformers.generation import prompt_ids
from gradience.evaluate.engines.transformers.shared_prompts import shared_logits
from gradience.models.rendering import begin_token, encode_pair, encode_prompt, end_token

N = TypeVar("N", int, float)

CHUNK = 2**24
"""Logits that are held in float32 at a time."""


@dataclass(frozen=True, slots=True)
class Pair:
    prompt: list[int]
    response: list[int]
    truncated: bool


def fitted(tokenizer: Any, prompt: str, response: str, max_length: int | None, *, end: bool) -> Pair:
    """Ids of both; where they are too many, the prompt loses its beginning, never the response its end."""
    _, answer = encode_pair(tokenizer, prompt, response)
    answer = answer if end else answer[:-1]
    room = None if max_length is None else max_length - len(answer)
    if max_length is not None and len(answer) >= max_length:
        raise no_room(len(answer), max_length)
    before, truncated = prompt_ids(tokenizer, prompt, room) if prompt else ([begin_token(tokenizer)], False)
    return Pair(before, answer, truncated)


def no_room(tokens: int, max_length: int) -> InputError:
    """What is raised for a response that is too long."""
    return InputError(
        f"a response of {tokens} tokens leaves no room for its prompt in max_length={max_length}",
        code="response-too-long",
        hint="raise max_length or leave this example out",
    )


def windows_of(tokenizer: Any, text: str, max_length: int | None) -> list[Pair]:
    """A whole text in windows of `max_length` tokens, each behind the last token before it; the first behind the begin
    token.

    As lm-evaluation-harness has them (`get_rolling_token_windows` with a context of one token): of the last window the
    context reaches back as far as there is room. A begin token that the tokenizer puts before every text is predicted.
    """
    ids = encode_prompt(tokenizer, text)
    limit = max_length or max(1, len(ids))
    before = [begin_token(tokenizer), *ids]
    pairs = []
    for start in range(0, len(ids), limit):
        end = min(start + limit, len(ids))
        pairs.append(Pair(before[max(0, end - limit) : start + 1], ids[start:end], truncated=False))
    return pairs


class ResponseBatch:
    """Pairs padded on the right, and the places whose next token belongs to a response."""

    def __init__(
        self,
        tokenizer: Any,
        pairs: Sequence[tuple[str, str]],
        max_length: int | None,
        device: torch.device,
        *,
        end: bool = True,
    ) -> None:
        """Tokenise (prompt, response) pairs, each of `max_length` tokens at most.

        end: the end token counts. Without it the responses are choices, and those of one prompt read it once.
        """
        self.fill, self.device, self.choices = end_token(tokenizer), device, not end
        self.pairs = [fitted(tokenizer, *pair, max_length, end=end) for pair in pairs]
        rows = [pair.prompt + pair.response for pair in self.pairs]
        self.ids, self.mask = padded(rows, fill=self.fill, left=False, device=device)
        self.wanted = torch.zeros_like(self.mask, dtype=torch.bool)
        for place, pair in enumerate(self.pairs):
            self.wanted[place, len(pair.prompt) - 1 : len(rows[place]) - 1] = True
        self.targets = torch.tensor([token for pair in self.pairs for token in pair.response], device=device)

    def logits(self, model: Any) -> Tensor:
        """Shape (response tokens of the batch, vocabulary), in the base's dtype."""
        if self.choices:
            rows = [(pair.prompt, pair.response) for pair in self.pairs]
            shared = shared_logits(model, rows, self.fill, self.device)
            if shared is not None:
                return shared
        logits: Tensor = logits_at(
            model,
            lambda hidden: hidden[self.wanted],
            input_ids=self.ids,
            attention_mask=self.mask,
            use_cache=False,
        ).logits
        return logits

    def scores(self, adapter_logits: Tensor, reference_logits: Tensor | None) -> list[Score]:
        """Sums over the tokens of each pair."""
        return scores_of(self.pairs, self.targets, adapter_logits, reference_logits)


def scores_of(
    pairs: Sequence[Pair], targets: Tensor, adapter_logits: Tensor, reference_logits: Tensor | None
) -> list[Score]:
    """Sums over the tokens of each pair; `targets` are those of all responses, one behind the other."""
    terms = measure(adapter_logits, targets, reference_logits)
    ends = accumulate(len(pair.response) for pair in pairs)
    return [
        _summed(terms, slice(end - len(pair.response), end), pair)
        for pair, end in zip(pairs, ends, strict=True)
    ]


class Window(ResponseBatch):
    """One window of a text: a batch of its own, since a window is as long as the model allows."""

    def __init__(self, pair: Pair, device: torch.device) -> None:
        """Without its last token, which predicts nothing: there may be no place for it in the model."""
        row = (pair.prompt + pair.response)[:-1]
        self.pairs, self.choices = [pair], False
        self.ids = torch.tensor([row], device=device)
        self.mask = torch.ones_like(self.ids)
        self.wanted = torch.zeros_like(self.mask, dtype=torch.bool)
        self.wanted[0, len(pair.prompt) - 1 :] = True
        self.targets = torch.tensor(pair.response, device=device)


def score_texts(
    score: Callable[[Window], list[list[Score]]],
    tokenizer: Any,
    texts: Sequence[str],
    max_length: int | None,
    device: torch.device,
) -> list[list[Score]]:
    """Scores of whole texts under each adapter. score: a window -> its score under each of them."""
    windows = [
        [score(Window(pair, device)) for pair in windows_of(tokenizer, text, max_length)] for text in texts
    ]
    adapters = range(len(windows[0][0]))
    return [[_summed_up([one[place][0] for one in parts]) for parts in windows] for place in adapters]


def _summed_up(windows: Sequence[Score]) -> Score:
    """The score of a text from those of its windows."""
    return Score(
        loglikelihood=sum(score.loglikelihood for score in windows),
        n_tokens=sum(score.n_tokens for score in windows),
        exact=all(score.exact for score in windows),
        kl=_total([score.kl for score in windows]),
        flips=_total([score.flips for score in windows]),
        truncated=False,
    )


def _total(values: Sequence[N | None]) -> N | None:
    known = [value for value in values if value is not None]
    return sum(known[1:], start=known[0]) if known else None


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


def measure(adapter_logits: Tensor, targets: Tensor, reference_logits: Tensor | None = None) -> Terms:
    """Terms of the tokens `targets` (tokens,) under an adapter's logits, against those of the reference.

    Logits are (tokens, vocabulary), in any dtype; a few rows at a time are made float32.
    """
    rows = max(1, CHUNK // adapter_logits.shape[1])
    parts = [
        _measure(
            adapter_logits[few], targets[few], None if reference_logits is None else reference_logits[few]
        )
        for few in (slice(start, start + rows) for start in range(0, len(adapter_logits), rows))
    ]
    return Terms(
        likelihood=torch.cat([part.likelihood for part in parts]),
        hits=torch.cat([part.hits for part in parts]),
        kl=_joined(part.kl for part in parts),
        flips=_joined(part.flips for part in parts),
    )


def _joined(parts: Iterable[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _measure(adapter_logits: Tensor, targets: Tensor, reference_logits: Tensor | None) -> Terms:
    logs, best = adapter_logits.float().log_softmax(dim=-1), adapter_logits.argmax(dim=-1)
    # To the processor first: MPS has no float64.
    likelihood, hits = logs.gather(1, targets[:, None])[:, 0].cpu().double(), (best == targets).cpu()
    if reference_logits is None:
        return Terms(likelihood, hits, None, None)
    reference_logs = reference_logits.float().log_softmax(dim=-1)
    kl = (reference_logs.exp() * (reference_logs - logs)).sum(dim=-1)
    return Terms(likelihood, hits, kl.cpu().double(), (reference_logits.argmax(dim=-1) != best).cpu())


def _summed(terms: Terms, where: slice, pair: Pair) -> Score:
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
