"""Adapter + plan -> what becomes of every tensor: jobs for the modules, and what is carried, dropped or refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradience.adapters.config import PeftConfig
from gradience.adapters.dtypes import DTYPES, DType
from gradience.adapters.encodings import Encoded, Target, encode_modules
from gradience.adapters.experts import guessed_orders
from gradience.adapters.inventory import DORA_REASON, LORA_BIAS_REASON, Note
from gradience.adapters.keys import parse_key
from gradience.adapters.locate import natural_key
from gradience.adapters.peft import Adapter, Factor, LoraPair
from gradience.artifacts.base import round_significant
from gradience.artifacts.compression import CompressionPlan, Encoding
from gradience.dora import BaseWeights
from gradience.errors import InputError, UsageError
from gradience.rewrite import Job


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is to be written.

    dropped: modules at rank 0.   carried: other tensors, copied byte for byte.   stripped: those left out.
    fields: changes of adapter_config.json.
    """

    encoded: Encoded
    jobs: Sequence[Job]
    dropped: Sequence[LoraPair]
    carried: Sequence[str]
    stripped: Sequence[str]
    fields: dict[str, Any]


def make_recipe(
    opened: Adapter,
    config: PeftConfig,
    plan: CompressionPlan,
    *,
    encoding: Encoding | None,
    dtype: str | None,
    strip: Sequence[str],
    base: BaseWeights | None,
) -> Recipe:
    """Raises InputError where the adapter cannot be compressed so, UsageError for arguments that make no sense."""
    _refuse(opened, config, base)
    _check_plan(plan, opened)
    own, foreign = _notes(opened)
    encoded = encode_modules(_targets(opened, plan), encoding)
    jobs, dropped = _jobs(opened, config, plan, encoded, dtype)
    _refuse_folded_bias(opened, jobs, own)
    _refuse_guesses(config, jobs)
    if base is not None:
        jobs = _with_magnitudes(opened, jobs, base, own, transposed=config.fan_in_fan_out)
    carried, stripped = _carried(own, strip)
    return Recipe(
        encoded,
        jobs,
        dropped,
        carried,
        sorted([*stripped, *(note.tensor for note in foreign)]),
        {**encoded.fields, **_target_fields(config, jobs, dropped)},
    )


def another_adapter(opened: Adapter, what: str) -> UsageError:
    """The error for a plan that does not belong to this adapter."""
    return UsageError(
        f"{opened.location.path}: the plan was made for another adapter ({what})",
        code="plan-mismatch",
        hint="audit this adapter and plan again",
    )


# ---------------------------------------------------------------- what may be compressed


def _refuse(opened: Adapter, config: PeftConfig, base: BaseWeights | None) -> None:
    path = opened.location.path
    is_dora = config.use_dora or any(note.reason == DORA_REASON for note in opened.other)
    if base is not None and not is_dora:
        raise UsageError(
            f"{path}: not a DoRA adapter, so the base model is not needed",
            code="base-unused",
            hint="leave --base-model out",
        )
    if is_dora and base is None:
        raise InputError(
            f"{path}: a DoRA adapter: its layers are m·(W + s·B·A)/‖W + s·B·A‖: what a smaller B·A does depends on W",
            code="dora",
            hint="give the folder of the base model's weights with --base-model",
        )
    if is_dora and config.fields.get("layer_replication"):
        raise InputError(
            f"{path}: DoRA on replicated layers: its modules are numbered otherwise than the base weights",
            code="dora",
            hint="merge this adapter into its base model instead",
        )
    if opened.unaudited:
        raise InputError(
            f"{path}: {len(opened.unaudited)} tensors were not understood, the first is {opened.unaudited[0].tensor} "
            f"({opened.unaudited[0].reason})",
            code="unaudited",
            hint="see `gradience audit` for all of them",
        )
    if config.fields.get("ensure_weight_tying") and any(pair.kind == "embedding" for pair in opened.pairs):
        raise InputError(
            f"{path}: the factors of the embedding and of the head are one (ensure_weight_tying)",
            code="tied-factors",
            hint="train without ensure_weight_tying, or without the embedding",
        )


