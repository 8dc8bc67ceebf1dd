"""Compression: an adapter -> a smaller approximation with the same scale, and a report of the error.

Training-free and exact: every module gets the best approximation of its rank (Eckart–Young), found in r-space, one
module at a time, without the base model. The error reported is the one of the factors as they are stored.
"""

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gradience.adapters.adapter import Adapter, LoraPair, compress_bytes, workers_within
from gradience.adapters.base import architecture_of, base_folder
from gradience.adapters.config import anchored_key
from gradience.adapters.formats import open_adapter
from gradience.adapters.tensors import type_names
from gradience.audit.adapter import audit_opened
from gradience.compress import carry
from gradience.compress.layout import (
    Layout,
    another_adapter,
    changed_fields,
    lay_out,
    rule_of,
)
from gradience.compress.module import CompressedModule, Job
from gradience.compress.settings import CompressSettings
from gradience.compress.weights import written_adapter
from gradience.files.card import CardOf, write_card
from gradience.files.shared_names import path_text
from gradience.files.whole import check_output
from gradience.plan.compression import SIZES, criterion_of, plan_compression
from gradience.progress import Progress
from gradience.ranks import max_lora_rank_step
from gradience.reports.base.encodings import Encoding
from gradience.reports.base.numbers import percent
from gradience.reports.base.report import Stopwatch, hub_source
from gradience.reports.calibration import Calibration, calibration_argument
from gradience.reports.compression import CompressionPlan, CompressionReport, ModulePlan, ModuleResult
from gradience.runtimes.verdict import verdicts
from gradience.settings import public, required_output
from gradience.spectra import error_of_all
from gradience.words import counted

ROUNDING_SHOWS = 0.01
"""Relative error above which a loss from rounding deserves a warning."""


@public(CompressSettings)
def compress_adapter(settings: CompressSettings) -> CompressionReport | CompressionPlan:
    """Write a smaller approximation of the adapter at `path` to the folder `output`, and return a report of its errors.

    >>> report = compress_adapter("my_adapter", rank=4, output="small")
    >>> report.old_params, report.new_params, f"{report.measured_error:.1%}"
    (135168, 67584, '12.6%')
    >>> compress_adapter("my_adapter", reduction=0.75, dry_run=True).new_params
    33792

    Every module gets the best approximation of its new rank, at its old scale or at `strength` times that scale.
    Nothing is trained. The base model's weights are read only for DoRA. A dry run returns the plan. Give exactly one of
    the keywords from `rank` to `plan`, or only `strength`. `suggested` is "uniform_median", "uniform_p90" or
    "per_layer". Keywords, named like the flags of `gradience compress`:

    Raises InputError if the adapter cannot be compressed, UsageError for invalid arguments (WrongType, a TypeError
    too, for a wrong type), OutputError if the folder cannot be written. No partial output is left behind.
    """
    source, grid = Path(settings.path), settings.allowed_ranks
    criterion = criterion_of({name: getattr(settings, name) for name in SIZES}, settings.strength)
    if settings.encoding is not None:
        rule_of(settings.encoding)
    target = None
    if not settings.dry_run:
        target = required_output(settings.output, "DIR")
        check_output(target, source, force=settings.force)
    work: dict[str, Any] = {name: getattr(settings, name) for name in ("workers", "max_memory", "progress")}
    with open_adapter(source, adapter=settings.adapter, allow_pickle=settings.allow_pickle) as opened:
        choices: dict[str, Any] = {
            name: getattr(settings, name) for name in ("encoding", "dtype", "base_model")
        }
        choices["calibration"] = calibration_argument(settings.calibration)
        planned = plan_compression(
            audit_opened(opened, **work),
            criterion,
            allowed_ranks=None if grid is None else tuple(grid),
            path=source,
            calibration=choices["calibration"],
            allow_routed=settings.allow_routed,
            strength=settings.strength,
        )
        if target is None:
            lay_out(opened, planned, **choices)
            return planned
        return write_compressed(
            opened,
            planned,
            target,
            **choices,
            **work,
            force=settings.force,
            page=settings.card is not None,
            card=settings.card,
            command=settings.command,
        )


