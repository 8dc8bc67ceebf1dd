"""Batched forward passes: selected logits, greedy generation, labels, likelihoods.

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
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import (
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
)

from gradience.errors import InputError, UsageError
from gradience.evaluate.engines.base import Classified, Decoding, Draft, Output, Reading, Score
from gradience.files.records import StopReason
from gradience.models.tokenizers import begin_token, encode_pair, encode_prompt, end_token


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
    seen = mask if cache is None or attends(model, cache) else mask[:, -ids.shape[1] :]
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
    return cache_name(model) in _parameters(model) and not stateful(
        DynamicCache(config=inner_of(model).config)
    )


def attends(model: Any, cache: Any) -> bool:
    """Return False for a model without attention, such as Mamba, whose mask covers only the new tokens."""
    return not stateful(cache) or hasattr(inner_of(model).config.get_text_config(), "num_attention_heads")


def stateful(cache: Any) -> bool:
    """Return True if a layer has a recurrent state, which every token changes."""
    # transformers 5.25 removed the model's `_is_stateful`; the layers of its cache say as much.
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in getattr(cache, "layers", ()))


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


# ---------------------------------------------------------------- likelihoods, and outputs from drafts


CHUNK = 2**21
"""Logits held in float32 at a time: few enough for a CPU's cache."""
LIKELIEST = 64
"""Tokens that a summary of a distribution lists one by one."""