def _check_plan(plan: CompressionPlan, opened: Adapter) -> None:
    planned = {module.name: module for module in plan.modules}
    if planned.keys() != {pair.module for pair in opened.pairs}:
        raise another_adapter(opened, "its modules differ")
    for pair in opened.pairs:
        if pair.scale is None:
            raise InputError(
                f"{opened.location.path}: the config has no lora_alpha, so the scale is unknown",
                code="no-alpha",
                hint="set lora_alpha in adapter_config.json",
            )
        module = planned[pair.module]
        if module.old_rank != pair.rank or not 0 <= module.new_rank <= pair.rank:
            raise another_adapter(opened, f"the rank of {pair.module} differs")
        if module.scale is not None and module.scale != round_significant(pair.scale):
            raise another_adapter(opened, f"the scale of {pair.module} differs: the config was changed since")
    if not any(module.new_rank for module in plan.modules):
        raise UsageError(
            f"{opened.location.path}: the plan leaves no component of any module",
            code="empty-plan",
            hint="allow more parameters, or a larger error",
        )


def _notes(opened: Adapter) -> tuple[list[Note], list[Note]]:
    """The tensors beside the factors: of this adapter, and of others in the same file."""
    own: list[Note] = []
    foreign: list[Note] = []
    for note in opened.other:
        name = parse_key(note.tensor).adapter
        (own if name in (None, opened.adapter_name) else foreign).append(note)
    return own, foreign


def _targets(opened: Adapter, plan: CompressionPlan) -> list[Target]:
    """What is written, in an order that does not depend on the file's."""
    rank_of = {module.name: module.new_rank for module in plan.modules}
    targets = [
        Target(pair.module, rank_of[pair.module], pair.scale or 0.0)
        for pair in opened.pairs
        if rank_of[pair.module]
    ]
    return sorted(targets, key=lambda target: (natural_key(target.name), target.name))


def _jobs(
    opened: Adapter, config: PeftConfig, plan: CompressionPlan, encoded: Encoded, dtype: str | None
) -> tuple[list[Job], list[LoraPair]]:
    plans = {module.name: module for module in plan.modules}
    ghosts = {parse_key(name).module for name in opened.ghosts}
    jobs, dropped = [], []
    for pair in opened.pairs:
        row = plans[pair.module]
        if row.new_rank == 0:
            dropped.append(pair)
            continue
        job = Job(
            pair,
            row,
            encoded.stored_rank[pair.module],
            encoded.fold[pair.module],
            encoded.scale[pair.module],
            _storage(pair.a.entry.dtype, dtype),
            _storage(pair.b.entry.dtype, dtype),
            parameter=_ends_with(pair.module, config.target_parameters),
        )
        if pair.groups > 1 and (not job.keeps_rank or job.stored_rank != pair.rank):
            raise InputError(
                f"{opened.location.path}: {pair.module} is a grouped convolution: its block-diagonal B keeps its rank, "
                f"and cannot get another one on disk",
                code="block-diagonal",
                hint="use --encoding patterns",
            )
        if pair.module in ghosts and not job.unchanged:
            raise InputError(
                f"{opened.location.path}: PEFT saved copies of {pair.module} beside it, "
                "which a change would leave behind",
                code="ghost-copies",
                hint="use --encoding patterns, without --dtype",
            )
        jobs.append(job)
    return jobs, dropped


def _storage(current: DType, wanted: str | None) -> DType:
    if wanted is None:
        return current
    found = DTYPES.get(wanted.upper())
    if found is None or found.raw is None:
        known = ", ".join(name for name, item in DTYPES.items() if item.raw)
        raise UsageError(f"unknown storage type {wanted!r}", code="bad-dtype", hint=f"one of {known}")
    return found


def _refuse_folded_bias(opened: Adapter, jobs: Iterable[Job], own: Iterable[Note]) -> None:
    biased = {parse_key(note.tensor).module for note in own if note.reason == LORA_BIAS_REASON}
    for job in jobs:
        if job.fold != 1.0 and job.pair.module in biased:
            raise InputError(
                f"{opened.location.path}: {job.pair.module} has a lora_bias, multiplied by the same scale: "
                "the scale cannot be folded into B alone",
                code="lora-bias",
                hint="use --encoding patterns",
            )


