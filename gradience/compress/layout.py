"""Adapter + plan -> what becomes of every tensor: jobs for the modules, and what is carried, dropped or refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradience.adapters.config import PeftConfig
from gradience.adapters.dtypes import DTYPES, DType
from gradience.adapters.experts import guessed_orders
from gradience.adapters.inventory import DORA_REASON, GHOST_REASON, LORA_BIAS_REASON, Note
from gradience.adapters.keys import config_name, ends_with, parse_key
from gradience.adapters.locate import natural_key
from gradience.adapters.naming import peft_name
from gradience.adapters.peft import Adapter, Factor, LoraPair
from gradience.artifacts.base import round_significant
from gradience.artifacts.compression import CompressionPlan, Encoding
from gradience.compress.dora import BaseWeights
from gradience.compress.encodings import Encoded, Target, encode_modules
from gradience.compress.module import Job
from gradience.compress.reconfigure import target_fields, without_stripped
from gradience.errors import InputError, UsageError
from gradience.plan.blocking import refuse_empty, refuse_unread


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is to be written.

    dropped: modules at rank 0.   carried: other tensors, copied byte for byte.   stripped: those left out.
    names: tensor -> the name it is written under, which is PEFT's own.
    fields: changes of adapter_config.json.
    """

    encoded: Encoded
    jobs: Sequence[Job]
    dropped: Sequence[LoraPair]
    carried: Sequence[str]
    stripped: Sequence[str]
    names: Mapping[str, str]
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
    carried, taken = _carried(own, strip)
    stripped = without_stripped(config, own, taken, opened.adapter_name)
    encoded = encode_modules(_targets(opened, plan), encoding)
    jobs, dropped = _jobs(opened, config, plan, encoded, dtype)
    _refuse_folded_bias(opened, jobs, [note for note in own if note.tensor not in taken])
    _refuse_guesses(config, jobs)
    _refuse_dropped_parameters(config, dropped)
    if base is not None:
        jobs = _with_magnitudes(opened, jobs, base, own, transposed=config.fan_in_fan_out)
    names = _names(opened, jobs, carried)
    if not (encoding or dtype or strip or dropped):
        _refuse_copy(opened, jobs, names)
    targets = {config_name(job.pair.module) for job in jobs if not job.parameter}
    gone = [pair.module for pair in dropped]
    return Recipe(
        encoded,
        jobs,
        dropped,
        carried,
        sorted([*taken, *(note.tensor for note in foreign)]),
        names,
        {**encoded.fields, **stripped.fields, **target_fields(config, sorted(targets), gone, stripped.bared)},
    )


def _refuse_copy(opened: Adapter, jobs: Sequence[Job], names: Mapping[str, str]) -> None:
    if any(not job.keeps_rank for job in jobs) or any(name != tensor for tensor, name in names.items()):
        return
    largest = max(job.pair.rank for job in jobs)
    raise InputError(
        f"{opened.location.path}: no module would get smaller: none has a higher rank than was asked for (the largest "
        f"is {largest})",
        code="nothing-smaller",
        hint="ask for less; --encoding, --dtype or --strip write it anew at the ranks that it has",
    )


def another_adapter(opened: Adapter, what: str) -> UsageError:
    """The error for a plan that does not belong to this adapter."""
    return UsageError(
        f"{opened.location.path}: the plan was made for another adapter ({what})",
        code="plan-mismatch",
        hint="audit this adapter and plan again",
    )


# ---------------------------------------------------------------- what may be compressed


def is_dora(opened: Adapter, config: PeftConfig) -> bool:
    """Whether the config or a magnitude in the file says so."""
    return config.use_dora or any(note.reason == DORA_REASON for note in opened.other)


def _refuse(opened: Adapter, config: PeftConfig, base: BaseWeights | None) -> None:
    path = opened.location.path
    if is_dora(opened, config) and base is None:
        raise InputError(
            f"{path}: a DoRA adapter: its layers are m·(W + s·B·A)/‖W + s·B·A‖: what a smaller B·A does depends on W",
            code="dora",
            hint="give the folder of the base model's weights with --base-model",
        )
    if is_dora(opened, config) and config.fields.get("layer_replication"):
        raise InputError(
            f"{path}: DoRA on replicated layers: its modules are numbered otherwise than the base weights",
            code="dora",
            hint="merge this adapter into its base model instead",
        )
    refuse_unread(path, opened.unaudited)
    nested = next((pair.module for pair in opened.pairs if not _understood(pair.module)), None)
    if nested is not None:
        raise InputError(
            f"{path}: {nested} lies inside another LoRA module (base_layer): PEFT 0.21 makes such modules only for the "
            "out_proj of nn.MultiheadAttention",
            code="nested-lora",
            hint="train without one of the two",
        )
    saved = next((pair.module for pair in opened.pairs if config.saved_whole(pair.module)), None)
    if saved is not None:
        raise InputError(
            f"{path}: {saved} has LoRA factors, and the config saves it whole as well "
            f"({_saved_by(config, saved)}): PEFT 0.21 refuses that",
            code="saved-and-adapted",
            hint="train without LoRA on it, or without saving it",
        )
    if config.fields.get("ensure_weight_tying") and any(pair.kind == "embedding" for pair in opened.pairs):
        raise InputError(
            f"{path}: the factors of the embedding and of the head are one (ensure_weight_tying)",
            code="tied-factors",
            hint="train without ensure_weight_tying, or without the embedding",
        )


