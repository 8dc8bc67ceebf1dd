"""Adapter + plan -> what becomes of every tensor: jobs for the modules, and what is carried, dropped or refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gradience.adapters.adapter import Adapter, Factor, LoraPair
from gradience.adapters.base_weights import BaseWeights
from gradience.adapters.config import PeftConfig
from gradience.adapters.dtypes import DTYPES, DType
from gradience.adapters.experts import fields_in_peft_order
from gradience.adapters.inventory import DORA_REASON, GHOST_REASON, SkippedTensor
from gradience.adapters.keys import config_name, ends_with, parse_key
from gradience.adapters.kohya import ALPHA_REASON
from gradience.adapters.locate import WEIGHTS, natural_key
from gradience.adapters.naming import factor_name, peft_name
from gradience.compress.encodings import Encoded, Target
from gradience.compress.forms.form import Form, Settings, encode_for, no_place, refuse_types
from gradience.compress.module import Job
from gradience.compress.reconfigure import init_fields, target_fields, without_stripped
from gradience.compress.refusals import refuse_adapter, refuse_copy, refuse_dropped, refuse_jobs, refuse_plan
from gradience.errors import InputError, UsageError
from gradience.reports.calibration import Calibration
from gradience.reports.compression import CompressionPlan, Encoding


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
