"""Compression: an adapter -> a smaller approximation with the same scale, and a report of the error.

Training-free and exact: every module gets the best approximation of its rank (Eckart–Young), found in r-space, one
module at a time, without the base model. The error reported is the one of the factors as they are stored.
"""

import math
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gradience.adapters.adapter import Adapter, LoraPair, compress_bytes, tensors_of, workers_within
from gradience.adapters.base import architecture_of, base_folder
from gradience.adapters.config import anchored_key
from gradience.adapters.formats import open_adapter
from gradience.adapters.keys import is_applied, path_ends
from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.adapters.tensors import NewTensor, decode, encode, in_order_of_type, type_names, write_tensors
from gradience.audit.adapter import audit_opened
from gradience.blas import worker_threads
from gradience.compare.adapters import compare_modules
from gradience.compress import carry
from gradience.compress.layout import Layout, another_adapter, changed_fields, lay_out, rule_of, write_config
from gradience.compress.module import CompressedModule, Job, write_module
from gradience.compress.settings import CompressSettings, WritingSettings
from gradience.errors import InputError
from gradience.files.card import write_card
from gradience.files.shared_names import path_text
from gradience.files.whole import check_output, whole_folder
from gradience.plan.compression import SIZES, criterion_of, plan_compression
from gradience.progress import Progress
from gradience.ranks import max_lora_rank_step
from gradience.reports.base.numbers import percent
from gradience.reports.base.report import Stopwatch, hub_source
from gradience.reports.calibration import Calibration, calibration_argument
from gradience.reports.compression import CompressionPlan, CompressionReport, ModulePlan, ModuleResult
from gradience.runtimes.verdict import verdicts
from gradience.settings import public, required_output
from gradience.spectra import FloatArray, error_of_all
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
    with open_adapter(source, adapter=settings.adapter, allow_pickle=settings.allow_pickle) as opened:
        calibration = calibration_argument(settings.calibration)
        planned = plan_compression(
            audit_opened(opened, settings),
            criterion,
            allowed_ranks=None if grid is None else tuple(grid),
            path=source,
            calibration=calibration,
            allow_routed=settings.allow_routed,
            strength=settings.strength,
        )
        if target is None:
            lay_out(opened, planned, settings, calibration)
            return planned
        page = settings.card is not None
        return write_compressed(opened, planned, target, settings, calibration=calibration, page=page)


def write_compressed(
    opened: Adapter,
    plan: CompressionPlan,
    target: Path,
    settings: WritingSettings | None = None,
    *,
    calibration: Calibration | None = None,
    page: bool = False,
) -> CompressionReport:
    """Write an open adapter at the ranks of `plan` to the folder `target`.

    calibration: the one that the plan was made with.   page: write the report as Markdown, too.

    Returns the report, which is also written to the folder. Raises what `compress_adapter` raises.
    """
    settings, source = settings or WritingSettings(), opened.location.path
    watch = Stopwatch(settings.command)
    check_output(target, source, force=settings.force)
    carry.refuse_foreign_files(target, carry.names_beside(source))
    layout = lay_out(opened, plan, settings, calibration)
    work = (
        (job.pair, compress_bytes(job.pair, job.new_rank, job.stored_bytes, dora=job.dora is not None))
        for job in layout.jobs
    )
    fitting = workers_within(settings.max_memory, [opened], work, settings.workers)
    with ExitStack() as stack:
        digest = stack.enter_context(ThreadPoolExecutor(1)).submit(opened.sha256)
        folder, written, weights = stack.enter_context(
            written_adapter(target, layout, fitting, settings.progress, force=settings.force)
        )
        if plan.adapter_sha256 != digest.result():
            raise another_adapter(opened)
        carried_files, left_out = carry.carry_files(opened.location, folder, opened.pickle)
        base = None if settings.base_model is None else base_folder(settings.base_model)
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
        if settings.card is not None:
            write_card(folder, settings.card(folder, opened=written))
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


# ---------------------------------------------------------------- writing the folder

Make = Callable[[Job], CompressedModule]
"""Computes the bytes of one module."""
Measure = Callable[[LoraPair, LoraPair], float | None]
"""(a module, the same module as written) -> its relative error; None if the update is 0."""


@dataclass(frozen=True, slots=True)
class WrittenWeights:
    """The weights file as written, and what every module lost (its bytes taken out)."""

    sha256: str
    size: int
    modules: Mapping[str, CompressedModule]


