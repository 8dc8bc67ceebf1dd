"""`merge_adapters`, the function of `gradience merge`: open, check, merge, write, test."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gradience.adapters.formats import open_adapter
from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.adapters.memory import compress_bytes, workers_within
from gradience.adapters.tensors import type_names
from gradience.audit.adapter import audit_adapter
from gradience.blas import worker_threads
from gradience.compress.check import check_written
from gradience.compress.encodings import write_config
from gradience.compress.module import Job
from gradience.compress.weights import write_weights
from gradience.errors import InputError, UsageError
from gradience.files.card import Card, write_card
from gradience.files.shared_names import path_text
from gradience.files.whole import already_exists, check_output, whole_folder
from gradience.merge.module import (
    BLOCK,
    MERGED,
    MergedPair,
    is_dense,
    overlap_of,
    write_merged,
    written_error,
)
from gradience.merge.parents import Parent, local_base, open_parents, plan_merge
from gradience.merge.settings import SPARSE, MergeSettings
from gradience.plan.calibrated import interval, left_out, uniform, with_calibration
from gradience.plan.modules import modules_of
from gradience.reports.base import markdown
from gradience.reports.base.report import save_with_page
from gradience.reports.base.run import Stopwatch
from gradience.reports.base.source import hub_source
from gradience.reports.calibration import Calibration
from gradience.reports.merge import REPORT, MergedModule, MergeParent, MergeReport, PredictedKl, card_blocks
from gradience.runtimes import architecture_of, verdicts
from gradience.settings import paths_of, public, required_output
from gradience.spectra import error_of_all
from gradience.words import counted

CANCELED = 1e-20
"""Share of a parent's energy up to which a merged update is rounding."""
DOCUMENT = "merge_report.md"


@public(MergeSettings)
def merge_adapters(settings: MergeSettings) -> MergeReport:
    """Merge the LoRA adapters `adapters` of one base into one adapter in the folder `output`, and return its report.

    >>> report = merge_adapters(["my_adapter", "other_adapter"], "merged")
    >>> report.method, report.largest_rank, report.error
    ('linear', 16, 0.0)

    `linear` without a `rank` is the exact weighted sum of the updates. Otherwise the report has the relative error of
    the truncation and rounding. With `data`, the merged adapter is compared with each parent on that parent's examples.

    Keywords, named like the flags of `gradience merge`:

    Raises InputError if an adapter cannot be read or the adapters do not belong together, UsageError for contradictory
    options, OutputError if the folder cannot be written, and with `data` what `evaluate_adapters` raises. No partial
    output is left behind.
    """
    watch = Stopwatch(settings.command)
    output = required_output(settings.output, "DIR", dry_run=False)
    if settings.data:
        from gradience.merge.on_parents import merge_and_test

        return merge_and_test(settings, output, watch)
    with ExitStack() as stack:
        return write_merge(open_parents(settings, stack), settings, output, watch, stack)


def write_merge(
    parents: Sequence[Parent], settings: MergeSettings, output: Path, watch: Stopwatch, stack: ExitStack
) -> MergeReport:
    """Merge open adapters into the folder `output` and return the report."""
    rank = settings.rank
    predicted: tuple[PredictedKl, ...] = ()
    if settings.max_kl_per_token is not None:
        rank, predicted = rank_within(parents, settings, settings.max_kl_per_token)
    opened, layout = plan_merge(parents, settings, rank, stack)
    for parent in parents:
        check_output(output, parent.path, force=settings.force)
    pairs = [job.pair for job in layout.jobs if isinstance(job.pair, MergedPair)]
    work = [(job.pair, _bytes(job)) for job in layout.jobs]
    sources = [parent.opened for parent in parents]
    fitting = workers_within(settings.max_memory, sources, work, settings.workers)
    with worker_threads(fitting) as pool, whole_folder(output, force=settings.force) as folder:
        weights = write_weights(
            folder / WEIGHTS, opened, layout, pool, 2 * fitting, settings.progress, write_merged
        )
        write_config(folder / CONFIG, layout.new_fields)
        with open_adapter(folder) as written:
            check_written(written, layout, weights.modules, weights.size, written_error)
            base = local_base(settings.base_model)
            architecture = architecture_of(layout.config, parents[0].opened.location.root, base)
            report = MergeReport(
                parents=tuple(_parent(parent, place, pairs) for place, parent in enumerate(parents)),
                base=layout.config.base_model,
                output_path=path_text(output),
                output_sha256=weights.sha256,
                **_choices(settings),
                largest_rank=max(job.new_rank for job in layout.jobs),
                dtype="+".join(sorted({type_names(job.dtype_A, job.dtype_B) for job in layout.jobs})),
                error=error_of_all((row.norm, row.error or 0.0) for row in weights.modules.values()),
                bytes=weights.size,
                predicted=predicted,
                architecture=architecture,
                runtimes=verdicts(written, architecture),
                modules=tuple(
                    MergedModule(
                        name=pair.module,
                        parent_ranks=pair.ranks(len(parents)),
                        rank=job.stored_rank,
                        norm=weights.modules[pair.module].norm,
                        error=weights.modules[pair.module].error,
                    )
                    for job, pair in zip(layout.jobs, pairs, strict=True)
                ),
                notes=tuple(_notes(parents, pairs)),
                run=watch.run_info(),
            )
        write_report(report, folder)
    return report


