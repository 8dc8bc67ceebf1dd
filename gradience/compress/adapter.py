"""Compression: an adapter -> a smaller approximation with the same scale, and a report of what was lost.

Training-free and exact: every module gets the best approximation of its rank (Eckart–Young), found in r-space, one
module at a time, without the base model. The error reported is the one of the factors as they are stored.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

from gradience.adapters.adapter import Adapter, LoraPair
from gradience.adapters.base_weights import BaseWeights
from gradience.adapters.config import PeftConfig
from gradience.adapters.formats import open_adapter
from gradience.adapters.locate import CONFIG
from gradience.adapters.memory import compress_bytes, limit_for, workers_within
from gradience.adapters.patterns import anchored_key
from gradience.adapters.tensors import type_names
from gradience.arguments import integer_argument, names_argument, path_argument, ranks_argument
from gradience.audit.adapter import SAVE_INITIAL, audit_adapter
from gradience.blas import worker_threads
from gradience.compress.carry import (
    annotate,
    carry_files,
    compressed_opening,
    names_beside,
    refuse_foreign_files,
)
from gradience.compress.check import check_with_peft, check_written, require_peft
from gradience.compress.encodings import (
    Target,
    changed_fields,
    merged_fields,
    require_config,
    rule_of,
    uneven_experts,
    write_config,
)
from gradience.compress.forms import PEFT, form_of
from gradience.compress.layout import Layout, another_adapter, is_dora, lay_out
from gradience.compress.module import CompressedModule, Job
from gradience.compress.weights import write_weights
from gradience.errors import UsageError
from gradience.files.card import CARD, write_block
from gradience.files.shared_names import path_text
from gradience.files.whole import check_output, whole_folder
from gradience.hub.address import address_of
from gradience.hub.client import fetch_folder
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import Suggested
from gradience.plan.sizes import criterion_of
from gradience.progress import Progress
from gradience.ranks import max_lora_rank_step
from gradience.reports.base.run import Stopwatch
from gradience.reports.base.source import hub_source, initial_of
from gradience.reports.calibration import Calibration, calibration_argument
from gradience.reports.compression import (
    CompressionPlan,
    CompressionReport,
    Encoding,
    ModulePlan,
    ModuleResult,
)
from gradience.runtimes import architecture_of, check_model_config, verdicts
from gradience.spectra import relative_error
from gradience.words import counted

_BASE_CONFIG = ("config.json",)
_BASE_WEIGHTS = ("config.json", "*.safetensors", "*.safetensors.index.json")


def base_folder(name: str | os.PathLike[str], *, weights: bool = False) -> Path:
    """Return the folder of a base model. weights: those as well, and not its config alone.

    Raises what `fetch_folder` raises for a name on the hub, UsageError (`bad-address`).
    """
    address = address_of(name)
    return (
        Path(name)
        if address is None
        else fetch_folder(address, _BASE_WEIGHTS if weights else _BASE_CONFIG)[0]
    )


ROUNDING_SHOWS = 0.01
"""Relative error from which a loss by rounding alone is worth a warning."""


def results_of(
    opened: Adapter, plan: CompressionPlan, layout: Layout, modules: Mapping[str, CompressedModule]
) -> dict[str, Any]:
    """Every module as written or dropped, in the order of the adapter, and the sums over them."""
    plans = {module.name: module for module in plan.modules}
    jobs = {job.pair.module: job for job in layout.jobs}
    rows = tuple(
        _row(plans[pair.module], pair, jobs.get(pair.module), modules.get(pair.module))
        for pair in opened.pairs
    )
    norms = {pair.module: plans[pair.module].norm or 0.0 for pair in layout.dropped}
    norms |= {name: module.norm for name, module in modules.items()}
    errors = {row.name: row.measured_error or 0.0 for row in rows}
    # Relative to the largest norm: squares of norms beyond 1e154 would overflow.
    peak = max(norms.values()) or 1.0
    total = math.fsum((norm / peak) ** 2 for norm in norms.values())
    lost = math.fsum((errors[name] * norm / peak) ** 2 for name, norm in norms.items())
    old_params, new_params = sum(row.old_params for row in rows), sum(row.new_params for row in rows)
    return {
        "modules": rows,
        "dropped": tuple(pair.module for pair in layout.dropped),
        "kept_energy": plan.kept_energy,
        "predicted_error": plan.predicted_error,
        "measured_error": relative_error(lost, total) or 0.0,
        "old_params": old_params,
        "new_params": new_params,
        "reduction": 1 - new_params / old_params,
        "old_max_lora_rank": plan.old_max_lora_rank,
        "new_max_lora_rank": max_lora_rank_step(max(row.stored_rank for row in rows)),
    }


def _row(plan: ModulePlan, pair: LoraPair, job: Job | None, module: CompressedModule | None) -> ModuleResult:
    """One module as it was written by `job`; without a job it was dropped."""
    row: dict[str, Any] = {
        "name": pair.module,
        "old_rank": pair.rank,
        "new_rank": plan.new_rank,
        "scale": pair.scale or 0.0,
        "kept_energy": plan.kept_energy,
        "predicted_error": plan.predicted_error,
        "old_params": pair.params,
        "old_bytes": pair.bytes,
    }
    if job is None or module is None:
        return ModuleResult(
            **row,
            stored_rank=0,
            folded=1.0,
            dtype=type_names(pair.a.entry.dtype, pair.b.entry.dtype),
            unchanged=False,
            measured_error=plan.predicted_error,
            new_params=0,
            new_bytes=0,
            method="dropped",
        )
    params_A, params_B = (math.prod(shape) for shape in job.shapes())
    return ModuleResult(
        **row,
        stored_rank=job.stored_rank,
        folded=job.fold,
        dtype=type_names(job.dtype_A, job.dtype_B),
        unchanged=job.unchanged,
        measured_error=module.error,
        output_error=module.output_error,
        new_params=params_A + params_B,
        new_bytes=round(params_A * job.dtype_A.itemsize + params_B * job.dtype_B.itemsize),
        method=module.method,
    )


def warnings_of(plan: CompressionPlan, layout: Layout, results: Mapping[str, Any]) -> tuple[str, ...]:
    """What a reader of the report should know."""
    kept = Counter(module.fixed for module in plan.modules if module.fixed)
    warnings = [
        f"{counted(count, 'module keeps its rank', 'modules keep their rank')}: {reason}"
        for reason, count in kept.items()
    ]
    keys = {**layout.encoded.fields["rank_pattern"], **layout.encoded.fields["alpha_pattern"]}
    if any(anchored_key(job.pair.module) in keys for job in layout.jobs if job.parameter):
        warnings.append(
            "PEFT 0.21 says that pattern keys of target_parameters match nothing, and applies them"
        )
    rounding = math.sqrt(max(0.0, results["measured_error"] ** 2 - results["predicted_error"] ** 2))
    targets = [Target(job.pair.module, job.stored_rank, job.written_scale) for job in layout.jobs]
    if uneven_experts(targets):
        warnings.append(
            "PEFT 0.21 with transformers 5 does not load experts of several ranks: --encoding padded does"
        )
    if not any(module.norm for module in plan.modules):
        warnings.append("untrained: B·A = 0, so the kept energy and the error say nothing")
    if rounding > max(results["predicted_error"], ROUNDING_SHOWS):
        warnings.append(
            f"rounding to the storage type costs more ({rounding:.2g}) than the smaller rank does: "
            "use a wider --dtype"
        )
    return tuple(warnings)


REPORT = "compression_report.json"
Documents = Callable[[Path, CompressionReport], Mapping[str, str]]
"""The folder of a written adapter, its report -> further files, name -> text; of README.md the block of the card."""


def write_compressed(
    adapter: str | os.PathLike[str],
    plan: CompressionPlan,
    output: str | os.PathLike[str],
    *,
    encoding: Encoding | None = None,
    dtype: str | None = None,
    strip: Sequence[str] = (),
    base_model: str | os.PathLike[str] | None = None,
    calibration: Calibration | None = None,
    verify_peft: bool = False,
    force: bool = False,
    adapter_name: str | None = None,
    allow_pickle: bool = False,
    initial_adapter: Path | None = None,
    workers: int | None = None,
    max_memory: int | None = None,
    progress: Progress | None = None,
    to: str | None = None,
    documents: Documents | None = None,
    command: str = "",
) -> CompressionReport:
    """Write the adapter at `adapter`, at the ranks of `plan`, to the folder `output`.

    The other keywords are those of `compress_adapter`; a calibration is the one that the plan was made with.
    documents: makes further files of the folder from it and the report: its Markdown, the block of its card.

    Returns the report, which also lies in the folder. Raises InputError where the adapter cannot be compressed,
    UsageError for arguments that make no sense, VerificationError where PEFT does not load the result, OutputError
    when the disk refuses. Nothing is left half-written.
    """
    source, target = Path(adapter), Path(output)
    watch = Stopwatch(command)
    check_output(target, source, force=force)
    refuse_foreign_files(target, names_beside(source))
    if verify_peft:
        require_peft()
    given = (plan, base_model, adapter_name, allow_pickle, initial_adapter, to)
    how: dict[str, Any] = {"encoding": encoding, "dtype": dtype, "strip": strip, "calibration": calibration}
    with _prepared(source, *given, **how) as (opened, config, layout), ExitStack() as stack:
        fitting = _fitting(opened, layout, max_memory, workers)
        pool = stack.enter_context(worker_threads(fitting))
        digest = pool.submit(opened.sha256)
        fields, new_fields = _fields(config, layout)
        _refuse_check(layout, verify_peft=verify_peft)
        with whole_folder(target, force=force) as folder:
            weights = write_weights(folder / layout.weights, opened, layout, pool, 4 * fitting, progress)
            if plan.adapter_sha256 != digest.result():
                raise another_adapter(
                    opened, f"sha256 {plan.adapter_sha256[:12]}… there, {digest.result()[:12]}… here"
                )
            if layout.settings is None or layout.settings.config is not None:
                write_config(folder / CONFIG, new_fields)
            carried_files, left_out = carry_files(opened.location, folder)
            check_written(folder, layout, weights.modules, weights.size)
            loaded = check_with_peft(folder, opened, config, layout) if verify_peft else None
            results = results_of(opened, plan, layout, weights.modules)
            annotated = annotate(folder, compressed_opening(results["modules"], results["measured_error"]))
            report = CompressionReport(
                source_path=path_text(opened.location.path),
                source_sha256=digest.result(),
                source=hub_source(opened.source),
                output_path=path_text(target),
                output_sha256=weights.sha256,
                criterion=plan.criterion,
                initial=initial_of(opened),
                **_foreseen(plan),
                format=PEFT if layout.form is None else layout.form.name,
                encoding=layout.encoded.encoding,
                encoding_reason=layout.encoded.reason,
                **results,
                old_bytes=opened.bytes,
                new_bytes=weights.size,
                carried_tensors=len(layout.carried),
                stripped=tuple(layout.stripped),
                renamed=sum(name != tensor for tensor, name in layout.names.items()),
                carried_files=tuple(name for name in carried_files if name not in annotated),
                annotated_files=annotated,
                left_out_files=tuple(left_out),
                config_changes=changed_fields(fields, new_fields),
                peft_check=loaded,
                **_runtimes(folder, opened, config, base_model, layout),
                warnings=(*warnings_of(plan, layout, results), *_warnings_of_source(opened, config)),
                run=watch.run_info(),
            )
            report.save(folder / REPORT)
            if documents is not None:
                _add(folder, documents(folder, report))
            refuse_foreign_files(target, os.listdir(folder))
    return report


def _add(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        if name == CARD:
            write_block(folder, text)
        else:
            (folder / name).write_bytes(text.encode())


def rehearse_compression(adapter: str | os.PathLike[str], plan: CompressionPlan, **choices: Any) -> None:
    """Raise what `write_compressed` would raise before it writes, for the same choices; reads the headers alone."""
    with _prepared(Path(adapter), plan, **choices):
        pass


def _fitting(opened: Adapter, layout: Layout, max_memory: int | None, workers: int | None) -> int:
    """Modules at a time. Raises InputError (memory-limit)."""
    work = (
        (
            job.pair,
            compress_bytes(job.pair, job.plan.new_rank, job.stored_bytes, dora=job.magnitude is not None),
        )
        for job in layout.jobs
    )
    return workers_within(limit_for(max_memory, [opened]), [opened], work, workers)


@contextmanager
def _prepared(
    source: Path,
    plan: CompressionPlan,
    base_model: str | os.PathLike[str] | None,
    adapter_name: str | None,
    allow_pickle: bool = False,
    initial_adapter: Path | None = None,
    to: str | None = None,
    **choices: Any,
) -> Iterator[tuple[Adapter, PeftConfig, Layout]]:
    """The adapter, open; its config; and what is to be written."""
    with ExitStack() as stack:
        opened = stack.enter_context(
            open_adapter(source, adapter=adapter_name, allow_pickle=allow_pickle, initial=initial_adapter)
        )
        config = require_config(opened)
        form = form_of(to, opened.format)
        base = None
        if base_model is not None:
            dora = is_dora(opened, config)
            where = base_folder(base_model, weights=dora)
            check_model_config(where, needed=not dora)
            base = stack.enter_context(BaseWeights.open(where)) if dora else None
        yield opened, config, lay_out(opened, config, plan, base=base, form=form, **choices)


def _warnings_of_source(opened: Adapter, config: PeftConfig) -> tuple[str, ...]:
    return (*_names_a_folder(config), *_needs_the_base(opened))


def _names_a_folder(config: PeftConfig) -> tuple[str, ...]:
    """What to know before the folder is shared: the base's own path stays, since PEFT loads the base by it."""
    if config.base_model is None or path_text(config.base_model) == config.base_model:
        return ()
    return (
        "adapter_config.json names the base model by an absolute path, by which PEFT loads it: before the adapter is"
        " shared, put the model's public name there (base_model_name_or_path)",
    )


