"""Inputs -> a calibration: load the base, run both passes, and rank each module's components.

The passes gather moments of h and t, then the effect of each component on each row.
h = A·x is computed in the forward pass, and t = Bᵀ·g in the backward pass. t is the gradient at the output of A, since
only B reads h. Neither is stored: a consumer gets both as soon as t is known. A pass is a forward, and a backward from
a random direction of the logits at every scored token: summed over the tokens of a row, never averaged. Rows do not
affect each other, so each row gets its own gradient.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradience import spectra
from gradience.adapters.adapter import LoraPair
from gradience.adapters.keys import PREFIX
from gradience.calibrate.settings import RowSettings
from gradience.calibrate.verb import CalibrateInputs, CalibrationRow
from gradience.digests import sha256_file
from gradience.errors import InputError
from gradience.evaluate.engines.base import fixed_batches
from gradience.evaluate.engines.transformers import forward
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.evaluate.inputs import TEXT_TOKENS
from gradience.files.shared_names import path_text
from gradience.models.tokenizers import encode_pair, end_token
from gradience.progress import Progress
from gradience.reports import calibration as reports
from gradience.reports.base.report import Stopwatch


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """One row as token ids. For a classifier, the prompt is the whole text, and its label is scored.

    scored: number of labels drawn for the row.
    """

    id: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    scored: int
    truncated: bool
    extra: dict[str, list[int]] = field(default_factory=dict)
    """Further inputs with a number for each token, such as `token_type_ids`."""

    @property
    def ids(self) -> list[int]:
        """All tokens."""
        return [*self.prompt, *self.completion]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that are computed together.

    mask: (rows, length), 1 where there is a token.
    wanted: (rows, length), true where the next token is scored; None if each row has one label.
    """

    rows: tuple[EncodedRow, ...]
    inputs: dict[str, Tensor]
    mask: Tensor
    wanted: Tensor | None

    def logits(self, model: Any) -> Tensor:
        """One row of logits for each label, row after row."""
        if self.wanted is None:
            logits: Tensor = model(**self.inputs).logits
            return logits
        wanted = self.wanted
        logits = forward.logits_at(
            model, lambda hidden: hidden[wanted], **self.inputs, use_cache=False
        ).logits
        return logits

    def by_row(self, values: Tensor) -> Tensor | None:
        """Values of some layer as (rows, places, r), 0 at padding; None if their positions are unknown.

        A layer sees all positions, one vector a row (a head), all positions of all rows in a line, or only those that
        are scored (the last layer of a language model).
        """
        rows = len(self.rows)
        if values.dim() == 3 and values.shape[0] == rows:
            mask = self._mask(values.shape[1])
            return values if mask is None else values * mask[..., None].to(values.dtype)
        if values.dim() != 2:
            return None
        if self.wanted is not None and values.shape[0] == int(self.wanted.sum()):
            spread = values.new_zeros(*self.wanted.shape, values.shape[1])
            spread[self.wanted] = values
            return spread
        length, left = divmod(values.shape[0], rows)
        mask = self._mask(length)
        if mask is not None and not left:
            return values.reshape(rows, length, -1) * mask[..., None].to(values.dtype)
        return values[:, None] if values.shape[0] == rows else None

    def count(self, values: Tensor) -> int:
        """Return the number of vectors of `by_row` that belong to a token, not to padding."""
        mask = self._mask(values.shape[1])
        return len(self.rows) * values.shape[1] if mask is None else int(mask.sum())

    def _mask(self, length: int) -> Tensor | None:
        return self.mask if self.mask.shape[1] == length else None