def merge_or_resume(
    parents: Sequence[Parent], settings: MergeSettings, output: Path, watch: Stopwatch, stack: ExitStack
) -> MergeReport:
    """Return the report in `output` if it is of the same merge; otherwise merge.

    Raises UsageError (output-exists) if the folder holds anything else.
    """
    if settings.force or not output.exists():
        return write_merge(parents, settings, output, watch, stack)
    with suppress(InputError):
        report = MergeReport.read(output / REPORT)
        there = [(parent.sha256, parent.weight) for parent in report.parents]
        choices = _choices(settings)
        if there == [(parent.sha256, parent.weight) for parent in parents] and choices == {
            name: getattr(report, name) for name in choices
        }:
            return report
    raise already_exists(output)


def write_report(report: MergeReport, folder: Path) -> None:
    """Write the report, its page, and the block of the model card."""
    save_with_page(report, folder / REPORT)
    write_card(folder, Card(markdown.render(card_blocks(report))))


def rank_within(
    parents: Sequence[Parent], settings: MergeSettings, limit: float
) -> tuple[int, tuple[PredictedKl, ...]]:
    """Return the smallest rank whose predicted KL has its upper end below the limit on every calibration.

    The calibrations are of the exact sum: a parent's own does not see the directions of the other parents.
    Raises UsageError (`other-calibration`) for a calibration of another adapter.
    """
    calibrations = [Calibration.read(path) for path in paths_of(settings.calibration)]
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        exact = replace(settings, method="linear", max_kl_per_token=None, calibration=())
        folder = Path(scratch) / "sum"
        write_merge(parents, exact, folder, Stopwatch(), stack)
        audit = audit_adapter(folder)
    try:
        measured = [with_calibration(audit, modules_of(audit), calibration) for calibration in calibrations]
    except UsageError as error:
        paths = " ".join(str(parent.path) for parent in parents)
        raise UsageError(
            f"{error}: a calibration of the exact sum of these adapters is needed",
            code="other-calibration",
            hint=f"gradience merge {paths} -o SUM, then gradience calibrate SUM on each parent's prompts",
        ) from None
    largest = max(module.rank for module in measured[0])
    for rank in range(1, largest + 1):
        rows = []
        for calibration, modules in zip(calibrations, measured, strict=True):
            tokens = next(module.effects.tokens for module in modules if module.effects is not None)
            kl, _, high, _ = interval(left_out(modules, uniform(modules, rank), svd=True), tokens)
            rows.append(PredictedKl(calibration_sha256=calibration.sha256, kl_per_token=kl, high=high))
        if rank == largest or all(row.high <= limit for row in rows):
            break
    return rank, tuple(rows)


def _choices(settings: MergeSettings) -> dict[str, Any]:
    """Return the report fields that identify a merge, together with its parents."""
    return {
        "method": settings.method,
        "density": settings.density if settings.method in SPARSE else None,
        "seed": settings.seed if settings.method == "dare" else None,
        "requested_rank": settings.rank,
        "saved": settings.saved,
    }


def _bytes(job: Job) -> int:
    """Return the bytes needed to merge one module."""
    pair = job.pair
    needed = compress_bytes(pair, job.new_rank, job.stored_bytes)
    if isinstance(pair, MergedPair) and is_dense(pair):
        beside = 4 * (len(pair.parts) + 3) * BLOCK
        sides = pair.rows + pair.columns
        needed += 4 * pair.rows * pair.columns + beside + 16 * sides * (job.new_rank + pair.rank)
    return needed


def _parent(parent: Parent, place: int, pairs: Sequence[MergedPair]) -> MergeParent:
    ranks = [pair.rank for pair in parent.opened.pairs]
    cosine, projection = overlap_of(place, pairs)
    return MergeParent(
        name=parent.name,
        path=path_text(parent.path),
        sha256=parent.sha256,
        source=hub_source(parent.opened.source),
        weight=parent.weight,
        modules=len(ranks),
        smallest_rank=min(ranks),
        largest_rank=max(ranks),
        cosine=cosine,
        projection=projection,
    )


def _notes(parents: Sequence[Parent], pairs: Sequence[MergedPair]) -> Iterator[str]:
    unnamed = [parent.name for parent in parents if parent.config.base_model is None]
    if unnamed:
        yield f"the config of {', '.join(unnamed)} names no base model: it was not compared with the others"
    energies = [{place: overlap.energy for place, overlap in pair.overlaps.items()} for pair in pairs]
    gone = sum(energy.pop(MERGED) <= CANCELED * max(energy.values()) for energy in energies)
    if gone:
        yield f"{counted(gone, 'merged module is', 'merged modules are')} 0: untrained, or the updates cancel"