def _understood(module: str) -> bool:
    return ".base_layer" not in module or module.endswith(".base_layer.out_proj")


def _saved_by(config: PeftConfig, module: str) -> str:
    _, entry = config.saved_whole(module) or ("", "")
    if entry in config.modules_to_save:
        return f"modules_to_save has {entry!r}, and PEFT compares the ends of names"
    return f"PEFT saves every {entry!r} for the task {config.task_type}"


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
    refuse_empty(module.new_rank for module in plan.modules)


def _notes(opened: Adapter) -> tuple[list[Note], list[Note]]:
    """The tensors beside the factors: of this adapter, and what PEFT would not look at.

    That is what belongs to other adapters in the same file, and the copies of a module that PEFT once kept.
    """
    own: list[Note] = []
    foreign: list[Note] = []
    for note in opened.other:
        ours = parse_key(note.tensor).adapter in (None, opened.adapter_name)
        (own if ours and note.reason != GHOST_REASON else foreign).append(note)
    return own, foreign


def _names(opened: Adapter, jobs: Iterable[Job], carried: Iterable[str]) -> dict[str, str]:
    """The name that PEFT looks for, of every tensor that is written."""
    factors = [tensor for job in jobs for tensor in (job.pair.a.tensor, job.pair.b.tensor)]
    names = {tensor: peft_name(tensor, opened.adapter_name) for tensor in (*factors, *carried)}
    taken: dict[str, str] = {}
    for tensor, name in names.items():
        if taken.setdefault(name, tensor) != tensor:
            raise InputError(
                f"{opened.location.path}: {taken[name]} and {tensor} are the same tensor for PEFT ({name})",
                code="same-tensor",
                hint="leave one of them out with --strip",
            )
    return names


def _targets(opened: Adapter, plan: CompressionPlan) -> list[Target]:
    """What is written, in an order that does not depend on the file's: one target per name in the config."""
    rank_of = {module.name: module.new_rank for module in plan.modules}
    targets: dict[str, Target] = {}
    for pair in opened.pairs:
        target = Target(config_name(pair.module), rank_of[pair.module], pair.scale or 0.0)
        if targets.setdefault(target.name, target) != target:
            raise InputError(
                f"{opened.location.path}: {target.name} and the modules in it share one rank and one scale in PEFT, "
                f"and {pair.module} would get another",
                code="shared-rank",
                hint="--rank and --energy give them the same",
            )
    kept = [target for target in targets.values() if target.rank]
    return sorted(kept, key=lambda target: (natural_key(target.name), target.name))


def _jobs(
    opened: Adapter, config: PeftConfig, plan: CompressionPlan, encoded: Encoded, dtype: str | None
) -> tuple[list[Job], list[LoraPair]]:
    plans = {module.name: module for module in plan.modules}
    jobs, dropped = [], []
    for pair in opened.pairs:
        row = plans[pair.module]
        if row.new_rank == 0:
            dropped.append(pair)
            continue
        name = config_name(pair.module)
        job = Job(
            pair,
            row,
            encoded.stored_rank[name],
            encoded.fold[name],
            encoded.scale[name],
            _storage(pair.a.entry.dtype, dtype),
            _storage(pair.b.entry.dtype, dtype),
            parameter=ends_with(pair.module, config.target_parameters),
        )
        if pair.groups > 1 and (not job.keeps_rank or job.stored_rank != pair.rank):
            raise InputError(
                f"{opened.location.path}: {pair.module} is a grouped convolution: its block-diagonal B keeps its rank, "
                f"and cannot get another one on disk",
                code="block-diagonal",
                hint="use --encoding patterns",
            )
        jobs.append(job)
    return jobs, dropped


def _storage(current: DType, wanted: str | None) -> DType:
    if wanted is None:
        return current
    found = DTYPES.get(wanted.upper())
    if found is None or found.numpy is None:
        known = ", ".join(name for name, item in DTYPES.items() if item.numpy is not None)
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
    doubtful = [job for job in jobs if ends_with(job.pair.module, guessed)]
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


def _refuse_dropped_parameters(config: PeftConfig, dropped: Sequence[LoraPair]) -> None:
    parameter = next(
        (pair.module for pair in dropped if ends_with(pair.module, config.target_parameters)), None
    )
    if parameter is not None:
        raise InputError(
            f"{config.path}: the plan leaves out {parameter}, a parameter that target_parameters wraps",
            code="parameter-dropped",
            hint="--rank and --energy keep every module",
        )


def _carried(own: Iterable[Note], strip: Sequence[str]) -> tuple[list[str], set[str]]:
    """Names of the tensors that are copied, and of those dropped on request."""
    names = [note.tensor for note in own]
    for part in strip:
        if not part or not any(part in name for name in names):
            raise UsageError(
                f"--strip {part!r} matches no tensor beside the LoRA factors",
                code="strip-unmatched",
                hint="`gradience audit --json` lists them under coverage.other",
            )
    stripped = {name for name in names if any(part in name for part in strip)}
    return sorted(set(names) - stripped), stripped