def write_compressed(
    opened: Adapter,
    plan: CompressionPlan,
    target: Path,
    *,
    encoding: Encoding | None = None,
    dtype: str | None = None,
    base_model: str | os.PathLike[str] | None = None,
    calibration: Calibration | None = None,
    force: bool = False,
    workers: int | None = None,
    max_memory: int | None = None,
    progress: Progress | None = None,
    page: bool = False,
    card: CardOf | None = None,
    command: str = "",
) -> CompressionReport:
    """Write an open adapter at the ranks of `plan` to the folder `target`.

    page: write the report as Markdown, too. card: makes the model card. The other keywords are those of
    `compress_adapter`; a calibration is the one that the plan was made with.

    Returns the report, which is also written to the folder. Raises what `compress_adapter` raises.
    """
    source = opened.location.path
    watch = Stopwatch(command)
    check_output(target, source, force=force)
    carry.refuse_foreign_files(target, carry.names_beside(source))
    layout = lay_out(
        opened, plan, encoding=encoding, dtype=dtype, base_model=base_model, calibration=calibration
    )
    work = (
        (job.pair, compress_bytes(job.pair, job.new_rank, job.stored_bytes, dora=job.dora is not None))
        for job in layout.jobs
    )
    fitting = workers_within(max_memory, [opened], work, workers)
    with ExitStack() as stack:
        digest = stack.enter_context(ThreadPoolExecutor(1)).submit(opened.sha256)
        folder, written, weights = stack.enter_context(
            written_adapter(target, layout, fitting, progress, force=force)
        )
        if plan.adapter_sha256 != digest.result():
            raise another_adapter(opened)
        carried_files, left_out = carry.carry_files(opened.location, folder, opened.pickle)
        base = None if base_model is None else base_folder(base_model)
        architecture = architecture_of(layout.config, opened.location.root, base)
        results = _results(opened, plan, layout, weights.modules)
        annotated = carry.annotate(
            folder, carry.compressed_opening(results["modules"], results["measured_error"], plan.strength)
        )
        report = CompressionReport(
            source_path=path_text(source),
            source_sha256=digest.result(),
            source=hub_source(opened.source),
            output_path=path_text(target),
            output_sha256=weights.sha256,
            criterion=plan.criterion,
            strength=plan.strength,
            calibration_sha256=plan.calibration_sha256,
            prediction=plan.prediction,
            prediction_withheld=plan.prediction_withheld,
            encoding=layout.encoded.encoding,
            encoding_reason=f"{layout.encoded.reason}; {rule_of(layout.encoded.encoding).meaning}",
            **results,
            old_bytes=opened.bytes,
            new_bytes=weights.size,
            carried_tensors=len(layout.beside),
            left_out_tensors=tuple(layout.left_out),
            renamed=sum(name != tensor for tensor, name in layout.names.items()),
            carried_files=tuple(name for name in carried_files if name not in annotated),
            annotated_files=annotated,
            left_out_files=tuple(left_out),
            config_changes=changed_fields(layout.config.fields, layout.new_fields),
            architecture=architecture,
            runtimes=verdicts(written, architecture),
            warnings=tuple(_warnings(opened, plan, layout, results, path_text(target))),
            run=watch.run_info(),
        )
        report.save(folder / carry.REPORT)
        if page:
            (folder / carry.DOCUMENT).write_bytes(report.to_markdown().encode())
        if card is not None:
            write_card(folder, card(folder, opened=written))
        carry.refuse_foreign_files(target, os.listdir(folder))
    return report


def _results(
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
    old_params, new_params = sum(row.old_params for row in rows), sum(row.new_params for row in rows)
    return {
        "modules": rows,
        "dropped": tuple(pair.module for pair in layout.dropped),
        "kept_energy": plan.kept_energy,
        "predicted_error": plan.predicted_error,
        "measured_error": error_of_all((norm, errors[name]) for name, norm in norms.items()),
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
    return ModuleResult(
        **row,
        stored_rank=job.stored_rank,
        folded=job.fold,
        dtype=type_names(job.dtype_A, job.dtype_B),
        unchanged=job.unchanged,
        measured_error=module.error,
        output_error=module.output_error,
        new_params=job.stored_params,
        new_bytes=job.stored_bytes,
        method=module.method,
    )


def _warnings(
    opened: Adapter, plan: CompressionPlan, layout: Layout, results: Mapping[str, Any], output: str
) -> Iterator[str]:
    """Yield the report's warnings. output: the folder as named in the report."""
    if opened.format == "mlx":
        yield f"written as PEFT LoRA; for mlx-lm: gradience convert {output} {output}-mlx --to mlx"
    beside = [name for name in layout.beside if "lora_" not in name]  # a lora_bias is scaled with its factors
    if plan.strength != 1 and beside:
        yield (
            f"the strength applies to the LoRA update only: {counted(len(beside), 'other trained tensor')}"
            f" ({beside[0]}{', …' if len(beside) > 1 else ''}) {'is' if len(beside) == 1 else 'are'} not scaled"
        )
    for reason, count in Counter(module.fixed for module in plan.modules if module.fixed).items():
        yield f"{counted(count, 'module keeps its rank', 'modules keep their rank')}: {reason}"
    keys = {**layout.encoded.fields["rank_pattern"], **layout.encoded.fields["alpha_pattern"]}
    if any(anchored_key(job.pair.module) in keys for job in layout.jobs if job.parameter):
        yield "PEFT 0.21 says that pattern keys of target_parameters match nothing, and applies them"
    if layout.uneven_experts:
        yield "PEFT 0.21 with transformers 5 does not load experts of several ranks: --encoding padded does"
    if not any(module.norm for module in plan.modules):
        yield "untrained: B·A = 0, so the error says nothing"
    rounding = math.sqrt(max(0.0, results["measured_error"] ** 2 - results["predicted_error"] ** 2))
    if rounding > max(results["predicted_error"], ROUNDING_SHOWS):
        yield (
            f"rounding to the storage type adds an error of {percent(rounding)}, "
            + ("and no module was truncated" if not results["predicted_error"] else "more than truncation")
            + ": use a wider --dtype"
        )
    base = layout.config.base_model
    if base is not None and path_text(base) != base:
        yield (
            "adapter_config.json names the base model by an absolute path, by which PEFT loads it: before the adapter"
            " is shared, put the model's public name there (base_model_name_or_path)"
        )