def logit_blocks(logits: Tensor) -> Iterator[slice]:
    """Yield blocks of logits (rows, vocabulary) that are small enough to compute at once."""
    rows = max(1, CHUNK // logits.shape[1])
    return (slice(start, start + rows) for start in range(0, len(logits), rows))


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """Token ids of a prompt and its response."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    truncated: bool = field(default=False, compare=False)


def fitted(tokenizer: Any, prompt: str, response: str, how: Reading) -> EncodedPair:
    """Return the ids of both. If they are too long, the prompt is truncated at its beginning; the response
    keeps its end.
    """
    _, response_ids = encode_pair(tokenizer, prompt, response)
    response_ids, max_length = response_ids if how.end else response_ids[:-1], how.max_length
    room = None if max_length is None else max_length - len(response_ids)
    if max_length is not None and len(response_ids) >= max_length:
        raise InputError(
            f"a response of {len(response_ids)} tokens leaves no room for its prompt in max_length={max_length}",
            code="response-too-long",
            hint="raise max_length or leave this example out",
        )
    before, truncated = prompt_ids(tokenizer, prompt, room) if prompt else ([begin_token(tokenizer)], False)
    return EncodedPair(tuple(before), tuple(response_ids), truncated)


def windows_of(tokenizer: Any, text: str, max_length: int | None) -> list[EncodedPair]:
    """Return a whole text in windows of `max_length` tokens, each after the last token of the previous window, and the
    first after the begin token.

    As in lm-evaluation-harness (`get_rolling_token_windows` with a context of one token): the last window has as much
    context as fits. A begin token that the tokenizer puts before every text is predicted.
    """
    ids = encode_prompt(tokenizer, text)
    limit = max_length or max(1, len(ids))
    before = (begin_token(tokenizer), *ids)
    pairs = []
    for start in range(0, len(ids), limit):
        end = min(start + limit, len(ids))
        pairs.append(EncodedPair(before[max(0, end - limit) : start + 1], before[start + 1 : end + 1]))
    return pairs


def response_logits(model: Any, tokenizer: Any, pairs: Sequence[EncodedPair], how: Reading) -> Tensor:
    """Return logits of shape (response tokens of all pairs, vocabulary), in the base's dtype.

    Choices, which have no end token, share the reading of their prompt. The last token of a window, which predicts
    nothing, is not read, since a window may be as long as the model allows.
    """
    fill, prompts = end_token(tokenizer), dict.fromkeys(pair.prompt for pair in pairs)
    if not how.end and len(prompts) < len(pairs):
        trunks = [EncodedPair(prompt, ()) for prompt in prompts]
        shared = shared_logits(model, trunks, pairs, fill)
        if shared is not None:
            return shared.logits
    rows = [pair.prompt + pair.response for pair in pairs]
    read = [row[:-1] for row in rows] if how.rolling else rows
    ids, mask = padded(read, fill=fill, left=False, device=model.device)
    wanted = torch.zeros_like(mask, dtype=torch.bool)
    for place, pair in enumerate(pairs):
        wanted[place, len(pair.prompt) - 1 : len(rows[place]) - 1] = True
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    return logits_at(model, lambda hidden: hidden[wanted], **inputs).logits  # type: ignore[no-any-return]


class Summary(NamedTuple):
    """The reference's distributions at the tokens of a response: all that KL needs if the candidate has the same head.

    The likeliest tokens are compared one by one. The head is linear, so one product of hidden states compares all
    others. (It cannot compare all: errors of the largest logits would no longer cancel, see decision 30.)
    """

    states: Tensor
    """Hidden states (tokens, width), which the head turns into logits."""
    likeliest: Tensor
    """Ids of the likeliest tokens, the most likely first: (tokens, LIKELIEST)."""
    logs: Tensor
    """Their log-probabilities."""
    others: Tensor
    """Sum of probability · row of the head over the other tokens: (tokens, width)."""
    rest: Tensor
    """Probability of all other tokens: (tokens,)."""
    total: Tensor
    """Log of the sum of all exponentiated logits: (tokens,)."""

    def kl(self, states: Tensor, logits: Tensor, logs: Tensor) -> Tensor:
        """Return KL(reference ‖ candidate), from the candidate's states, logits and log-probabilities."""
        likely = (self.logs.exp() * (self.logs - logs.gather(1, self.likeliest))).sum(dim=-1)
        change = total_of(logits, logs, self.likeliest) - self.total
        return likely - (self.others * (states - self.states)).sum(dim=-1) + self.rest * change


def summary_of(states: Tensor, logits: Tensor, head: Tensor) -> Summary:
    """Return the summary of logits (tokens, vocabulary): `states` times `head` (vocabulary, width)."""
    parts = []
    for few in logit_blocks(logits):
        logs = logits[few].log_softmax(dim=-1)
        likely, likeliest = logs.topk(min(LIKELIEST, len(head)), dim=-1)
        others = logs.exp().scatter_(1, likeliest, 0.0)
        total = total_of(logits[few], logs, likeliest)
        parts.append((states[few], likeliest, likely, others @ head, others.sum(dim=-1), total))
    return Summary(*map(torch.cat, zip(*parts, strict=True)))


def total_of(logits: Tensor, logs: Tensor, likeliest: Tensor) -> Tensor:
    """Return the log of the sum of exponentiated logits, as `log_softmax` computed it."""
    first = likeliest[:, :1]
    return (logits.gather(1, first) - logs.gather(1, first))[:, 0]


def scores_of(
    pairs: Sequence[EncodedPair],
    logits: Tensor,
    reference: Tensor | Summary | None,
    states: Tensor | None = None,
) -> list[Score]:
    """Return sums over the tokens of each pair. The logits of all responses are concatenated."""
    sizes = [len(pair.response) for pair in pairs]
    targets = torch.tensor([token for pair in pairs for token in pair.response], device=logits.device)
    measured = measure(logits, targets, reference, states)
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
        truncated=any(score.truncated for score in windows),
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


def measure(
    logits: Tensor, targets: Tensor, reference: Tensor | Summary | None = None, states: Tensor | None = None
) -> Terms:
    """Return terms of the tokens `targets` (tokens,) under an adapter's logits, against those of the reference.

    Logits are (tokens, vocabulary), in any dtype; a few rows at a time are made float32. A summary needs the
    adapter's hidden states.
    """
    parts: list[list[Tensor]] = []
    for few in logit_blocks(logits):
        logs, best = logits[few].float().log_softmax(dim=-1), logits[few].argmax(dim=-1)
        parts.append([logs.gather(1, targets[few, None])[:, 0], best == targets[few]])
        if isinstance(reference, Summary):
            assert states is not None
            expected = Summary(*(part[few] for part in reference))
            parts[-1] += [expected.kl(states[few], logits[few], logs), expected.likeliest[:, 0] != best]
        elif reference is not None:
            of_reference = reference[few].float().log_softmax(dim=-1)
            kl = (of_reference.exp() * (of_reference - logs)).sum(dim=-1)
            parts[-1] += [kl, reference[few].argmax(dim=-1) != best]
    # To the processor first: MPS has no float64.
    likelihood, hits, *divergence = (torch.cat(terms).cpu() for terms in zip(*parts, strict=True))
    if not divergence:
        return Terms(likelihood.double(), hits, None, None)
    return Terms(likelihood.double(), hits, divergence[0].double(), divergence[1])


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common prefix.

    >>> common_length([5, 6, 7], [5, 6, 8, 9])
    2
    """
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


class SharedLogits(NamedTuple):
    """Result of `shared_logits`."""

    logits: Tensor
    """(response tokens of all pairs, vocabulary), in the order of the pairs."""
    cache: list[tuple[Tensor, Tensor]] | None
    """Keys and values (trunks, heads, longest trunk, width) of every layer; None if a layer keeps something else."""


def shared_logits(
    model: Any, trunks: Sequence[EncodedPair], pairs: Sequence[EncodedPair], fill: int
) -> SharedLogits | None:
    """Return the logits of pairs. Pairs with the same prompt read their common tokens once.

    trunks: each prompt with one response, which may be empty. Other responses to the prompt branch off after the last
    token that they share with this response. In multiple choice, prompts are most of the work; single-token choices
    need no second pass.
    Returns None if the model caches more than keys and values.
    """
    if not caches(model):
        return None
    device = model.device
    place_of = {trunk.prompt: place for place, trunk in enumerate(trunks)}
    behind = [trunk.response[:-1] for trunk in trunks]  # the last token's prediction is not needed
    ids, mask = padded(
        [trunk.prompt + more for trunk, more in zip(trunks, behind, strict=True)],
        fill=fill,
        left=True,
        device=device,
    )
    longest = ids.shape[1]
    asked = torch.tensor(list(map(len, behind)), device=device)[:, None] + 1
    wanted = torch.arange(longest, device=device) >= longest - asked
    starts = list(accumulate((len(more) + 1 for more in behind), initial=0))
    branches: list[tuple[int, tuple[int, ...]]] = []
    masks, order, read = list[Tensor](), list[int](), starts[-1]
    for pair in pairs:
        place, given = place_of[pair.prompt], pair.response[:-1]
        shared = common_length(given, behind[place])
        order += range(starts[place], starts[place] + min(shared + 1, len(pair.response)))
        if rest := given[shared:]:
            branches.append((place, rest))
            masks.append(mask[place].clone())
            masks[-1][longest - len(behind[place]) + shared :] = 0
            order += range(read, read + len(rest))
            read += len(rest)
    in_order = torch.tensor(order, dtype=torch.long, device=device)
    if not branches:
        logits, cache = next_logits(model, ids, mask, choose=lambda hidden: hidden[wanted][in_order])
        return SharedLogits(logits, keys_and_values(cache))
    states: list[Tensor] = []

    def keep(hidden: Tensor) -> Tensor:
        states.append(hidden[wanted])
        return hidden[:1, -1]

    _, cache = next_logits(model, ids, mask, choose=keep)
    kept = keys_and_values(cache)
    if kept is None:
        return None
    cache.batch_select_indices(torch.tensor([place for place, _ in branches], device=device))
    ids, beyond = padded([rest for _, rest in branches], fill=fill, left=False, device=device)
    logits, _ = next_logits(
        model,
        ids,
        torch.cat([torch.stack(masks), beyond], dim=1),
        cache,
        lambda hidden: torch.cat([*states, hidden[beyond.bool()]])[in_order],
    )
    return SharedLogits(logits, kept)


def keys_and_values(cache: Any) -> list[tuple[Tensor, Tensor]] | None:
    """Return the keys and values of every layer; None if a layer keeps something else."""
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    if not all(type(layer) in known and layer.is_initialized for layer in cache.layers):
        return None
    return [(layer.keys, layer.values) for layer in cache.layers]


def cache_of(rows: Sequence[list[tuple[Tensor, Tensor]]]) -> DynamicCache:
    """Return a cache of rows, padded on the left. rows: keys and values (heads, length, width) of each layer."""
    cache, longest = DynamicCache(), max(row[0][0].shape[1] for row in rows)
    for number, layers in enumerate(zip(*rows, strict=True)):
        keys, values = (
            torch.stack([pad(part, (0, 0, longest - part.shape[1], 0)) for part in parts])
            for parts in zip(*layers, strict=True)
        )
        cache.update(keys, values, number)
    return cache


# ---------------------------------------------------------------- drafts in one pass
#
# One pass in place of generation: the outputs of another adapter are drafts, which an adapter's largest logits verify.
# A greedy output equals its draft exactly if each token of the draft is the most likely one behind those before it, and
# a single forward pass tells that of all of them. What is written behind the first other token has to be generated.


READ = {"cpu": 640}
"""Maximum tokens per pass, unless a single row has more. 400 to 800 are fastest per token (decision 30)."""
LOGITS = {"cpu": 2**26}
"""Maximum logits per pass, unless a single row has more: 256 MiB in float32."""
MORE_LOGITS = 2**28
"""Maximum logits per pass on other devices."""
STATES = 2**31
"""Maximum bytes of what is kept of the reference; beyond it, the reference is read again for each adapter."""


@dataclass(frozen=True, slots=True)
class FollowedRow:
    """A prompt with its draft, as ids, and the response that is scored in the same pass."""

    draft: EncodedPair
    response: EncodedPair | None
    texts: tuple[str, str | None]

    @property
    def length(self) -> int:
        """Number of tokens of prompt and draft."""
        return len(self.draft.prompt) + len(self.draft.response)

    @property
    def tokens(self) -> int:
        """Maximum number of positions with logits."""
        given = () if self.response is None else self.response.response
        return len(self.draft.response) + (0 if given == self.draft.response else len(given))


def followed_row(tokenizer: Any, draft: Draft, how: Decoding) -> FollowedRow:
    """Return the ids of a draft and its response. A text without ids is encoded again, which may give other tokens:
    these are then not the most likely ones, and the output is generated from there on."""
    ids, output = list(draft.output.ids), draft.output
    if not ids:
        ends = how.stop[0] if how.stop and output.stopped_by == "stop_string" else ""
        _, ids = encode_pair(tokenizer, draft.prompt, output.text + ends)
        ids = ids if output.stopped_by == "eos" else ids[:-1]
    prompt, truncated = prompt_ids(tokenizer, draft.prompt, how.room)
    response = (
        None
        if draft.response is None
        else fitted(tokenizer, draft.prompt, draft.response, Reading(how.max_length))
    )
    pair = EncodedPair(tuple(prompt), tuple(ids[: how.max_new_tokens]), truncated)
    return FollowedRow(pair, response, (draft.prompt, draft.response))


def passes(rows: Sequence[FollowedRow], vocabulary: int, device: torch.device) -> Iterator[list[int]]:
    """Yield the indices of rows for each pass, longest first, so that rows of a pass have similar lengths."""
    most = LOGITS.get(device.type, MORE_LOGITS) // vocabulary
    few, logits, tokens = list[int](), 0, 0
    for place in sorted(range(len(rows)), key=lambda place: -rows[place].length):
        logits, tokens = logits + rows[place].tokens, tokens + rows[place].length
        if few and (logits > most or tokens > READ.get(device.type, tokens)):
            yield few
            few, logits, tokens = [], rows[place].tokens, rows[place].length
        few.append(place)
    if few:
        yield few


@dataclass(frozen=True, slots=True)
class ReadDraft:
    """Output of an adapter for one row, read in one pass."""

    best: list[int]
    """Most likely token at each position of the draft."""
    gaps: list[float]
    response: tuple[Tensor, Tensor] | None
    """Logits (tokens of the response, vocabulary), and the hidden states (tokens, width) that the head turned into
    them."""
    cache: list[tuple[Tensor, Tensor]] | None
    """Views of the keys and values (heads, tokens, width) of prompt and draft, in each layer."""

    def begin(self, length: int) -> list[tuple[Tensor, Tensor]] | None:
        """Return a copy of the keys and values of the first tokens."""
        if self.cache is None:
            return None
        return [(keys[:, :length].clone(), values[:, :length].clone()) for keys, values in self.cache]


def read_drafts(rows: Sequence[FollowedRow], model: Any, tokenizer: Any) -> list[ReadDraft]:
    """Read each row's prompt and draft, and the part of the response that differs from the draft.

    Sliding-window layers would count the gap between the shared tokens and a branch. So if a row does not fit into the
    window, draft and response are read separately, as for models that cache more than keys and values.
    """
    pairs = [pair for row in rows for pair in (row.draft, row.response) if pair is not None]
    given = list(dict.fromkeys(pairs))
    window = getattr(inner_of(model).config.get_text_config(), "sliding_window", None)
    most = max(row.length for row in rows) + max(len(pair.response) for pair in given)
    fits = window is None or most < window
    trunks: dict[tuple[int, ...], EncodedPair] = {}
    for pair in given:
        trunks.setdefault(pair.prompt, pair if fits else replace(pair, response=()))
    with inputs_of_head(model) as inputs:
        shared = shared_logits(model, list(trunks.values()), given, end_token(tokenizer))
        if shared is None:
            logits, cache = response_logits(model, tokenizer, given, Reading()), None
        else:
            logits, cache = shared.logits, shared.cache if fits else None
    two = logits.topk(2, dim=-1)
    gaps, best = gaps_between(two.values).tolist(), two.indices[:, 0].tolist()
    ends = list(accumulate((len(pair.response) for pair in given), initial=0))
    within = {pair: slice(*some) for pair, some in zip(given, pairwise(ends), strict=True)}
    trunk_of = {prompt: (number, pair) for number, (prompt, pair) in enumerate(trunks.items())}
    read = []
    for row in rows:
        number, trunk = trunk_of[row.draft.prompt]
        kept = None
        if cache is not None and trunk.response == row.draft.response:
            length = max(row.length - 1, len(row.draft.prompt))
            kept = [(keys[number, :, -length:], values[number, :, -length:]) for keys, values in cache]
        draft, response = within[row.draft], None if row.response is None else within[row.response]
        scored = None if response is None else (logits[response], inputs[-1][response])
        read.append(ReadDraft(best[draft], gaps[draft], scored, kept))
    return read


def verified(row: FollowedRow, read: ReadDraft, near_tie: float, begun: GeneratedRow) -> None:
    """Append the most likely tokens to `begun`, up to the first that differs from the draft or is a near tie."""
    for wanted, token, gap in zip(row.draft.response, read.best, read.gaps, strict=True):
        if gap <= near_tie:
            return
        begun.take(token, gap)
        if begun.stopped_by is not None or token != wanted:
            return


@dataclass(slots=True)
class KeptReference:
    """What KL needs from the reference on the responses, computed once for all adapters: summaries if the float32
    logits are the product of hidden states and head, else only the hidden states."""

    of: dict[Any, tuple[Tensor, ...]] = field(default_factory=dict)
    bytes: int = 0
    head: Any = None
    is_linear: bool | None = None

    def read(
        self, rows: Sequence[FollowedRow], model: Any, tokenizer: Any
    ) -> Sequence[Summary] | Sequence[Tensor]:
        """Return the summary or the logits (tokens, vocabulary) of each response. The reference must be active."""
        head, device = model.get_output_embeddings(), model.device
        if head is not self.head:  # PEFT has wrapped it for an adapter that changes it, or has unwrapped it
            self.of, self.bytes, self.head, self.is_linear = {}, 0, head, None
        new: dict[Any, tuple[Tensor, ...]] = {}
        if missing := [row for row in rows if row.texts not in self.of]:
            pairs = [row.response for row in missing if row.response is not None]
            with inputs_of_head(model) as inputs:
                logits = response_logits(model, tokenizer, pairs, Reading())
            (states,) = inputs
            if self.is_linear is None:
                plain = type(head) is torch.nn.Linear and getattr(head, "bias", None) is None
                plain = plain and states.dtype == torch.float32
                self.is_linear = plain and torch.equal(head(states), logits)  # neither capped nor scaled
            kept = summary_of(states, logits, head.weight) if self.is_linear else (states,)
            sizes = [len(pair.response) for pair in pairs]
            split = zip(*(torch.split(part.cpu(), sizes) for part in kept), strict=True)
            new = {row.texts: parts for row, parts in zip(missing, split, strict=True)}
        known = [new.get(row.texts) or self.of[row.texts] for row in rows]
        for texts, parts in new.items():
            size = sum(part.nbytes for part in parts)
            if self.bytes + size <= STATES:
                self.of[texts] = tuple(part.clone() for part in parts)
                self.bytes += size
        if self.is_linear:
            return [Summary(*(part.to(device) for part in parts)) for parts in known]
        states = torch.cat([states for (states,) in known]).to(device)
        one = torch.tensor([[end_token(tokenizer)]], device=device)
        logits = logits_at(model, lambda _: states, input_ids=one, use_cache=False).logits
        return torch.split(logits, [len(states) for (states,) in known])
