"""Likelihood of given responses, and outputs behind drafts, by teacher forcing: one forward pass a batch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from gradience.errors import InputError
from gradience.evaluate.engines.base import Draft, Score
from gradience.evaluate.engines.transformers.forward import (
    GeneratedRow,
    caches,
    gaps_of,
    logits_at,
    next_logits,
    padded,
    prompt_ids,
    room_of,
)
from gradience.models.rendering import begin_token, encode_pair, encode_prompt, end_token

CHUNK = 2**24
"""Logits that are held in float32 at a time."""


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A prompt and the response behind it, as ids."""

    prompt: list[int]
    response: list[int]
    truncated: bool


def fitted(tokenizer: Any, prompt: str, response: str, max_length: int | None, *, end: bool) -> EncodedPair:
    """Return the ids of both. If they are too long, the prompt is truncated at its beginning; the response
    keeps its end.
    """
    _, response_ids = encode_pair(tokenizer, prompt, response)
    response_ids = response_ids if end else response_ids[:-1]
    room = None if max_length is None else max_length - len(response_ids)
    if max_length is not None and len(response_ids) >= max_length:
        raise InputError(
            f"a response of {len(response_ids)} tokens leaves no room for its prompt in max_length={max_length}",
            code="response-too-long",
            hint="raise max_length or leave this example out",
        )
    before, truncated = prompt_ids(tokenizer, prompt, room) if prompt else ([begin_token(tokenizer)], False)
    return EncodedPair(before, response_ids, truncated)


def windows_of(tokenizer: Any, text: str, max_length: int | None) -> list[EncodedPair]:
    """Return a whole text in windows of `max_length` tokens, each behind the last token before it; the first behind the
    begin token.

    As lm-evaluation-harness has them (`get_rolling_token_windows` with a context of one token): of the last window the
    context reaches back as far as there is room. A begin token that the tokenizer puts before every text is predicted.
    """
    ids = encode_prompt(tokenizer, text)
    limit = max_length or max(1, len(ids))
    before = [begin_token(tokenizer), *ids]
    pairs = []
    for start in range(0, len(ids), limit):
        end = min(start + limit, len(ids))
        pairs.append(EncodedPair(before[max(0, end - limit) : start + 1], ids[start:end], truncated=False))
    return pairs


class ResponseBatch:
    """Pairs padded on the right, and the places whose next token belongs to a response."""

    def __init__(
        self,
        tokenizer: Any,
        pairs: Sequence[EncodedPair],
        device: torch.device,
        *,
        choices: bool = False,
        window: bool = False,
    ) -> None:
        """choices: those of one prompt read it once. window: without the last token, which predicts nothing, since a
        window may be as long as the model allows."""
        self.fill, self.device, self.choices, self.pairs = end_token(tokenizer), device, choices, pairs
        rows = [pair.prompt + pair.response for pair in pairs]
        self.ids, self.mask = padded(
            [row[:-1] for row in rows] if window else rows, fill=self.fill, left=False, device=device
        )
        self.wanted = torch.zeros_like(self.mask, dtype=torch.bool)
        for place, pair in enumerate(pairs):
            self.wanted[place, len(pair.prompt) - 1 : len(rows[place]) - 1] = True
        self.targets = torch.tensor([token for pair in pairs for token in pair.response], device=device)

    def logits(self, model: Any) -> Tensor:
        """Return logits of shape (response tokens of the batch, vocabulary), in the base's dtype."""
        shared = shared_logits(model, self.pairs, self.fill, self.device) if self.choices else None
        return self._read(model, lambda hidden: hidden) if shared is None else shared

    def states(self, model: Any) -> Tensor:
        """Return what the head makes these logits of: shape (response tokens of the batch, width)."""
        states: list[Tensor] = []

        def keep(hidden: Tensor) -> Tensor:
            states.append(hidden)
            return hidden[:1]

        self._read(model, keep)
        return states[0]

    def _read(self, model: Any, choose: Callable[[Tensor], Tensor]) -> Tensor:
        inputs = {"input_ids": self.ids, "attention_mask": self.mask, "use_cache": False}
        return logits_at(model, lambda hidden: choose(hidden[self.wanted]), **inputs).logits  # type: ignore[no-any-return]


def scores_of(
    pairs: Sequence[EncodedPair], targets: Tensor, adapter_logits: Tensor, reference_logits: Tensor | None
) -> list[Score]:
    """Return sums over the tokens of each pair; `targets` are those of all responses, one behind the other."""
    sizes = [len(pair.response) for pair in pairs]
    measured = measure(adapter_logits, targets, reference_logits)
    terms = [None if values is None else torch.split(values, sizes) for values in measured]
    scores = []
    for place, pair in enumerate(pairs):
        likelihood, hits, kl, flips = (None if parts is None else parts[place] for parts in terms)
        assert likelihood is not None
        assert hits is not None
        scores.append(
            Score(
                loglikelihood=float(likelihood.sum()),
                n_tokens=len(pair.response),
                exact=bool(hits.all()),
                kl=None if kl is None else max(0.0, float(kl.sum())),  # rounding may leave it below 0
                flips=None if flips is None else int(flips.sum()),
                truncated=pair.truncated,
            )
        )
    return scores


