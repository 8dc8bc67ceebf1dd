"""Adapter + plan -> what becomes of every tensor: jobs for the modules, and what is carried, dropped or refused.

The refusals here are rules of PEFT and of the format; `plan` judges only by the audit.

`ENCODINGS` holds the ways to write an adapter whose modules have ranks r′ and scales s:
uniform   one r, one α, no patterns: the form that every runtime that was run reads.
patterns  rank_pattern and alpha_pattern for the modules that differ, r = the largest rank: PEFT, and vLLM from 0.32.
padded    every module padded with zeros to the largest rank, then as uniform: saves no memory when served.
folded    s multiplied into B, α = rank: a scale of 1 if the runtime reads the patterns, or if ranks agree.
          With ranks that differ, llama.cpp still computes another scale.
`use_rslora` is always written false; α is s·r′, which keeps the scale.

A module that the config names and the file does not hold is made anew by PEFT and does nothing (a LoRA module), or
loading fails (a module that is saved whole). So what is left out of the file is left out of the config, or refused.
Source: PEFT 0.21, tuners/tuners_utils.py, `check_target_module_exists`; utils/other.py, `_set_trainable`.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from gradience.adapters.adapter import LORA_BIAS_REASON, Adapter, LoraPair
from gradience.adapters.base import BaseWeights, base_folder, check_model_config, model_config_of
from gradience.adapters.config import AS_PLAIN_LORA, PeftConfig, anchored_key, initialization_of
from gradience.adapters.formats import words_of
from gradience.adapters.keys import config_name, ends_with, factor_name, is_split_expert, path_ends, peft_name
from gradience.adapters.locate import natural_key
from gradience.adapters.peft import fields_in_peft_order
from gradience.adapters.tensors import DTYPES, DType, NewTensor
from gradience.audit.dominance import DoraUpdate
from gradience.compress.module import Job
from gradience.compress.settings import WriteSettings
from gradience.errors import InputError, UsageError
from gradience.files.artifact import round_significant
from gradience.plan.compression import refuse_unread
from gradience.reports.base.encodings import Encoding
from gradience.reports.calibration import Calibration
from gradience.reports.compression import CompressionPlan

INTEGER_SLACK = 1e-12
"""s·r′ this close (relatively) to an integer is that integer: s itself came from a division."""


class Target(NamedTuple):
    """One module that is written: its rank and the scale it must keep."""

    name: str
    rank: int
    scale: float


Written = tuple[int, float]
"""Rank on disk and α of one module."""


@dataclass(frozen=True, slots=True)
class EncodedModules:
    """Encoding of the modules.

    fields: changes of adapter_config.json.   stored_rank: module -> rank on disk.
    fold: module -> factor for B (1.0: none).   scale: module -> scale that the fields give it; s = fold · scale.
    """

    encoding: Encoding
    reason: str
    fields: Mapping[str, Any]
    stored_rank: Mapping[str, int]
    fold: Mapping[str, float]
    scale: Mapping[str, float]


class EncodingRule(NamedTuple):
    """One way to write an adapter."""

    meaning: str
    """Description in reports."""
    write: Callable[[Sequence[Target]], Sequence[Written]]
    """Return rank on disk and α of each target. What its scale then lacks is folded into B."""


def encode_modules(targets: Sequence[Target], encoding: Encoding | None) -> EncodedModules:
    """Write `targets` (not empty) by the rule `encoding`, or by the one that fits them if it is None."""
    encoding, reason = (encoding, "requested") if encoding else _fitting(targets)
    if encoding == "uniform" and any(target.rank != targets[0].rank for target in targets):
        encoding, reason = (
            "padded",
            "uniform was requested; ranks differ, so smaller ones are padded with zeros",
        )
    names = [target.name for target in targets]
    written = dict(zip(names, rule_of(encoding).write(targets), strict=True))
    scale = {name: alpha / rank for name, (rank, alpha) in written.items()}
    fold = {target.name: _ratio(target.scale, scale[target.name]) for target in targets}
    if encoding != "folded" and any(factor != 1.0 for factor in fold.values()):
        reason += "; scales differ, so the ratio is folded into B"
    largest = max(rank for rank, _ in written.values())
    common = _commonest([alpha for rank, alpha in written.values() if rank == largest])
    fields = {
        "r": largest,
        "lora_alpha": common,
        "use_rslora": False,
        "rank_pattern": {anchored_key(name): rank for name, (rank, _) in written.items() if rank != largest},
        "alpha_pattern": {
            anchored_key(name): alpha for name, (_, alpha) in written.items() if alpha != common
        },
    }
    return EncodedModules(
        encoding, reason, fields, {name: rank for name, (rank, _) in written.items()}, fold, scale
    )


def rule_of(encoding: str) -> EncodingRule:
    """Return the rule called `encoding`. Raises UsageError (`unknown-encoding`)."""
    if encoding not in ENCODINGS:
        raise UsageError(
            f"unknown encoding {encoding!r}",
            code="unknown-encoding",
            hint=f"use one of {', '.join(ENCODINGS)}",
        )
    return ENCODINGS[encoding]


def _fitting(targets: Sequence[Target]) -> tuple[Encoding, str]:
    """The rule for these targets, and why."""
    equal_ranks = all(target.rank == targets[0].rank for target in targets)
    equal_scales = all(_same(target.scale, targets[0].scale) for target in targets)
    if equal_ranks and equal_scales:
        return "uniform", "all modules agree"
    names = [name for name, equal in (("ranks", equal_ranks), ("scales", equal_scales)) if not equal]
    reason = f"{' and '.join(names)} differ between modules"
    if uneven_experts(targets):
        return "padded", f"{reason}, and PEFT stacks experts only at one rank and scale"
    return "patterns", reason


def uneven_experts(targets: Sequence[Target]) -> bool:
    """Return True if an expert's own projection would need a different rank or scale than the config's global ones."""
    largest = max(target.rank for target in targets)
    common = _commonest([target.scale for target in targets if target.rank == largest])
    return any(
        is_split_expert(target.name) and (target.rank != largest or not _same(target.scale, common))
        for target in targets
    )


def _same(first: float, second: float) -> bool:
    return abs(first - second) <= INTEGER_SLACK * max(abs(first), abs(second))


def _ratio(scale: float, written: float) -> float:
    return 1.0 if _same(scale, written) else scale / written


def alpha_for(scale: float, rank: int) -> int | float:
    """α = s·r′, an integer if it is one to rounding."""
    alpha = scale * rank
    return round(alpha) if _same(alpha, round(alpha)) else alpha


def _commonest(values: Sequence[float]) -> float:
    """The commonest value, the first among equals; 0 only if there is no other.

    One so small that another divided by it is infinite does not count.
    """
    counts = Counter(filter(None, values))
    largest = max(map(abs, counts), default=0.0)
    able = (value for value, _ in counts.most_common() if math.isfinite(largest / abs(value)))
    return next(able, 0)


def _one_alpha(targets: Sequence[Target]) -> list[Written]:
    largest = max(target.rank for target in targets)
    return [(largest, alpha_for(_commonest([target.scale for target in targets]), largest))] * len(targets)


ENCODINGS: dict[Encoding, EncodingRule] = {
    "uniform": EncodingRule("one r and one α for all modules", _one_alpha),
    "patterns": EncodingRule(
        "rank_pattern and alpha_pattern for the modules that differ from r and α",
        lambda targets: [(target.rank, alpha_for(target.scale, target.rank)) for target in targets],
    ),
    "padded": EncodingRule(
        "zeros bring every module to one rank on disk, which saves no memory in a server", _one_alpha
    ),
    "folded": EncodingRule(
        "the scale is multiplied into B, and α is the rank",
        lambda targets: [(target.rank, target.rank) for target in targets],
    ),
}


# ---------------------------------------------------------------- targets


def init_fields(config: PeftConfig, ranks: Iterable[int]) -> dict[str, Any]:
    """Return what `init_lora_weights` must say of factors with these `ranks`.

    PEFT makes orthogonal factors only for even ranks, even if it will then load others.
    """
    odd = any(rank % 2 for rank in ranks)
    return {"init_lora_weights": True} if odd and config.init.lower() == "orthogonal" else {}


def target_fields(config: PeftConfig, kept: Iterable[str], dropped: Collection[str]) -> dict[str, Any]:
    """Targets that hit the modules `kept`, and none of those `dropped`.

    `exclude_modules` stays: what it kept PEFT away from may end like a module that is named in full.
    """
    if not dropped:
        return {}
    names = sorted(kept, key=lambda name: (natural_key(name), name))
    endings = set(names)
    similar = any(endings.intersection(path_ends(name)) for name in dropped)
    expression = isinstance(config.target_modules, str) and config.target_modules.lower() != "all-linear"
    if not names or not (similar or expression):
        return {"target_modules": names}
    # A list also hits every module that ends with `.name`; an expression is matched against the whole name.
    # PEFT refuses an expression beside the choice of layers, which it makes needless.
    only_for_lists = ("layers_to_transform", "layers_pattern")
    unset = {name: None for name in only_for_lists if config.fields.get(name) is not None}
    return {"target_modules": f"(?:{'|'.join(map(re.escape, names))})", **unset}


# ---------------------------------------------------------------- the file


def require_config(opened: Adapter) -> PeftConfig:
    """The config. Raises InputError (code no-config) if there is no config."""
    if opened.config is None:
        raise InputError(
            f"{opened.location.path}: no adapter_config.json beside the weights: without α no smaller adapter "
            "can be written",
            code="no-config",
            hint="put the adapter_config.json beside the weights",
        )
    return opened.config


def merged_fields(old: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in their order, with `changes`. An absent or empty field stays so if nothing else is meant."""

    def differs(name: str, value: Any) -> bool:
        """A written α of 16.0 becomes 16, which every runtime reads."""
        before = old.get(name)
        return bool(value or before) and not (type(before) is type(value) and before == value)

    return {**old, **{name: value for name, value in changes.items() if differs(name, value)}}