def _needs_the_base(opened: Adapter) -> tuple[str, ...]:
    """Which weights the written adapter belongs on, where those that it was trained on were changed."""
    if opened.initial is None:
        return ()
    quantized = "; what quantizing the base changed is not in it" if opened.init.lower() == "loftq" else ""
    return (
        f"it is a plain LoRA for the base as it was before {opened.init} changed it, and not for the residual that"
        f" was trained on: base_model_name_or_path must name the original{quantized}",
    )


def _fields(config: PeftConfig, layout: Layout) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What the settings of the adapter were, and what they are in the written one."""
    if layout.settings is None:
        return config.fields, merged_fields(config.fields, layout.fields)
    return layout.settings.old, layout.settings.new


def _refuse_check(layout: Layout, *, verify_peft: bool) -> None:
    """Raise UsageError (not-peft-format) where PEFT is to load what it does not read."""
    if verify_peft and layout.form is not None:
        raise UsageError(
            f"{layout.form.words} is written, which PEFT does not load",
            code="not-peft-format",
            hint="leave out --verify-peft (Python: verify_peft=), or write PEFT's format: --to peft (Python: to=)",
        )


def _foreseen(plan: CompressionPlan) -> dict[str, Any]:
    """What a calibration said before, which the plan has."""
    return {
        name: getattr(plan, name)
        for name in ("calibration_sha256", "prediction", "prediction_withheld", "curve")
    }


def _runtimes(
    folder: Path,
    source: Adapter,
    config: PeftConfig,
    base_model: str | os.PathLike[str] | None,
    layout: Layout,
) -> dict[str, Any]:
    """The architecture, and which runtimes load the adapter that was written to `folder`."""
    base = None if base_model is None else base_folder(base_model)
    architecture = architecture_of(config, source.location.root, base)
    if layout.form is not None:  # the runtimes that were run read PEFT's format
        return {"architecture": architecture, "runtimes": ()}
    with open_adapter(folder) as written:
        return {"architecture": architecture, "runtimes": verdicts(written, architecture)}


SAVE_FIRST = 'a model in memory is saved first: model.save_pretrained("my_adapter")'


class Options(TypedDict, total=False):
    """The keywords of `compress_adapter`, for its two types of result."""

    rank: int | None
    energy: float | None
    suggested: Suggested | None
    reduction: float | None
    max_params: int | None
    max_bytes: int | None
    max_error: float | None
    max_kl: float | None
    plan: CompressionPlan | str | os.PathLike[str] | None
    calibration: Calibration | str | os.PathLike[str] | None
    allow_routed: bool
    allowed_ranks: Iterable[int] | None
    multiple_of: int | None
    allow_untrained: bool
    encoding: Encoding | None
    dtype: str | None
    strip: Sequence[str]
    base_model: str | os.PathLike[str] | None
    adapter: str | None
    allow_pickle: bool
    initial_adapter: str | os.PathLike[str] | None
    to: str | None
    verify_peft: bool
    force: bool
    workers: int | None
    max_memory: int | None
    progress: Progress | None


@overload
def compress_adapter(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    dry_run: Literal[False] = False,
    **options: Unpack[Options],
) -> CompressionReport: ...
@overload
def compress_adapter(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    dry_run: Literal[True],
    **options: Unpack[Options],
) -> CompressionPlan: ...
def compress_adapter(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    rank: int | None = None,
    energy: float | None = None,
    suggested: Suggested | None = None,
    reduction: float | None = None,
    max_params: int | None = None,
    max_bytes: int | None = None,
    max_error: float | None = None,
    max_kl: float | None = None,
    plan: CompressionPlan | str | os.PathLike[str] | None = None,
    calibration: Calibration | str | os.PathLike[str] | None = None,
    allow_routed: bool = False,
    allowed_ranks: Iterable[int] | None = None,
    multiple_of: int | None = None,
    allow_untrained: bool = False,
    encoding: Encoding | None = None,
    dtype: str | None = None,
    strip: Sequence[str] = (),
    base_model: str | os.PathLike[str] | None = None,
    adapter: str | None = None,
    allow_pickle: bool = False,
    initial_adapter: str | os.PathLike[str] | None = None,
    to: str | None = None,
    verify_peft: bool = False,
    dry_run: bool = False,
    force: bool = False,
    workers: int | None = None,
    max_memory: int | None = None,
    progress: Progress | None = None,
) -> CompressionReport | CompressionPlan:
    """Write a smaller approximation of the adapter at `path` to the folder `output`, and return what was lost.

    >>> report = compress_adapter("my_adapter", rank=4, output="small")
    >>> report.old_params, report.new_params, f"{report.measured_error:.1%}"
    (135168, 67584, '12.6%')
    >>> compress_adapter("my_adapter", reduction=0.75, dry_run=True).new_params
    33792

    Every module gets the best approximation of its new rank, at the scale that it had; nothing is trained, no base
    model is read. The keywords are the flags of `gradience compress`. Exactly one of the first nine says how small:

    rank: every module to this rank.
    energy: every module to the smallest rank that holds this share of its energy.
    suggested: what the audit suggests: "uniform_median", "uniform_p90" or "per_layer".
    reduction: save this share of the LoRA parameters, allocated over modules.
    max_params: at most so many LoRA parameters, allocated over modules.
    max_bytes: at most so many bytes of LoRA factors, allocated over modules.
    max_error: relative error of the whole adapter at most this, allocated over modules.
    max_kl: predicted KL divergence per scored token at most this, in nats; needs a calibration.
    plan: an earlier plan or its file, whose ranks may have been edited.

    calibration: what `calibrate_adapter` returned or wrote: then directions and budgets follow the model's output.
    allow_routed: predict the KL, and accept max_kl, also if the base routes tokens to experts.
    allowed_ranks: every rank is one of these, or the module's own.
    multiple_of: every rank is a multiple of it, or the module's own.
    allow_untrained: compress an adapter whose every B·A is 0 as well.
    encoding: how ranks and scales are written, a name in compress/encodings.py; the simplest right one by default.
    dtype: storage type of the factors (BF16, F16, F32 …); each keeps its own by default.
    strip: parts of tensor names; tensors beside the factors that have one are dropped.
    base_model: folder of the base model, or its name on the hub. Its config.json names the architecture for the
        verdicts on runtimes; its safetensors are needed for DoRA alone.
    adapter: which one, where a folder or a file holds several.
    allow_pickle: read `.bin` and `.pt` as well, in a process of its own with limits (needs the extra `hf`).
    initial_adapter: the adapter before training, for one whose start changed the base (PiSSA, OLoRA, CorDA, LoRA-GA,
        LoftQ): written is the difference, a plain LoRA for the base as it was.
    to: the format to write: "peft", "mlx" or "diffusers"; by default the adapter's own where it is one of them, else
        PEFT's.
    verify_peft: let PEFT load the result before it is put in place (a child process; needs the extra `hf`).
    dry_run: return the plan, and write nothing.
    force: replace an adapter folder that is there.
    workers: modules at a time; the processor count by default. The result does not depend on it.
    max_memory: bytes that the work may take; 500 MB by default, or eight times the file. More is refused beforehand.

    Raises InputError where the adapter cannot be compressed, UsageError for arguments that make no sense (WrongType, a
    TypeError too, for those of a wrong type), VerificationError where PEFT does not load the result, OutputError when
    the disk refuses. Nothing is left half-written.
    """
    source = path_argument("path", path, hint=SAVE_FIRST)
    target = None if output is None else path_argument("output", output)
    sizes = {
        "rank": rank,
        "energy": energy,
        "suggested": suggested,
        "reduction": reduction,
        "max_params": max_params,
        "max_bytes": max_bytes,
        "max_error": max_error,
        "max_kl": max_kl,
        "plan": plan,
    }
    criterion = criterion_of(sizes)
    grid = None if allowed_ranks is None else ranks_argument("allowed_ranks", allowed_ranks)
    how: dict[str, Any] = {
        "encoding": encoding,
        "dtype": dtype,
        "strip": names_argument("strip", strip, "a list of parts of names, such as ['lm_head']"),
        "base_model": None if base_model is None else path_argument("base_model", base_model),
        "adapter_name": adapter,
        "allow_pickle": allow_pickle,
        "initial_adapter": None
        if initial_adapter is None
        else path_argument("initial_adapter", initial_adapter, hint=SAVE_INITIAL),
        "calibration": calibration_argument(calibration),
        "to": to,
    }
    if multiple_of is not None:
        multiple_of = integer_argument("multiple_of", multiple_of)
    if encoding is not None:
        rule_of(encoding)
    form_of(to, PEFT)
    if not dry_run:
        if target is None:
            raise UsageError(
                "no output given",
                code="no-output",
                hint="give output=FOLDER, or dry_run=True to see the plan",
            )
        check_output(target, source, force=force)
        if verify_peft:
            require_peft()
    machine: dict[str, Any] = {"workers": workers, "max_memory": max_memory, "progress": progress}
    which: dict[str, Any] = {name: how[name] for name in ("allow_pickle", "initial_adapter")}
    audited = audit_adapter(source, adapter=adapter, **which, **machine)
    planned = plan_compression(
        audited,
        criterion,
        allowed_ranks=grid,
        multiple_of=multiple_of,
        allow_untrained=allow_untrained,
        path=source,
        calibration=how["calibration"],
        allow_routed=allow_routed,
    )
    if dry_run or target is None:
        rehearse_compression(source, planned, **how)
        return planned
    return write_compressed(source, planned, target, **how, verify_peft=verify_peft, force=force, **machine)
