"""`merge_adapters`: what `gradience merge` does, as one function: open, refuse, merge, write, test."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gradience.adapters.formats import open_adapter
from gradience.adapters.locate import CONFIG
from gradience.adapters.memory import compress_bytes, limit_for, workers_within
from gradience.adapters.tensors import type_names
from gradience.blas import worker_threads
from gradience.compress.check import check_with_peft, check_written, require_peft
from gradience.compress.encodings import write_config
from gradience.compress.module import CompressedModule, Job
from gradience.compress.weights import write_weights
from gradience.errors import InputError
from gradience.files.card import Card, write_card
from gradience.files.shared_names import path_text
from gradience.files.whole import already_exists, check_output, whole_folder
from gradience.merge.layout import DENSITY, Plan, local_base, plan_merge
from gradience.merge.module import (
    BLOCK,
    MERGED,
    MergedPair,
    is_dense,
    kept_in_all,
    write_merged,
    written_error,
)
from gradience.merge.parents import Parent, open_parents
from gradience.merge.settings import SPARSE, MergeSettings
from gradience.reports.base import markdown
from gradience.reports.base.report import save_with_page
from gradience.reports.base.run import Stopwatch
from gradience.reports.base.source import hub_source
from gradience.reports.merge import REPORT, MergedModule, MergeParent, MergeReport, PredictedKl, card_blocks
from gradience.runtimes import architecture_of, verdicts
from gradience.settings import public, required_output
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

    The merge is exact up to the truncation that is asked for, and its error is stated. With `data`, the merged adapter
    is compared with each parent on that parent's examples.

    The keywords are the flags of `gradience merge`:

    Raises InputError if an adapter cannot be read or the adapters do not belong together, UsageError for contradictory
    options, VerificationError if PEFT does not load the result, OutputError when the disk refuses, and with `data` what
    `evaluate_adapters` raises. Nothing is left half-written.
    """
    watch = Stopwatch(settings.command)
    output = required_output(settings.output, "DIR")
    if settings.verify_peft:
        require_peft()
    if settings.data:
        from gradience.merge.certificate import certified

        return certified(settings, output, watch)
    with ExitStack() as stack:
        parents = open_parents(settings, stack)
        return write_merge(parents, settings, output, watch, stack)


def write_merge(
    parents: Sequence[Parent],
    settings: MergeSettings,
    output: Path,
    watch: Stopwatch,
    stack: ExitStack,
    *,
    resumes: bool = False,
) -> MergeReport:
    """Merge open adapters into the folder `output` and return the report. resumes: take it if it holds this merge."""
    rank = settings.rank
    predicted: tuple[PredictedKl, ...] = ()
    if settings.max_kl_per_token is not None:
        from gradience.merge.calibrated import rank_within

        rank, predicted = rank_within(parents, settings)
    plan = plan_merge(parents, settings, rank, stack)
    if resumes and (kept := _kept(output, parents, settings)) is not None:
        return kept
    for parent in parents:
        check_output(output, parent.path, force=settings.force)
    layout, opened = plan.layout, plan.opened
    work = [(job.pair, _bytes(job)) for job in layout.jobs]
    sources = [parent.opened for parent in parents]
    fitting = workers_within(limit_for(settings.max_memory, sources), sources, work, settings.workers)
    with worker_threads(fitting) as pool, whole_folder(output, force=settings.force) as folder:
        weights = write_weights(
            folder / layout.weights, opened, layout, pool, 2 * fitting, settings.progress, write_merged
        )
        write_config(folder / CONFIG, layout.new_fields)
        with open_adapter(folder) as written:
            check_written(written, layout, weights.modules, weights.size, written_error)
            base = local_base(settings.base_model)
            architecture = architecture_of(layout.config, parents[0].opened.location.root, base)
            report = MergeReport(
                parents=tuple(_parent(parent, place, plan) for place, parent in enumerate(parents)),
                base=layout.config.base_model,
                output_path=path_text(output),
                output_sha256=weights.sha256,
                **_choices(settings),
                largest_rank=plan.rank,
                encoding=layout.encoded.encoding,
                dtype="+".join(sorted({type_names(job.dtype_A, job.dtype_B) for job in layout.jobs})),
                error=error_of_all((row.norm, row.error or 0.0) for row in weights.modules.values()),
                lora_params=sum(job.stored_params for job in layout.jobs),
                bytes=weights.size,
                carried_tensors=len(layout.carried),
                predicted=predicted,
                architecture=architecture,
                runtimes=verdicts(written, architecture),
                peft_check=check_with_peft(folder, opened, layout) if settings.verify_peft else None,
                modules=tuple(
                    _row(job, weights.modules[job.pair.module], len(parents)) for job in layout.jobs
                ),
                notes=tuple(_notes(parents, plan)),
                run=watch.run_info(),
            )
        write_report(report, folder)
    return report