def write_config(path: Path, fields: Mapping[str, Any]) -> None:
    """Write an adapter_config.json as PEFT does: ASCII, two spaces, fields in their order."""
    path.write_bytes(json.dumps(fields, indent=2).encode() + b"\n")


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Field -> `old -> new`, both shortened, for what differs."""

    def short(value: Any) -> str:
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, dict | list) and len(text) > 60:
            return f"{len(value)} entries"
        return text if len(text) <= 60 else text[:57] + "..."

    return {
        name: f"{short(old.get(name))} -> {short(value)}"
        for name, value in new.items()
        if old.get(name) != value
    }


# ---------------------------------------------------------------- the layout

_OF_PEFT = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "alora_invocation_tokens",
    "arrow_config",
    "layer_replication",
)
"""Fields of PEFT's config with which s·B·A is not the whole update, or belongs to further modules."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Tensors and config of a smaller adapter.

    dropped: modules at rank 0.
    beside: PEFT's name -> every tensor that is not a factor.
    left_out: tensors of other adapters in the file.
    names: tensor -> PEFT's name, under which it is written.
    config: config of the reference adapter.
    new_fields: config of the written adapter.
    """

    config: PeftConfig
    encoded: EncodedModules
    jobs: Sequence[Job]
    dropped: Sequence[LoraPair]
    beside: Mapping[str, NewTensor]
    left_out: Sequence[str]
    names: Mapping[str, str]
    new_fields: Mapping[str, Any]

    @property
    def uneven_experts(self) -> bool:
        """True if experts that PEFT stacks would need several ranks or scales."""
        return uneven_experts(
            [Target(job.pair.module, job.stored_rank, job.written_scale) for job in self.jobs]
        )


def lay_out(
    opened: Adapter,
    plan: CompressionPlan,
    settings: WriteSettings | None = None,
    calibration: Calibration | None = None,
) -> Layout:
    """Decide what is written, and under which names; only headers are read.

    The weights of a base that a DoRA needs stay open as long as the adapter.
    Raises InputError if the adapter cannot be compressed so, UsageError for arguments that make no sense.
    """
    config, settings = require_config(opened), settings or WriteSettings()
    dora, encoding, dtype = opened.is_dora, settings.encoding, settings.dtype
    base = None
    if settings.base_model is not None:
        folder = base_folder(settings.base_model, weights=dora)
        check_model_config(folder, needed=not dora)
        base = opened.stack.enter_context(BaseWeights.open(folder)) if dora else None
    if dora and plan.strength != 1:
        raise InputError(
            f"{opened.location.path}: a DoRA adapter: its effect m·(W + s·B·A)/‖W + s·B·A‖ is not proportional to s",
            code="dora",
            hint="leave out --strength (Python: strength=); a plain LoRA adapter can have another strength",
        )
    refuse_adapter(opened, config, has_base=base is not None)
    planned = {module.name: (module.old_rank, module.scale) for module in plan.modules}
    if planned != {
        pair.module: (pair.rank, round_significant(opened.scale_of(pair))) for pair in opened.pairs
    }:
        raise another_adapter(opened)
    kept = {note.tensor: stored for note, stored in opened.beside()}
    left_out = sorted(note.tensor for note in opened.other if opened.is_foreign(note))
    carried = sorted(kept)
    ranks = {module.name: module.new_rank for module in plan.modules}
    types = {
        pair.module: (storage_type(dtype, pair.a.entry.dtype), storage_type(dtype, pair.b.entry.dtype))
        for pair in opened.pairs
    }
    dropped = [pair for pair in opened.pairs if not ranks[pair.module]]
    encoded, jobs = encoded_jobs(opened, opened.pairs, ranks, types, encoding, strength=plan.strength)
    jobs = [_with_basis(job, config, calibration) for job in jobs]
    _refuse_jobs(opened, jobs)
    parameter = next(
        (pair.module for pair in dropped if ends_with(pair.module, config.target_parameters)), None
    )
    if parameter is not None:
        raise InputError(
            f"{config.path}: the plan leaves out {parameter}, a parameter that target_parameters wraps",
            code="parameter-dropped",
            hint="use --rank or --energy (Python: rank=, energy=), which keep every module",
        )
    if base is not None:
        jobs = [replace(job, dora=partial(DoraUpdate, opened, job.pair, base)) for job in jobs]
    names = peft_names(opened, jobs, carried)
    if not (encoding or dtype or dropped or plan.strength != 1):
        _refuse_copy(opened, jobs, names)
    changes = {
        **encoded.fields,
        **init_fields(config, [job.stored_rank for job in jobs]),
        **target_fields(
            config,
            {config_name(job.pair.module) for job in jobs if not job.parameter},
            [pair.module for pair in dropped],
        ),
        **(fields_in_peft_order(config.fields) if opened.packed("grouped_by_expert") else {}),
    }
    new = merged_fields(config.fields, changes)
    beside = {names[tensor]: kept[tensor].to_write() for tensor in carried}
    return Layout(config, encoded, jobs, dropped, beside, left_out, names, new)


def encoded_jobs(
    opened: Adapter,
    pairs: Sequence[LoraPair],
    ranks: Mapping[str, int],
    types: Mapping[str, tuple[DType, DType]],
    encoding: Encoding | None = None,
    *,
    strength: float = 1.0,
) -> tuple[EncodedModules, list[Job]]:
    """Return how modules are written at these ranks and with these types of A and B, and their jobs.

    Modules of rank 0 are left out. Raises InputError (shared-rank).
    """
    targets: dict[str, Target] = {}
    for pair in pairs:
        target = Target(config_name(pair.module), ranks[pair.module], (pair.scale or 0.0) * strength)
        if targets.setdefault(target.name, target) != target:
            raise InputError(
                f"{opened.location.path}: {target.name} and the modules in it have one rank and one scale in PEFT, "
                f"and {pair.module} would get a different one",
                code="shared-rank",
                hint="use --rank or --energy, which give them the same rank (Python: rank=, energy=)",
            )
    # In an order that does not depend on the file's.
    kept = sorted(
        (target for target in targets.values() if target.rank),
        key=lambda target: (natural_key(target.name), target.name),
    )
    encoded, jobs = encode_modules(kept, encoding), []
    for pair in pairs:
        name, rank = config_name(pair.module), ranks[pair.module]
        if rank:
            written = encoded.stored_rank[name], encoded.fold[name], encoded.scale[name]
            jobs.append(Job(pair, rank, *written, *types[pair.module], strength=strength))
    return encoded, jobs


def storage_type(name: str | None, current: DType) -> DType:
    """Return the type that factors are stored in: `name`, or the `current` one. Raises UsageError (`bad-dtype`)."""
    wanted = current if name is None else DTYPES.get(name.upper())
    if wanted is None or wanted.numpy_name is None:
        known = ", ".join(name for name, item in DTYPES.items() if item.numpy_name is not None)
        raise UsageError(f"unknown storage type {name!r}", code="bad-dtype", hint=f"use one of {known}")
    return wanted


def _with_basis(job: Job, config: PeftConfig, calibration: Calibration | None) -> Job:
    """The job with the components of a calibration, and marked if its module is a parameter."""
    module = job.pair.module
    moments = calibration.modules.get(module) if calibration else None
    basis = None if moments is None else (moments.p, moments.q)
    return replace(job, parameter=ends_with(module, config.target_parameters), basis=basis)


def peft_names(opened: Adapter, jobs: Iterable[Job], carried: Iterable[str]) -> dict[str, str]:
    """Return tensor -> name that PEFT loads it under."""
    names = {
        factor.tensor: factor_name(factor.tensor, job.pair.module, job.pair.kind, side)
        for job in jobs
        for side, factor in job.pair.factors.items()
    }
    names |= {tensor: peft_name(tensor, opened.adapter_name) for tensor in carried}
    taken: dict[str, str] = {}
    for tensor, name in names.items():
        if taken.setdefault(name, tensor) != tensor:
            raise same_tensor(opened, taken[name], tensor, name)
    return names


# ---------------------------------------------------------------- what cannot be written


def another_adapter(opened: Adapter) -> UsageError:
    """Return the error for a plan that does not belong to this adapter."""
    return UsageError(
        f"{opened.location.path}: the plan was made for another adapter, or before this one was changed",
        code="plan-mismatch",
        hint="audit this adapter and make a new plan",
    )


def refuse_adapter(opened: Adapter, config: PeftConfig, *, has_base: bool) -> None:
    """Raise InputError for an adapter that cannot be written smaller, whatever the ranks.

    has_base: the weights of the base model are available (DoRA needs them).
    """
    path = opened.location.path
    if opened.unwritable is not None:
        raise InputError(
            f"{path}: {words_of(opened.format)} cannot be written as PEFT LoRA: {opened.unwritable}",
            code="read-only",
            hint="audit and compare it as it is; to compress it, save it as PEFT LoRA with its own library",
        )
    if opened.format == "diffusers":
        raise InputError(
            f"{path}: diffusers names modules after their part of the pipeline, PEFT does not",
            code="read-only",
            hint=f"convert it first, then compress as_peft: gradience convert {path} as_peft",
        )
    if opened.format == "mlx":
        refuse_tied_embedding(opened, "PEFT LoRA")
    if opened.is_dora and not has_base:
        raise InputError(
            f"{path}: a DoRA adapter: a smaller B·A depends on the base weights W: m·(W + s·B·A)/‖W + s·B·A‖",
            code="dora",
            hint="pass the folder of the base model as --base-model (Python: base_model=)",
        )
    if opened.is_dora and config.fields.get("layer_replication"):
        raise InputError(
            f"{path}: DoRA on replicated layers: its modules are numbered differently from the base weights",
            code="dora",
            hint="merge this adapter into its base model instead",
        )
    refuse_unread(path, opened.unaudited)
    if config.fields.get("ensure_weight_tying") and any(pair.kind == "embedding" for pair in opened.pairs):
        raise InputError(
            f"{path}: embedding and head share their factors (ensure_weight_tying)",
            code="tied-factors",
            hint="retrain without ensure_weight_tying, or without LoRA on the embedding",
        )


def same_tensor(opened: Adapter, first: str, second: str, name: str) -> InputError:
    """Return the error for two tensors that would be written under one name."""
    return InputError(
        f"{opened.location.path}: {first[:80]!r} and {second[:80]!r} would both be written as {name[:160]}",
        code="same-tensor",
        hint="name one of several adapters with --adapter, or save it again with PEFT, which writes one of them",
    )


def _refuse_jobs(opened: Adapter, jobs: Sequence[Job]) -> None:
    """Raise InputError if the ranks or scales of some modules cannot be written so."""
    hint = 'use --encoding patterns (Python: encoding="patterns")'
    for job in jobs:
        if job.pair.groups > 1 and (not job.keeps_rank or job.stored_rank != job.pair.rank):
            raise InputError(
                f"{opened.location.path}: {job.pair.module} is a grouped convolution: its block-diagonal B keeps its "
                "rank, and cannot get another one on disk",
                code="block-diagonal",
                hint=hint,
            )
    biased = opened.by_module(LORA_BIAS_REASON)
    for job in jobs:
        if job.fold != 1.0 and job.pair.module in biased:
            raise InputError(
                f"{opened.location.path}: {job.pair.module} has a lora_bias, multiplied by the same scale: "
                "the scale cannot be folded into B alone",
                code="lora-bias",
                hint=hint,
            )


def _refuse_copy(opened: Adapter, jobs: Sequence[Job], names: Mapping[str, str]) -> None:
    """Raise InputError (nothing-smaller) if the result would be what is there already."""
    truncated = any(not job.keeps_rank for job in jobs)
    if truncated or any(name != tensor for tensor, name in names.items()):
        return
    largest = max(job.pair.rank for job in jobs)
    raise InputError(
        f"{opened.location.path}: no module would get smaller: none has a higher rank than requested (the largest "
        f"is {largest})",
        code="nothing-smaller",
        hint="the adapter meets this size as it is; for a smaller one, request a smaller rank. To only re-encode or "
        "convert the type, add --encoding or --dtype",
    )


# ---------------------------------------------------------------- refusals of other formats


def not_held(opened: Adapter, form: str, part: str, hint: str) -> InputError:
    """Return the error for a part of an adapter that the format `form` cannot hold."""
    return InputError(
        f"{opened.location.path}: cannot be written as {form}: {part}", code="not-in-format", hint=hint
    )


def refuse_meaning(opened: Adapter, form: str, *, dora: bool = False) -> None:
    """Raise InputError (not-in-format) for an update that is not s·B·A of modules on the unchanged base.

    Only PEFT's config says how the base is changed, or that a factor belongs to a parameter. dora: DoRA is
    held.
    """
    config = opened.config
    if config is None:
        return
    start = initialization_of(config.init)
    if start is None or not start.keeps_base:
        raise not_held(
            opened,
            form,
            f"init_lora_weights is {config.init[:60]!r}: "
            + ("PEFT changes the base weights, too" if start else "what PEFT does to the base is unknown"),
            AS_PLAIN_LORA,
        )
    held = ("use_dora",) if dora else ()
    field = next((name for name in _OF_PEFT if config.fields.get(name) and name not in held), None)
    tied = any(pair.kind == "embedding" or pair.module.endswith("lm_head") for pair in opened.pairs)
    if tied and config.fields.get("ensure_weight_tying"):
        field = "ensure_weight_tying"
    parameter = next(
        (pair.module for pair in opened.pairs if ends_with(pair.module, config.target_parameters)), None
    )
    if field or parameter:
        part = (
            f"{field} in its config has no equivalent there"
            if field
            else f"{parameter} is a parameter, not a module"
        )
        raise not_held(opened, form, part, "only the PEFT format can store it")


def refuse_tied_embedding(opened: Adapter, form: str) -> None:
    """Raise InputError (not-in-format) between PEFT and mlx-lm for an embedding that is the head as well.

    mlx-lm adds the update of the embedding to the head, too (0.32.2, tuner/lora.py, `LoRAEmbedding.as_linear`), PEFT
    does not. A base whose config.json is not on this disk is not checked.
    """
    embedding = next((pair.module for pair in opened.pairs if pair.kind == "embedding"), None)
    if embedding is None or opened.config is None:
        return
    base = model_config_of(opened.config, opened.location.root) or {}
    if base.get("tie_word_embeddings") is True:
        raise not_held(
            opened,
            form,
            f"{embedding} is also the head of this base model (tie_word_embeddings): mlx-lm updates both, PEFT only "
            "the embedding",
            "train without LoRA on the embedding, or load the adapter with the library that trained it",
        )