def encode_pairs(
    tokenizer: Any, rows: Sequence[CalibrationRow], max_length: int | None, completion_tokens: int
) -> list[EncodedRow]:
    """Prompts and completions, the end token behind them; if they are too long, the prompt loses its beginning.

    A row without a completion keeps none, and leaves room for `completion_tokens`.
    Raises InputError (`completion-too-long`, `empty-prompt`, `no-end-token`).
    """
    encoded = []
    for row in rows:
        completion = [] if row.more is None else encode_pair(tokenizer, row.text, row.more)[1]
        needed = completion_tokens if row.more is None else len(completion)
        room = None if max_length is None else max_length - needed
        if room is not None and room < 1:
            raise InputError(
                f"a completion of {needed} tokens leaves no room for its prompt in {max_length}",
                code="completion-too-long",
                hint="raise --max-length, lower --completion-tokens, or leave the row out",
            )
        before, truncated = forward.prompt_ids(tokenizer, row.text, room)
        encoded.append(EncodedRow(row.id, tuple(before), tuple(completion), len(completion), truncated))
    return encoded


def encode_texts(tokenizer: Any, rows: Sequence[CalibrationRow], max_length: int | None) -> list[EncodedRow]:
    """Texts or pairs of texts for a classifier, each cut at `max_length` tokens."""
    encoded = []
    for row in rows:
        texts = (row.text,) if row.more is None else (row.text, row.more)
        values = tokenizer(*texts, truncation=max_length is not None, max_length=max_length)
        whole = len(tokenizer(*texts, truncation=False, verbose=False)["input_ids"])
        extra = {name: values[name] for name in values if name not in ("input_ids", "attention_mask")}
        ids = values["input_ids"]
        encoded.append(EncodedRow(row.id, tuple(ids), (), 1, whole > len(ids), extra=extra))
    return encoded


def batches_of(tokenizer: Any, rows: Sequence[EncodedRow], batch_size: int, device: Any) -> list[Batch]:
    """Batches of rows of about one length."""
    order = fixed_batches(["·" * len(row.ids) + row.id for row in rows], batch_size)
    return [_batch(tokenizer, [rows[place] for place in places], device) for places in order]


def _batch(tokenizer: Any, rows: Sequence[EncodedRow], device: Any) -> Batch:
    labels = not rows[0].completion
    fill = tokenizer.pad_token_id if labels else end_token(tokenizer)
    ids, mask = forward.padded([row.ids for row in rows], fill=fill, left=False, device=device)
    inputs = {"input_ids": ids, "attention_mask": mask}
    for name in rows[0].extra:
        inputs[name], _ = forward.padded([row.extra[name] for row in rows], fill=0, left=False, device=device)
    if labels:
        return Batch(tuple(rows), inputs, mask, None)
    wanted = torch.zeros_like(mask, dtype=torch.bool)
    for place, row in enumerate(rows):
        end = len(row.ids)
        wanted[place, end - 1 - len(row.completion) : end - 1] = True
    return Batch(tuple(rows), inputs, mask, wanted)


# ---------------------------------------------------------------- random numbers and completions
#
# Random numbers depend on the row, not on its position. Missing completions are sampled from the full distribution:
# temperature 1, no top-k or top-p.


_STREAMS = {"signs": 0, "completion": 1}