def write_report(report: MergeReport, folder: Path) -> None:
    """Write the report, its page, and the block of the model card."""
    save_with_page(report, folder / REPORT)
    write_card(folder, Card(markdown.render(card_blocks(report))))


def _choices(settings: MergeSettings) -> dict[str, Any]:
    """Return the fields of a report that say, with its parents, which merge it is."""
    density = DENSITY if settings.density is None else settings.density
    return {
        "method": settings.method,
        "density": density if settings.method in SPARSE else None,
        "seed": settings.seed if settings.method == "dare" else None,
        "requested_rank": settings.rank,
        "saved": settings.saved,
    }


def _kept(output: Path, parents: Sequence[Parent], settings: MergeSettings) -> MergeReport | None:
    """Return the report of this very merge if `output` holds it; None if there is nothing or it is to be replaced.

    Raises UsageError (output-exists) for any other folder.
    """
    if settings.force or not output.exists():
        return None
    try:
        report = MergeReport.read(output / REPORT)
    except InputError:
        raise already_exists(output) from None
    with open_adapter(output) as opened:
        same = opened.sha256() == report.output_sha256
    there = [(parent.sha256, parent.weight) for parent in report.parents]
    wanted = [(parent.sha256, parent.weight) for parent in parents]
    choices = {name: getattr(report, name) for name in _choices(settings)}
    if (
        not same
        or wanted != there
        or choices != _choices(settings)
        or settings.dtype not in (None, report.dtype)
    ):
        raise already_exists(output)
    return report


def _bytes(job: Job) -> int:
    """Return the bytes needed to merge one module."""
    pair = job.pair
    assert isinstance(pair, MergedPair)
    needed = compress_bytes(pair, job.plan.new_rank, job.stored_bytes)
    if is_dense(pair):
        beside = 4 * (len(pair.parts) + 3) * BLOCK
        sides = pair.rows + pair.columns
        needed += 4 * pair.rows * pair.columns + beside + 16 * sides * (job.plan.new_rank + pair.rank)
    return needed


def _parent(parent: Parent, place: int, plan: Plan) -> MergeParent:
    ranks = [pair.rank for pair in parent.opened.pairs]
    merged = kept_in_all(pair.kept[MERGED] for pair in plan.pairs)
    kept = kept_in_all(pair.kept[place] for pair in plan.pairs if place in pair.kept)
    return MergeParent(
        name=parent.name,
        path=path_text(parent.path),
        sha256=parent.sha256,
        source=hub_source(parent.opened.source),
        weight=parent.weight,
        modules=len(ranks),
        smallest_rank=min(ranks),
        largest_rank=max(ranks),
        cosine=kept.cosine(merged.energy),
        projection=kept.projection,
    )


def _row(job: Job, written: CompressedModule, parents: int) -> MergedModule:
    pair = job.pair
    assert isinstance(pair, MergedPair)
    ranks = {part.parent: part.pair.rank for part in pair.parts}
    kept = [pair.kept.get(place) for place in range(parents)]
    merged = pair.kept[MERGED].energy
    return MergedModule(
        name=pair.module,
        parent_ranks=tuple(ranks.get(place) for place in range(parents)),
        rank=job.stored_rank,
        norm=written.norm,
        error=written.error,
        cosine=tuple(row and row.cosine(merged) for row in kept),
        projection=tuple(row and row.projection for row in kept),
    )


def _notes(parents: Sequence[Parent], plan: Plan) -> list[str]:
    notes = []
    unnamed = [parent.name for parent in parents if parent.config.base_model is None]
    if unnamed:
        notes.append(
            f"the config of {', '.join(unnamed)} names no base model: it was not compared with the others"
        )
    names = [{pair.module for pair in parent.opened.pairs} for parent in parents]
    if not set.intersection(*names):
        notes.append("the adapters have no module in common: nothing interferes within a module")
    gone = sum(
        pair.kept[MERGED].energy <= CANCELED * max(pair.kept[part.parent].energy for part in pair.parts)
        for pair in plan.pairs
    )
    if gone:
        notes.append(
            f"{counted(gone, 'merged module is', 'merged modules are')} 0: untrained, or the updates cancel"
        )
    return notes