def compared(pair: LoraPair, written: LoraPair) -> float | None:
    """‖ΔW − ΔW′‖_F/‖ΔW‖_F; None if ΔW is 0."""
    return compare_modules(pair, written)[1].relative_difference


@contextmanager
def written_adapter(
    target: Path,
    layout: Layout,
    workers: int,
    progress: Progress | None,
    make: Make = write_module,
    measure: Measure = compared,
    *,
    force: bool,
) -> Iterator[tuple[Path, Adapter, WrittenWeights]]:
    """Write weights and config; yield the folder, the adapter as read back and checked, and the written weights.

    The folder replaces `target` if the block succeeds.   force: replace an existing folder.   measure: see
    `complaints`. Raises WrittenWrong.
    """
    with whole_folder(target, force=force) as folder, worker_threads(workers) as pool:
        weights = write_weights(folder / WEIGHTS, layout, pool, 4 * workers, progress, make)
        write_config(folder / CONFIG, layout.new_fields)
        with open_adapter(folder) as written:
            for complaint in complaints(written, layout, weights, measure):
                raise WrittenWrong(f"{written.location.path}: {complaint}")
            yield folder, written, weights


def write_weights(
    path: Path,
    layout: Layout,
    pool: ThreadPoolExecutor,
    ahead: int,
    progress: Progress | None,
    make: Make = write_module,
) -> WrittenWeights:
    """Write the weights file: every tensor in its order; the pool computes `ahead` modules before the writer."""
    tensors, job_of = dict(layout.beside), {}
    done: dict[str, CompressedModule] = {}
    waiting: dict[str, bytes] = {}

    def data_of(name: str) -> Iterator[bytes]:
        """The stored bytes of a factor; those of its pair come with it."""
        while name not in waiting:
            pair, compressed = next(coming)
            waiting[layout.names[pair.a.tensor]] = compressed.data_A
            waiting[layout.names[pair.b.tensor]] = compressed.data_B
            done[pair.module] = compressed._replace(data_A=b"", data_B=b"", products=None)
            if progress:
                progress(len(done), len(layout.jobs))
        yield waiting.pop(name)

    for job in layout.jobs:
        stored = zip(job.pair.factors.values(), (job.dtype_A, job.dtype_B), job.shapes(), strict=True)
        for factor, dtype, shape in stored:
            name = layout.names[factor.tensor]
            tensors[name], job_of[name] = NewTensor(dtype.name, shape, data_of(name)), job
    factors = [job_of[name] for name in in_order_of_type(tensors) if name in job_of]
    ordered = {job.pair.module: job for job in factors}
    metadata = layout.jobs[0].pair.a.file.metadata or {"format": "pt"}
    with closing(_ahead(pool, make, [*ordered.values()], window=ahead)) as coming:
        return WrittenWeights(*write_tensors(path, tensors, metadata), done)


def _ahead(
    pool: ThreadPoolExecutor, make: Make, jobs: Sequence[Job], window: int
) -> Generator[tuple[LoraPair, CompressedModule]]:
    """Results in the order of `jobs`, with at most `window` modules in work or waiting: memory stays bounded."""
    pending: deque[tuple[LoraPair, Future[CompressedModule]]] = deque()
    coming = iter(jobs)
    try:
        while True:
            pending += ((job.pair, pool.submit(make, job)) for job in islice(coming, window - len(pending)))
            if not pending:
                return
            first, future = pending.popleft()
            yield first, future.result()
    finally:
        for _, future in pending:  # the writer has failed: do not finish unread results
            future.cancel()


# ---------------------------------------------------------------- read back by our own reader

CHECKED_PARAMS = 2**20
"""Parameters of the modules whose errors are measured twice: all of a small adapter, a few modules of a large one."""


class WrittenWrong(RuntimeError):
    """The written adapter differs from the plan: a bug in Gradience, so it keeps its traceback."""