def summed_up(windows: Sequence[Score]) -> Score:
    """Return the score of a text from those of its windows."""
    kl = [score.kl for score in windows if score.kl is not None]
    flips = [score.flips for score in windows if score.flips is not None]
    return Score(
        loglikelihood=sum(score.loglikelihood for score in windows),
        n_tokens=sum(score.n_tokens for score in windows),
        exact=all(score.exact for score in windows),
        kl=sum(kl) if kl else None,
        flips=sum(flips) if flips else None,
        truncated=False,
    )


class Terms(NamedTuple):
    """One value for every token of the responses of a batch: shape (tokens,), on the processor."""

    likelihood: Tensor
    """Log of the probability of the token, float64."""
    hits: Tensor
    """True if it is the most likely one."""
    kl: Tensor | None
    """KL(reference ‖ adapter) of the whole distribution, float64; None without a reference."""
    flips: Tensor | None
    """True if another token is the most likely one than under the reference."""


def measure(adapter_logits: Tensor, targets: Tensor, reference_logits: Tensor | None = None) -> Terms:
    """Return terms of the tokens `targets` (tokens,) under an adapter's logits, against those of the reference.

    Logits are (tokens, vocabulary), in any dtype; a few rows at a time are made float32.
    """
    parts: list[list[Tensor]] = []
    rows = max(1, CHUNK // adapter_logits.shape[1])
    for start in range(0, len(adapter_logits), rows):
        few = slice(start, start + rows)
        logs, best = adapter_logits[few].float().log_softmax(dim=-1), adapter_logits[few].argmax(dim=-1)
        # To the processor first: MPS has no float64.
        likelihood = logs.gather(1, targets[few, None])[:, 0].cpu().double()
        parts.append([likelihood, (best == targets[few]).cpu()])
        if reference_logits is not None:
            reference = reference_logits[few].float().log_softmax(dim=-1)
            kl = (reference.exp() * (reference - logs)).sum(dim=-1)
            parts[-1] += [kl.cpu().double(), (reference_logits[few].argmax(dim=-1) != best).cpu()]
    likelihood, hits, *divergence = map(torch.cat, zip(*parts, strict=True))
    return Terms(likelihood, hits, *(divergence or (None, None)))


def shared_logits(model: Any, pairs: Sequence[EncodedPair], fill: int, device: torch.device) -> Tensor | None:
    """Return logits (response tokens, vocabulary) of pairs, in order, reading every prompt once.

    For multiple choice this is most of the work, and for single-token choices all of it: they need no second
    pass.
    None if it is impossible or saves nothing: no prompt occurs twice, or the model's cache has more than keys
    and values.
    """
    places = {
        prompt: place for place, prompt in enumerate(dict.fromkeys(tuple(pair.prompt) for pair in pairs))
    }
    if len(places) == len(pairs) or not caches(model):
        return None
    ids, mask = padded([list(prompt) for prompt in places], fill=fill, left=True, device=device)
    first, cache = next_logits(model, ids, mask)
    prompt_of = [places[tuple(pair.prompt)] for pair in pairs]
    longer = [place for place, pair in enumerate(pairs) if len(pair.response) > 1]
    if not longer:
        return first[torch.tensor(prompt_of, device=device)]
    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return None
    of_longer = torch.tensor([prompt_of[place] for place in longer], device=device)
    cache.batch_select_indices(of_longer)
    ids, beyond = padded(
        [pairs[place].response[:-1] for place in longer], fill=fill, left=False, device=device
    )
    wanted = beyond.bool()
    rest, _ = next_logits(
        model, ids, torch.cat([mask[of_longer], beyond], dim=1), cache, lambda hidden: hidden[wanted]
    )
    # The logits of a first token are at its prompt, those of the others one behind the other.
    order: list[int] = []
    behind = len(first)
    for pair, prompt in zip(pairs, prompt_of, strict=True):
        if pair.response:
            order += [prompt, *range(behind, behind + len(pair.response) - 1)]
            behind += len(pair.response) - 1
    return torch.cat([first, rest])[torch.tensor(order, device=device)]


# ---------------------------------------------------------------- drafts in one pass
#
# One pass in place of generation: the outputs of another adapter are drafts, which an adapter's largest logits verify.
# A greedy output equals its draft exactly if each token of the draft is the most likely one behind those before it, and
# a single forward pass tells that of all of them. What is written behind the first other token has to be generated.


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