def signs(seed: int, row_id: str, count: int, classes: int) -> NDArray[np.float32]:
    """+1 or −1, as likely, for each scored token of the row and each class: (count, classes)."""
    drawn = np.frombuffer(_stream(seed, row_id, "signs").bytes(-(-count * classes // 8)), dtype=np.uint8)
    bits = np.unpackbits(drawn, count=count * classes).reshape(count, classes)
    return bits.astype(np.float32) * 2 - 1


def signs_of(seed: int, rows: Sequence[tuple[str, int]], classes: int) -> NDArray[np.float32]:
    """The signs of several rows (identity, scored tokens), one row after the other."""
    return np.concatenate([signs(seed, row, count, classes) for row, count in rows])


def _stream(seed: int, row_id: str, of: Literal["signs", "completion"]) -> np.random.Generator:
    return np.random.default_rng([seed, _STREAMS[of], int(row_id, 16)])


def with_completions(
    model: Any,
    tokenizer: Any,
    rows: Sequence[EncodedRow],
    request: RowSettings,
    on_batch: Callable[[], None],
) -> list[EncodedRow]:
    """The rows, each with a completion of at most `completion_tokens` tokens; those that have one keep it."""
    lacking = [row for row in rows if not row.completion]
    written: dict[str, list[int]] = {}
    for places in fixed_batches(["·" * len(row.prompt) + row.id for row in lacking], request.batch_size):
        batch = [lacking[place] for place in places]
        completions = _written(model, tokenizer, batch, request.completion_tokens, request.seed)
        written |= zip((row.id for row in batch), completions, strict=True)
        on_batch()
    return [
        row
        if row.completion
        else replace(row, completion=tuple(written[row.id]), scored=len(written[row.id]))
        for row in rows
    ]


def _written(
    model: Any, tokenizer: Any, rows: Sequence[EncodedRow], tokens: int, seed: int
) -> list[list[int]]:
    """Token ids up to the end token, which is one of them. Rows that have ended stay until all have."""
    end = end_token(tokenizer)
    draws = np.stack([_stream(seed, row.id, "completion").random(tokens) for row in rows])
    completions: list[list[int]] = [[] for _ in rows]
    with torch.inference_mode():
        prompts = [list(row.prompt) for row in rows]
        ids, mask = forward.padded(prompts, fill=end, left=True, device=model.device)
        advance = forward.continuing(model, mask)
        for step in range(tokens):
            drawn = draw(advance(ids).float().softmax(dim=-1), draws[:, step])
            for completion, token in zip(completions, drawn.tolist(), strict=True):
                if not completion or completion[-1] != end:
                    completion.append(token)
            if all(completion[-1] == end for completion in completions):
                break
            ids = drawn[:, None].to(model.device)
    return completions


def draw(p: Tensor, draws: spectra.FloatArray) -> Tensor:
    """One class for each row of probabilities, by the inverse of their sums; on the processor."""
    sums = p.cpu().double().cumsum(dim=-1)
    wanted = torch.from_numpy(draws)[:, None] * sums[:, -1:]
    return torch.searchsorted(sums, wanted, right=True)[:, 0].clamp(max=p.shape[1] - 1)


# ---------------------------------------------------------------- h and t of the layers

EXPERT = re.compile(r"experts?(_?\d+)?")
"""Part of the path of a module that sees some tokens, in the order of a router."""
_EXPERTS = re.compile(r"(moe_)?(num|n)_(local_|routed_)?experts")
_CHOSEN = re.compile(r"num_experts_per_tok(en)?|num_selected_experts|top_k_experts|moe_(top_?)?k")
"""Names in the configs of transformers: how many experts there are, and how many of them each token passes."""
Consumer = Callable[[str, Tensor, Tensor], None]
"""Called with the module's name, h and t; both (…, r)."""


class Reach(NamedTuple):
    """LoRA layers of the active adapter by name, and why others cannot be watched."""

    layers: Mapping[str, Any]
    reasons: Mapping[str, str]


def reach(model: Any) -> Reach:
    """Return the active adapter's layers in a `PeftModel` that apply B·A to their input, and the others."""
    from peft.tuners.lora import LoraLayer

    key = model.active_adapter
    layers, reasons = {}, {}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and key in layer.r:
            short = name.removeprefix(PREFIX)
            reason = _why_not(short, layer, key)
            if reason:
                reasons[short] = reason
            else:
                layers[short] = layer
    return Reach(layers, reasons)


def routing_of(config: Mapping[str, Any]) -> str:
    """Return how a base routes, by its config: empty if each token passes all experts, or if there are none.

    >>> routing_of({"num_local_experts": 8, "num_experts_per_tok": 2})
    '2 of 8 experts'
    """
    nested = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    for values in nested:
        numbers = {name: value for name, value in values.items() if type(value) is int}
        experts = max((value for name, value in numbers.items() if _EXPERTS.fullmatch(name)), default=0)
        chosen = [value for name, value in numbers.items() if _CHOSEN.fullmatch(name)]
        if experts > 1 and (not chosen or min(chosen) < experts):
            return f"{min(chosen) if chosen else 'some'} of {experts} experts"
    return ""


def _why_not(name: str, layer: Any, key: str) -> str:
    from peft.tuners.lora.layer import MultiheadAttention, ParamWrapper

    if key in layer.lora_variant:
        return "not plain LoRA: its output is not linear in B·A"
    if isinstance(layer, ParamWrapper):
        return "a parameter (stacked experts): PEFT adds B·A to the weights"
    if isinstance(layer, MultiheadAttention):
        return "nn.MultiheadAttention: PEFT adds B·A to the weights"
    if any(EXPERT.fullmatch(part) for part in name.split(".")):
        return "an expert: it sees the tokens that a router sends to it"
    if key in layer.lora_embedding_A:
        return ""
    if key not in layer.lora_A or not isinstance(layer.lora_A[key], nn.Linear):
        return "a convolution"
    return ""


@contextmanager
def capturing(model: Any, layers: Mapping[str, Any], consumer: Consumer) -> Iterator[None]:
    """While this lasts, a backward pass hands h and t of each call of each layer to `consumer`."""
    key = model.active_adapter
    with ExitStack() as stack:
        for name, layer in layers.items():
            if key in layer.lora_embedding_A:
                stack.enter_context(_embedding(layer, name, consumer))
            else:
                handle = layer.lora_A[key].register_forward_hook(_hook(name, consumer))
                stack.callback(handle.remove)
        yield


def _hook(name: str, consumer: Consumer) -> Callable[[Any, Any, Tensor], Tensor]:
    return lambda _module, _arguments, h: _tracked(name, h, consumer)


@contextmanager
def _embedding(layer: Any, name: str, consumer: Consumer) -> Iterator[None]:
    """An embedding looks its A up, in one call of a method, instead of calling a module."""
    look_up = layer._embed

    def tracked(*arguments: Any, **options: Any) -> Tensor:
        return _tracked(name, look_up(*arguments, **options), consumer)

    layer._embed = tracked
    try:
        yield
    finally:
        del layer._embed


def _tracked(name: str, h: Tensor, consumer: Consumer) -> Tensor:
    if not torch.is_grad_enabled():
        return h
    if not h.requires_grad:  # the first LoRA module: nothing before it has a gradient
        h.requires_grad_(True)
    activations = h.detach()

    def receive(t: Tensor) -> None:
        consumer(name, activations, t.detach())

    h.register_hook(receive)  # type: ignore[no-untyped-call]
    return h


UNATTRIBUTED = "its inputs do not say which row they belong to"
UNREACHED = "no row reaches it"


@dataclass(slots=True)
class Moments:
    """Sums over tokens; r x r."""

    moment_in: spectra.FloatArray
    moment_out: spectra.FloatArray
    tokens: int = 0


def gather_moments(
    model: Any, layers: Mapping[str, Any], batches: Sequence[Batch], seed: int, on_batch: Callable[[], None]
) -> tuple[dict[str, Moments], dict[str, str]]:
    """E[hhᵀ] and E[ttᵀ] over the tokens of the batches, for each module; and why some modules have none."""
    sums: dict[str, Moments] = {}
    reasons: dict[str, str] = {}
    for batch in batches:

        def add(name: str, h: Tensor, t: Tensor, batch: Batch = batch) -> None:
            inputs, gradients = batch.by_row(h.float()), batch.by_row(t.float())
            if inputs is None or gradients is None:
                reasons[name] = UNATTRIBUTED
                return
            moments = sums.setdefault(name, Moments(*np.zeros((2, h.shape[-1], h.shape[-1]))))
            moments.moment_in += _outer(inputs)
            moments.moment_out += _outer(gradients)
            moments.tokens += batch.count(inputs)

        backward(model, layers, batch, seed, add)
        on_batch()
    for name in layers:
        if name not in sums:
            reasons.setdefault(name, UNREACHED)
    kept = {name: sums[name] for name in layers if name in sums and name not in reasons}
    for moments in kept.values():
        moments.moment_in /= moments.tokens
        moments.moment_out /= moments.tokens
    return kept, reasons


def gather_effects(
    model: Any,
    layers: Mapping[str, Any],
    batches: Sequence[Batch],
    bases: Mapping[str, Sequence[spectra.Components]],
    seed: int,
    on_batch: Callable[[], None],
) -> tuple[tuple[str, ...], dict[str, list[spectra.FloatArray]], dict[str, str]]:
    """⟨J, p·qᵀ⟩ = Σ over tokens of (tᵀp)(qᵀh), for each row, module, basis and component.

    Returns the identities of the rows in the order of the first axis, for each module an array (rows, k) a basis, and
    why some modules have none.
    """
    reasons: dict[str, str] = {}
    rows = tuple(row.id for batch in batches for row in batch.rows)
    effects = {name: [np.zeros((len(rows), basis.p.shape[1])) for basis in bases[name]] for name in layers}
    device = model.device
    maps = {
        name: [(_tensor(basis.p, device), _tensor(basis.q, device)) for basis in bases[name]]
        for name in layers
    }
    start = 0
    for batch in batches:
        here = slice(start, start + len(batch.rows))

        def add(name: str, h: Tensor, t: Tensor, batch: Batch = batch, here: slice = here) -> None:
            inputs, gradients = batch.by_row(h.float()), batch.by_row(t.float())
            if inputs is None or gradients is None:
                reasons[name] = UNATTRIBUTED
                return
            for target, (p, q) in zip(effects[name], maps[name], strict=True):
                target[here] += ((gradients @ p) * (inputs @ q)).sum(dim=1).cpu().double().numpy()

        backward(model, layers, batch, seed, add)
        start += len(batch.rows)
        on_batch()
    return rows, {name: effects[name] for name in effects if name not in reasons}, reasons


def backward(
    model: Any,
    layers: Mapping[str, Any],
    batch: Batch,
    seed: int,
    consumer: Callable[[str, Tensor, Tensor], None],
) -> None:
    """One forward and one backward pass of a batch, with signs drawn for its rows."""
    with torch.enable_grad(), capturing(model, layers, consumer):
        logits = batch.logits(model)
        if logits.requires_grad:  # some layer is reached
            drawn = signs_of(seed, [(row.id, row.scored) for row in batch.rows], logits.shape[1])
            logits.backward(direction(logits.detach(), torch.from_numpy(drawn)))  # type: ignore[no-untyped-call]


def direction(logits: Tensor, drawn: Tensor) -> Tensor:
    """A random direction z of the logits (labels, classes) for each label, with E[zzᵀ] = diag(p) − ppᵀ.

    That is the Fisher information of the softmax, so that ½·E(change of the logits · z)² is the KL to second order, as
    it is with the gradient of −log p(y) at a y drawn from p. With signs ε, as in Hutchinson's estimate of a trace,
    z = √p·ε − p·(√p·ε) speaks of all classes at once. A y drawn from a confident model is almost always the likeliest,
    and the few that are not would decide everything. A few rows at a time, for the memory.
    """
    gradient = torch.empty_like(logits)
    for few in forward.logit_blocks(logits):
        p = logits[few].float().softmax(dim=-1)
        mixed = p.sqrt() * drawn[few].to(p.device)
        gradient[few] = (mixed - p * mixed.sum(dim=-1, keepdim=True)).to(gradient.dtype)
    return gradient


def _outer(values: Tensor) -> spectra.FloatArray:
    flat = values.reshape(-1, values.shape[-1])
    product: spectra.FloatArray = (flat.T @ flat).cpu().double().numpy()
    return product


def _tensor(values: spectra.FloatArray, device: Any) -> Tensor:
    return torch.from_numpy(values).float().to(device)


# ---------------------------------------------------------------- the calibration

ADAPTER = "adapter"
NOT_A_LAYER = "not a layer that PEFT calls with its inputs"
NO_EFFECT = "its update or its gradient is 0"


@dataclass(frozen=True, slots=True)
class _Measured:
    """One module after the first pass."""

    moments: Moments
    triangle_A: spectra.FloatArray
    triangle_B: spectra.FloatArray
    weighted: spectra.Components
    svd: spectra.Components


def measured(inputs: CalibrateInputs) -> reports.Calibration:
    """The calibration. Raises InputError (`nothing-calibrated`), and what loading the base and encoding rows raise."""
    request, watch = inputs.request, Stopwatch(inputs.request.command)
    engine = TransformersEngine.load(inputs.model, labels=inputs.labels, device=request.device)
    opened = inputs.adapter
    engine.add(ADAPTER, opened.folder)
    with engine.using(ADAPTER) as model:
        model.requires_grad_(False)
        selects = np.array(inputs.rows.selects)
        sizes = inputs.to_sample, int(selects.sum()), len(selects)
        advance = counter(request.progress, sum(-(-size // request.batch_size) for size in sizes))
        rows = encoded_rows(inputs, engine, model, advance)
        selecting = [row for row, chooses in zip(rows, selects, strict=True) if chooses]
        first = batches_of(engine.tokenizer, selecting, request.batch_size, model.device)
        second = batches_of(engine.tokenizer, rows, request.batch_size, model.device)
        layers = reach(model)
        moments, reasons = gather_moments(model, layers.layers, first, request.seed, advance)
        modules = {
            pair.module: _components(pair, moments[pair.module])
            for pair in opened.pairs
            if pair.module in moments
        }
        kept = {name: module for name, module in modules.items() if module.weighted.values.size}
        bases = {name: (module.weighted, module.svd) for name, module in kept.items()}
        watched = {name: layers.layers[name] for name in kept}
        ids, effects, lost = gather_effects(
            model, watched, second if kept else (), bases, request.seed, advance
        )
        known = {**dict.fromkeys(layers.layers, NO_EFFECT), **layers.reasons, **reasons, **lost}
        excluded = tuple(
            reports.ExcludedModule(name=pair.module, reason=known.get(pair.module, NOT_A_LAYER))
            for pair in opened.pairs
            if pair.module not in effects
        )
        if not effects:
            raise InputError(
                f"{request.adapter}: no module can be calibrated: {excluded[0].name}: {excluded[0].reason}",
                code="nothing-calibrated",
                hint="compress it without a calibration, such as with --rank 4",
            )
        place = {row: number for number, row in enumerate(ids)}
        order = [place[row.id] for row in rows]
        arrays = {
            name: _ordered(kept[name], [effect[order] for effect in both], selects)
            for name, both in effects.items()
        }
        tokens = np.array([row.scored for row in rows], dtype=np.int64)
        predicted = int(tokens[~selects].sum())

        def importance(effects: NDArray[np.float32]) -> float:
            change = effects[~selects].astype(np.float64).sum(axis=1)
            return float(np.square(change).sum() / 2 / predicted)

        report = reports.CalibrationReport(
            **prompt_fields(inputs, engine, rows),
            adapter_sha256=opened.sha256(),
            prompt_ids=inputs.rows.prompt_ids(inputs.kind),
            selection_rows=int(selects.sum()),
            scored_tokens=predicted,
            ridge=spectra.RIDGE,
            routing=routing_of(model.config.to_dict()),
            modules=tuple(
                reports.CalibratedModule(
                    name=pair.module,
                    rank=pair.rank,
                    components=len(arrays[pair.module].values),
                    scale=pair.scale or 0.0,
                    importance=importance(arrays[pair.module].effects),
                    weighted_energy_rank_90=spectra.energy_rank(
                        np.sort(arrays[pair.module].values)[::-1], 0.9
                    ),
                )
                for pair in opened.pairs
                if pair.module in arrays
            ),
            excluded=excluded,
            run=watch.run_info(),
        )
    return reports.Calibration(report, arrays, tokens, selects)


def prompt_fields(
    inputs: CalibrateInputs, engine: TransformersEngine, rows: Sequence[EncodedRow]
) -> dict[str, Any]:
    """Return the fields of a `PromptReport` that say what was measured on: adapter, base, rows and settings."""
    request, writes = inputs.request, inputs.kind != "sequence_classification"
    of_base = ("base", "base_sha256", "quantization", "dtype", "device")
    return {
        **{name: engine.facts[name] for name in of_base},
        "adapter_path": path_text(request.adapter),
        "kind": inputs.kind,
        "notes": inputs.notes,
        "prompts": path_text(request.prompts),
        "prompts_sha256": sha256_file(Path(request.prompts)),
        "rows": len(rows),
        "duplicates": inputs.rows.duplicates,
        "given_completions": len(rows) - inputs.to_sample if writes else 0,
        "sampled_completions": inputs.to_sample,
        "completion_tokens": request.completion_tokens if writes else None,
        "truncated": sum(row.truncated for row in rows),
        "seed": request.seed,
        "batch_size": request.batch_size,
        "max_length": length_of(inputs, engine),
    }


# ---------------------------------------------------------------- rows


def length_of(inputs: CalibrateInputs, engine: TransformersEngine) -> int | None:
    """Tokens of a row at most."""
    known, requested = engine.max_length, inputs.request.max_length
    if requested is None and inputs.kind == "sequence_classification":
        requested = TEXT_TOKENS
    return min((length for length in (known, requested) if length is not None), default=None)


def encoded_rows(
    inputs: CalibrateInputs, engine: TransformersEngine, model: Any, on_batch: Callable[[], None]
) -> list[EncodedRow]:
    """Return all rows as token ids. A language model's rows get a completion; on_batch: after each sampled batch."""
    limit, request = length_of(inputs, engine), inputs.request
    if inputs.kind == "sequence_classification":
        return encode_texts(engine.tokenizer, inputs.rows.all, limit)
    encoded = encode_pairs(engine.tokenizer, inputs.rows.all, limit, request.completion_tokens)
    return with_completions(model, engine.tokenizer, encoded, request, on_batch)


def counter(progress: Progress | None, total: int) -> Callable[[], None]:
    """Return what reports one more of `total` pieces to `progress`."""
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return advance


# ---------------------------------------------------------------- modules


def _components(pair: LoraPair, moments: Moments) -> _Measured:
    loaded = pair.load()
    cores = spectra.triangle(loaded.blocks_A()), spectra.triangle(loaded.blocks_B())
    triangle_A, triangle_B = (np.ldexp(core.matrix, core.exponent) for core in cores)
    roots = spectra.root(moments.moment_in, triangle_A), spectra.root(moments.moment_out, triangle_B)
    weighted = spectra.components(*roots, triangle_A, triangle_B)
    svd = spectra.components(triangle_A, triangle_B, triangle_A, triangle_B)
    return _Measured(moments, triangle_A, triangle_B, weighted, svd)


def _ordered(
    module: _Measured, effects: Sequence[spectra.FloatArray], selects: NDArray[np.bool_]
) -> reports.ModuleMoments:
    """Return a module with its components in decreasing order of their mean squared effect on the selection
    examples."""
    scores = np.square(effects[0][selects]).mean(axis=0)
    order = np.argsort(-scores, kind="stable")
    best = module.weighted.ordered(order)
    lost = spectra.lost_energies(best, module.triangle_A, module.triangle_B)
    whole = float(np.square(np.linalg.norm(module.triangle_B @ module.triangle_A.T)))
    return reports.ModuleMoments(
        moment_in=module.moments.moment_in,
        moment_out=module.moments.moment_out,
        p=best.p,
        q=best.q,
        values=best.values,
        lost=lost / whole,
        effects=effects[0][:, order].astype(np.float32),
        svd_effects=effects[1].astype(np.float32),
    )