def complaints(written: Adapter, layout: Layout, weights: WrittenWeights, measure: Measure) -> Iterator[str]:
    """Yield each difference of the adapter that was read back from what was to be written.

    measure: measures the errors of modules again, up to `CHECKED_PARAMS` parameters.
    """
    if written.bytes != weights.size:
        yield f"{written.bytes} bytes, not {weights.size}"
    by_name = {pair.module: pair for pair in written.pairs}
    if by_name.keys() != {job.pair.module for job in layout.jobs}:
        yield "the modules are not those of the plan"
    names = {name for name, _ in written.entries()}
    if names != set(layout.names.values()) or written.unaudited:
        yield "the tensors are not those that were to be written"
    misnamed = sorted(name for name in names if not is_applied(name))
    if misnamed:
        yield f"PEFT would not find {misnamed[0]}"
    assert written.config is not None  # it was written with the weights
    for pair in layout.dropped:
        if not written.config.target_names.isdisjoint(path_ends(pair.module)):
            yield f"the config still targets {pair.module}"
    checked = 0
    for job in sorted(layout.jobs, key=lambda job: job.pair.params):
        module, pair = job.pair.module, by_name[job.pair.module]
        if not pair.rank == job.stored_rank == (pair.declared_rank or pair.rank):
            ranks = f"the rank {pair.rank}, in the config {pair.declared_rank}, not {job.stored_rank}"
            yield f"{pair.module} has {ranks}"
        wanted = job.scale * job.strength
        if pair.scale is None or not math.isclose(pair.scale * job.fold, wanted, rel_tol=1e-12):
            yield f"{pair.module} has the scale {pair.scale}, not {wanted / job.fold if job.fold else 0.0}"
        checked += job.pair.params
        if checked > CHECKED_PARAMS:
            continue
        error = measure(job.pair, pair) or 0.0
        meant = weights.modules[module]
        if not math.isclose(error, meant.error or 0.0, rel_tol=1e-6, abs_tol=meant.noise):
            yield f"{module} has an error of {error}, not {meant.error}"


# ---------------------------------------------------------------- the same adapter in other factors


def rotated(
    update: LoraPair, like: LoraPair, rank: int, draw: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Return A and B of `update` in `rank` random directions, in the shapes of `like`.

    With Q (r, k) random and orthonormal, (B·Q)(Qᵀ·A) is the update B·A projected on k random directions of the r that
    lie between its factors. At k = r it is the same update: what changes in its answers is the noise of writing it.
    Zeros fill them up, and B makes up for another scale. Every expert of a stacked module has a Q of its own.
    """
    loaded = update.load()
    scale = update.scale / like.scale if update.scale and like.scale else 1.0
    factors_A, factors_B = [], []
    for expert in range(update.experts):
        basis = np.linalg.qr(draw.standard_normal((update.rank, rank)))[0]
        basis = np.pad(basis, ((0, 0), (0, like.rank - rank)))
        factors_A.append((decode(loaded.words_A(expert)) @ basis).T)
        factors_B.append(scale * decode(loaded.words_B(expert)) @ basis)
    # Experts stand first in A, and last in B.
    stacked_A, stacked_B = np.concatenate(factors_A), np.stack(factors_B, axis=-1)
    return stacked_A.reshape(like.a.entry.shape), stacked_B.reshape(like.b.entry.shape)


def write_rotated(adapter: Adapter, output: Path) -> None:
    """Write an open adapter with rotated factors to the folder `output`, each in its own storage type.

    All other tensors and the config stay. Raises InputError (`not-rotatable`) for a grouped convolution, whose B is
    block-diagonal.
    """
    grouped = next((pair.module for pair in adapter.pairs if pair.groups > 1), None)
    if grouped is not None:
        raise InputError(
            f"{adapter.location.path}: {grouped} is a grouped convolution, which has no other factors",
            code="not-rotatable",
            hint="nothing to do: there is no rewrite control for this adapter",
        )
    tensors = {name: tensor.to_write() for name, tensor in tensors_of(adapter.files).items()}
    draw = np.random.default_rng(0)
    waiting: dict[str, bytes] = {}

    def data_of(pair: LoraPair, name: str) -> Iterator[bytes]:
        """The stored bytes of a factor; those of its pair come with it."""
        if name not in waiting:
            factors = zip(pair.factors.values(), rotated(pair, pair, pair.rank, draw), strict=True)
            waiting.update(
                (factor.tensor, encode(values, factor.entry.dtype).tobytes()) for factor, values in factors
            )
        yield waiting.pop(name)

    for pair in adapter.pairs:
        for name in (factor.tensor for factor in pair.factors.values()):
            tensors[name] = tensors[name]._replace(data=data_of(pair, name))
    with whole_folder(output, force=True) as folder:
        write_tensors(folder / WEIGHTS, tensors, dict(adapter.files[0].metadata) or {"format": "pt"})
        assert adapter.config is not None
        shutil.copyfile(adapter.config.path, folder / CONFIG)
