"""Adapter + plan -> what becomes of every tensor: jobs for the modules, and what is carried, dropped or refused.

The refusals here are rules of PEFT and of the format; `plan.blocking` judges by the audit alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gradience.adapters.adapter import (
    DORA_REASON,
    GHOST_REASON,
    LORA_BIAS_REASON,
    Adapter,
    Factor,
    LoraPair,
    SkippedTensor,
)
from gradience.adapters.base_weights import BaseWeights
from gradience.adapters.config import PeftConfig
from gradience.adapters.diffusers import ALPHA_REASON, SEVERAL
from gradience.adapters.formats import words_of
from gradience.adapters.keys import config_name, ends_with, factor_name, parse_key, peft_name
from gradience.adapters.locate import WEIGHTS, natural_key
from gradience.adapters.peft import fields_in_peft_order, guessed_orders
from gradience.adapters.tensors import DTYPES, DType
from gradience.compress.encodings import Encoded, Target, init_fields, target_fields, without_stripped
from gradience.compress.forms import (
    Form,
    Settings,
    encode_for,
    no_place,
    not_held,
    refuse_meaning,
    refuse_tied_embedding,
    refuse_types,
)
from gradience.compress.module import Job
from gradience.errors import InputError, UsageError
from gradience.files.artifact import round_significant
from gradience.plan.blocking import is_wrapped, refuse_empty, refuse_unread
from gradience.reports.calibration import Calibration
from gradience.reports.compression import CompressionPlan, Encoding


def is_dora(opened: Adapter, config: PeftConfig) -> bool:
    """Whether the config or a magnitude in the file says so."""
    return config.use_dora or any(note.reason == DORA_REASON for note in opened.other)


def another_adapter(opened: Adapter, what: str) -> UsageError:
    """The error for a plan that does not belong to this adapter."""
    return UsageError(
        f"{opened.location.path}: the plan was made for another adapter ({what})",
        code="plan-mismatch",
        hint="audit this adapter and make a new plan",
    )


def refuse_adapter(opened: Adapter, config: PeftConfig, *, has_base: bool, form: Form | None = None) -> None:
    """Raise InputError for an adapter that cannot be written smaller, whatever the ranks.

    has_base: whether the weights of the base model are at hand, which DoRA needs.   form: the format to write, where
    it is not PEFT's.
    """
    path = opened.location.path
    unwritable = SEVERAL if opened.format == "diffusers" else opened.unwritable
    if unwritable is not None and form is None:
        raise InputError(
            f"{path}: {words_of(opened.format)} as PEFT LoRA: {unwritable}",
            code="read-only",
            hint="audit and compare it as it is; a smaller one must be made with its own library, or with PEFT",
        )
    if form is not None and is_dora(opened, config):
        raise not_held(
            opened, form.words, "it holds no DoRA adapter whose rank has changed", "PEFT's format holds it"
        )
    if form is not None:
        refuse_meaning(opened, form.words)
    elif opened.format == "mlx":
        refuse_tied_embedding(opened, "PEFT LoRA")
    if is_dora(opened, config) and not has_base:
        raise InputError(
            f"{path}: a DoRA adapter: what a smaller B·A does depends on the base weights W: m·(W + s·B·A)/‖W + s·B·A‖",
            code="dora",
            hint="give the folder of the base weights: --base-model DIR (Python: base_model=)",
        )
    if is_dora(opened, config) and config.fields.get("layer_replication"):
        raise InputError(
            f"{path}: DoRA on replicated layers: its modules are numbered differently from the base weights",
            code="dora",
            hint="merge this adapter into its base model instead",
        )
    refuse_unread(path, opened.unaudited)
    nested = next((pair.module for pair in opened.pairs if not _understood(pair.module)), None)
    if nested is not None:
        raise InputError(
            f"{path}: {nested} is inside another LoRA module (base_layer): PEFT 0.21 creates such modules only for the "
            "out_proj of nn.MultiheadAttention",
            code="nested-lora",
            hint="retrain with LoRA on only one of the two",
        )
    saved = next((pair.module for pair in opened.pairs if config.saved_whole(pair.module)), None)
    if saved is not None:
        raise InputError(
            f"{path}: {saved} has LoRA factors, and the config saves its full weights as well "
            f"({_saved_by(config, saved)}): PEFT 0.21 refuses that",
            code="saved-and-adapted",
            hint="retrain without LoRA on it, or without it in modules_to_save",
        )
    if config.fields.get("ensure_weight_tying") and any(pair.kind == "embedding" for pair in opened.pairs):
        raise InputError(
            f"{path}: embedding and head share their factors (ensure_weight_tying)",
            code="tied-factors",
            hint="retrain without ensure_weight_tying, or without LoRA on the embedding",
        )


def _understood(module: str) -> bool:
    return ".base_layer" not in module or module.endswith(".base_layer.out_proj")


def _saved_by(config: PeftConfig, module: str) -> str:
    _, entry = config.saved_whole(module) or ("", "")
    if entry in config.modules_to_save:
        return f"modules_to_save has {entry!r}, and PEFT compares the ends of names"
    return f"PEFT saves every {entry!r} for the task {config.task_type}"


def refuse_plan(opened: Adapter, plan: CompressionPlan, calibration: Calibration | None = None) -> None:
    """Raise UsageError for a plan that does not fit the adapter or the calibration, InputError (no-alpha) where a
    scale is unknown.
    """
    if plan.initial_sha256 != (None if opened.initial is None else opened.initial.sha256()):
        raise UsageError(
            "the plan was made without an initial adapter"
            if plan.initial_sha256 is None
            else f"the plan was made with the initial adapter of sha256 {plan.initial_sha256[:12]}…",
            code="plan-mismatch",
            hint="give the same --initial-adapter DIR as for the plan, or none (Python: initial_adapter=)",
        )
    if plan.calibration_sha256 != (None if calibration is None else calibration.sha256):
        raise UsageError(
            "the plan was made with another calibration"
            if calibration
            else "the plan was made with a calibration",
            code="plan-mismatch",
            hint="give the calibration that the plan was made with: --calibration FILE (Python: calibration=)",
        )
    planned = {module.name: module for module in plan.modules}
    if planned.keys() != {pair.module for pair in opened.pairs}:
        raise another_adapter(opened, "its modules differ")
    for pair in opened.pairs:
        scale = opened.scale_of(pair)
        module = planned[pair.module]
        if module.old_rank != pair.rank or not 0 <= module.new_rank <= pair.rank:
            raise another_adapter(opened, f"the rank of {pair.module} differs")
        if module.scale is not None and module.scale != round_significant(scale):
            raise another_adapter(opened, f"the scale of {pair.module} differs: the config was changed since")
    refuse_empty(module.new_rank for module in plan.modules)


def refuse_copy(opened: Adapter, jobs: Sequence[Job], names: Mapping[str, str]) -> None:
    """Raise InputError (nothing-smaller) where the result would be what is there already."""
    if (
        opened.initial is not None
        or any(not job.keeps_rank for job in jobs)
        or any(name != tensor for tensor, name in names.items())
    ):
        return
    largest = max(job.pair.rank for job in jobs)
    raise InputError(
        f"{opened.location.path}: no module would get smaller: none has a higher rank than requested (the largest "
        f"is {largest})",
        code="nothing-smaller",
        hint="request a smaller rank; with --encoding, --dtype or --strip it is rewritten at its current ranks",
    )


def refuse_jobs(
    opened: Adapter, config: PeftConfig, jobs: Sequence[Job], others: Iterable[SkippedTensor]
) -> None:
    """Raise InputError where the ranks or scales of some modules cannot be written so.

    others: the tensors that are carried beside the factors.
    """
    for job in jobs:
        if job.pair.groups > 1 and (not job.keeps_rank or job.stored_rank != job.pair.rank):
            raise InputError(
                f"{opened.location.path}: {job.pair.module} is a grouped convolution: its block-diagonal B keeps its "
                "rank, and cannot get another one on disk",
                code="block-diagonal",
                hint='use --encoding patterns (Python: encoding="patterns")',
            )
    _refuse_folded_bias(opened, jobs, others)
    _refuse_guesses(config, jobs)


def _refuse_folded_bias(opened: Adapter, jobs: Iterable[Job], others: Iterable[SkippedTensor]) -> None:
    biased = {parse_key(note.tensor).module for note in others if note.reason == LORA_BIAS_REASON}
    for job in jobs:
        if job.fold != 1.0 and job.pair.module in biased:
            raise InputError(
                f"{opened.location.path}: {job.pair.module} has a lora_bias, multiplied by the same scale: "
                "the scale cannot be folded into B alone",
                code="lora-bias",
                hint='use --encoding patterns (Python: encoding="patterns")',
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
            hint="give all of them the same rank: --rank K --encoding uniform (Python: rank=, encoding=)",
        )


def refuse_dropped(config: PeftConfig, dropped: Sequence[LoraPair]) -> None:
    """Raise InputError (parameter-dropped) where a parameter that `target_parameters` wraps would be left out."""
    parameter = next(
        (pair.module for pair in dropped if is_wrapped(pair.module, config.target_parameters)), None
    )
    if parameter is not None:
        raise InputError(
            f"{config.path}: the plan leaves out {parameter}, a parameter that target_parameters wraps",
            code="parameter-dropped",
            hint="use --rank or --energy (Python: rank=, energy=), which keep every module",
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """Which tensors and which fields of the config a smaller adapter has.

    dropped: modules at rank 0.   carried: other tensors, copied byte for byte.   stripped: those left out.
    names: tensor -> the name it is written under, which is PEFT's own, or that of the form.
    fields: changes of adapter_config.json.
    form: the format beside PEFT's that is written; settings: what its folder says beside the factors; modules: what
    its modules are called there.
    """

    encoded: Encoded
    jobs: Sequence[Job]
    dropped: Sequence[LoraPair]
    carried: Sequence[str]
    stripped: Sequence[str]
    names: Mapping[str, str]
    fields: dict[str, Any]
    form: Form | None = None
    settings: Settings | None = None
    modules: Mapping[str, str] = field(default_factory=dict)

    @property
    def weights(self) -> str:
        """Name of the file of weights."""
        return WEIGHTS if self.form is None else self.form.weights


def lay_out(
    opened: Adapter,
    config: PeftConfig,
    plan: CompressionPlan,
    *,
    encoding: Encoding | None,
    dtype: str | None,
    strip: Sequence[str],
    base: BaseWeights | None,
    calibration: Calibration | None = None,
    form: Form | None = None,
) -> Layout:
    """Decide what is written, and under which names.

    calibration: the one that the plan was made with.   form: the format to write, where it is not PEFT's.
    Raises InputError where the adapter cannot be compressed so, UsageError for arguments that make no sense.
    """
    refuse_adapter(opened, config, has_base=base is not None, form=form)
    refuse_plan(opened, plan, calibration)
    others, foreign = _other_tensors(opened)
    carried, taken = _carried(others, strip)
    stripped = without_stripped(config, others, taken, opened.adapter_name)
    encoded = encode_for(form, _targets(opened, plan), encoding)
    jobs, dropped = _jobs(opened, config, plan, encoded, dtype)
    refuse_jobs(opened, config, jobs, [note for note in others if note.tensor not in taken])
    refuse_dropped(config, dropped)
    if calibration is not None:
        jobs = [_with_basis(job, calibration) for job in jobs]
    if base is not None:
        jobs = _with_magnitudes(opened, jobs, base, others, transposed=config.fan_in_fan_out)
    names = _names(opened, jobs, carried) if form is None else _names_in(form, opened, jobs)
    if not (encoding or dtype or strip or dropped):
        refuse_copy(opened, jobs, names)
    gone_too = sorted([*taken, *(note.tensor for note in foreign)])
    if form is not None:
        return _in_form(form, opened, encoded, jobs, dropped, gone_too, names, others, taken)
    targets = {config_name(job.pair.module) for job in jobs if not job.parameter}
    gone = [pair.module for pair in dropped]
    fields = {**encoded.fields, **init_fields(config, [job.stored_rank for job in jobs])}
    order = fields_in_peft_order(config.fields) if opened.packed("grouped_by_expert") else {}
    return Layout(
        encoded,
        jobs,
        dropped,
        carried,
        gone_too,
        names,
        {
            **fields,
            **stripped.fields,
            **target_fields(config, sorted(targets), gone, stripped.bared),
            **order,
        },
    )


def _in_form(
    form: Form,
    opened: Adapter,
    encoded: Encoded,
    jobs: Sequence[Job],
    dropped: Sequence[LoraPair],
    stripped: Sequence[str],
    names: Mapping[str, str],
    others: Iterable[SkippedTensor],
    taken: Collection[str],
) -> Layout:
    """The layout in a format that has factors alone. Raises InputError (not-in-format)."""
    beside = next((note for note in others if note.tensor not in taken and note.reason != ALPHA_REASON), None)
    if beside is not None:
        raise no_place(opened, form.words, beside)
    for side in ("dtype_A", "dtype_B"):
        refuse_types(opened, form, {job.pair.module: getattr(job, side).name for job in jobs})
    settings = form.settings(
        opened, [Target(job.pair.module, job.stored_rank, job.written_scale) for job in jobs]
    )
    modules = {job.pair.module: form.module(opened, job.pair.module) for job in jobs}
    return Layout(encoded, jobs, dropped, (), stripped, names, {}, form, settings, modules)


def _names_in(form: Form, opened: Adapter, jobs: Iterable[Job]) -> dict[str, str]:
    names: dict[str, str] = {}
    for pair in (job.pair for job in jobs):
        module = form.module(opened, pair.module)
        names |= {pair.a.tensor: form.factor(module, "A"), pair.b.tensor: form.factor(module, "B")}
    return names


def _other_tensors(opened: Adapter) -> tuple[list[SkippedTensor], list[SkippedTensor]]:
    """The tensors beside the factors: of this adapter, and what PEFT would not look at.

    That is what belongs to other adapters in the same file, and the copies of a module that PEFT once kept.
    """
    kept: list[SkippedTensor] = []
    foreign: list[SkippedTensor] = []
    for note in opened.other:
        ours = parse_key(note.tensor).adapter in (None, opened.adapter_name)
        (kept if ours and note.reason != GHOST_REASON else foreign).append(note)
    return kept, foreign


def _names(opened: Adapter, jobs: Iterable[Job], carried: Iterable[str]) -> dict[str, str]:
    """The name that PEFT looks for, of every tensor that is written."""
    names = {}
    for pair in (job.pair for job in jobs):
        names[pair.a.tensor] = factor_name(pair.a.tensor, pair.module, pair.kind, "A")
        names[pair.b.tensor] = factor_name(pair.b.tensor, pair.module, pair.kind, "B")
    names |= {tensor: peft_name(tensor, opened.adapter_name) for tensor in carried}
    taken: dict[str, str] = {}
    for tensor, name in names.items():
        if taken.setdefault(name, tensor) != tensor:
            raise InputError(
                f"{opened.location.path}: PEFT loads {taken[name]} and {tensor} as the same tensor ({name})",
                code="same-tensor",
                hint="drop one of them with --strip (Python: strip=)",
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
                f"{opened.location.path}: {target.name} and the modules in it have one rank and one scale in PEFT, "
                f"and {pair.module} would get a different one",
                code="shared-rank",
                hint="give them the same with --rank or --energy (Python: rank=, energy=)",
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
        jobs.append(
            Job(
                pair,
                row,
                encoded.stored_rank[name],
                encoded.fold[name],
                encoded.scale[name],
                _storage(pair.a.entry.dtype, dtype),
                _storage(pair.b.entry.dtype, dtype),
                parameter=ends_with(pair.module, config.target_parameters),
            )
        )
    return jobs, dropped


def _storage(current: DType, wanted: str | None) -> DType:
    if wanted is None:
        return current
    dtype = DTYPES.get(wanted.upper())
    if dtype is None or dtype.numpy_name is None:
        known = ", ".join(name for name, item in DTYPES.items() if item.numpy_name is not None)
        raise UsageError(f"unknown storage type {wanted!r}", code="bad-dtype", hint=f"use one of {known}")
    return dtype


def _with_basis(job: Job, calibration: Calibration) -> Job:
    moments = calibration.modules.get(job.pair.module)
    return job if moments is None else replace(job, basis=(moments.p, moments.q))


def _with_magnitudes(
    opened: Adapter,
    jobs: Sequence[Job],
    base: BaseWeights,
    others: Iterable[SkippedTensor],
    *,
    transposed: bool,
) -> list[Job]:
    """The jobs of a DoRA adapter, each with its magnitude and the base weights."""
    files = {name: file for file in opened.files for name in file.entries}
    magnitudes = {
        parse_key(note.tensor).module: Factor(
            note.tensor, files[note.tensor], files[note.tensor].entries[note.tensor]
        )
        for note in others
        if note.reason == DORA_REASON
    }
    complete = []
    for job in jobs:
        magnitude = magnitudes.get(job.pair.module)
        if magnitude is None or job.pair.kind != "linear":
            what = "no magnitude" if magnitude is None else f"a {job.pair.kind} layer with DoRA"
            raise InputError(
                f"{opened.location.path}: {job.pair.module} has {what}: only linear DoRA layers are compressed",
                code="dora",
                hint="retrain at a smaller rank, or merge this adapter into its base model",
            )
        complete.append(replace(job, magnitude=magnitude, base=base, transposed=transposed))
    return complete


def _carried(others: Iterable[SkippedTensor], strip: Sequence[str]) -> tuple[list[str], set[str]]:
    """Names of the tensors that are copied, and of those dropped on request."""
    names = [note.tensor for note in others]
    for part in strip:
        if not part or not any(part in name for name in names):
            raise UsageError(
                f"no tensor except LoRA factors has {part!r} in its name, so strip has nothing to drop",
                code="strip-unmatched",
                hint="`gradience audit --json` lists what can be stripped under coverage.other",
            )
    stripped = {name for name in names if any(part in name for part in strip)}
    return sorted(set(names) - stripped), stripped