def _refuse_guesses(config: PeftConfig, jobs: Sequence[Job]) -> None:
    """Two parameters of one module that may be each other: only one rank and scale for both cannot mix them up."""
    guessed = tuple(guessed_orders(config))
    doubtful = [job for job in jobs if _ends_with(job.pair.module, guessed)]
    if len({(job.stored_rank, job.written_scale) for job in doubtful}) > 1:
        raise InputError(
            f"{config.path}: which tensors belong to {' and which to '.join(guessed[:2])} is a guess, and they would "
            "get different ranks or scales",
            code="parameter-order",
            hint="--rank K --encoding uniform gives all of them the same",
        )


def _with_magnitudes(
    opened: Adapter, jobs: Sequence[Job], base: BaseWeights, own: Iterable[Note], *, transposed: bool
) -> list[Job]:
    """The jobs of a DoRA adapter, each with its magnitude and the base weights."""
    files = {name: file for file in opened.files for name in file.entries}
    magnitudes = {
        parse_key(note.tensor).module: Factor(
            note.tensor, files[note.tensor], files[note.tensor].entries[note.tensor]
        )
        for note in own
        if note.reason == DORA_REASON
    }
    found = []
    for job in jobs:
        magnitude = magnitudes.get(job.pair.module)
        if magnitude is None or job.pair.kind != "linear":
            what = "no magnitude" if magnitude is None else f"a {job.pair.kind} layer with DoRA"
            raise InputError(
                f"{opened.location.path}: {job.pair.module} has {what}: only linear DoRA layers are compressed",
                code="dora",
                hint="train a smaller adapter, or merge this one into its base model",
            )
        found.append(replace(job, magnitude=magnitude, base=base, transposed=transposed))
    return found


# ---------------------------------------------------------------- targets, and everything else


def _target_fields(config: PeftConfig, jobs: Sequence[Job], dropped: Sequence[LoraPair]) -> dict[str, Any]:
    """Explicit targets where modules are left out, so that PEFT recreates nothing."""
    if not dropped:
        return {}
    parameter = next(
        (pair.module for pair in dropped if _ends_with(pair.module, config.target_parameters)), None
    )
    if parameter is not None:
        raise InputError(
            f"{config.path}: the plan leaves out {parameter}, a parameter that target_parameters wraps",
            code="parameter-dropped",
            hint="--rank and --energy keep every module",
        )
    names = [job.pair.module for job in jobs if not job.parameter]
    names.sort(key=lambda name: (natural_key(name), name))
    fields: dict[str, Any] = {"target_modules": _exactly(names, [pair.module for pair in dropped])}
    for name in ("exclude_modules", "layers_to_transform", "layers_pattern"):
        if config.fields.get(name) is not None:
            fields[name] = None
    return fields


def _exactly(names: Sequence[str], dropped: Sequence[str]) -> list[str] | str:
    """Targets that hit `names` and none of `dropped`.

    PEFT's list also hits every module that ends with `.name`; where that is a dropped one, only an expression will do.
    """
    endings = set(names)
    for name in dropped:
        parts = name.split(".")
        if any(".".join(parts[start:]) in endings for start in range(len(parts))):
            return f"(?:{'|'.join(re.escape(kept) for kept in names)})"
    return list(names)


def _ends_with(module: str, names: Iterable[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _carried(own: Iterable[Note], strip: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of the tensors that are copied, and of those dropped on request."""
    names = [note.tensor for note in own]
    for part in strip:
        if not part or not any(part in name for name in names):
            raise UsageError(
                f"--strip {part!r} matches no tensor beside the LoRA factors",
                code="strip-unmatched",
                hint="`gradience audit --json` lists them under coverage.other",
            )
    stripped = [name for name in names if any(part in name for part in strip)]
    return sorted(set(names) - set(stripped)), stripped
