"""`merge_adapters`, the function of `gradience merge`: open, check, search, merge, write, test.

OUTPUT/                    the merged adapter with its report
OUTPUT/evaluation/NAME/    the comparison with each parent; a run that is interrupted resumes there
OUTPUT.search/             candidates of the search, and their comparisons on the dev examples
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gradience.adapters.adapter import workers_within
from gradience.adapters.base import architecture_of
from gradience.adapters.tensors import type_names
from gradience.audit.adapter import audit_adapter
from gradience.compare.adapters import cosine
from gradience.compress.adapter import written_adapter
from gradience.errors import InputError, UsageError
from gradience.evaluate.adapters import AdapterInput, adapter_input, short_names
from gradience.evaluate.inputs import EvaluateInputs, read_inputs, split, with_adapters
from gradience.evaluate.settings import EvaluateSettings, sets_of
from gradience.evaluate.verb import evaluate, report_notes, require_libraries
from gradience.files.card import Card, write_card
from gradience.files.shared_names import path_text
from gradience.files.whole import already_exists
from gradience.merge import plan
from gradience.merge.settings import SPARSE, MergeSettings, Method
from gradience.models.locate import local_base
from gradience.plan.compression import smallest_rank, with_calibration
from gradience.plan.modules import modules_of
from gradience.reports import merge as reports
from gradience.reports.base import markdown
from gradience.reports.base.report import Stopwatch, hub_source, save_with_page
from gradience.reports.calibration import Calibration
from gradience.reports.evaluation import EvaluatedAdapter
from gradience.runtimes.verdict import verdicts
from gradience.settings import paths_of, public, required_output, shared
from gradience.spectra import error_of_all
from gradience.words import counted

EVALUATIONS = "evaluation"
GRID: tuple[tuple[Method, float, float], ...] = (
    *(("svd", share, 1.0) for share in (0.5, 0.7, 1.0)),
    *(("ties", share, density) for share in (1.0, 1.5) for density in (0.2, 0.5)),
    ("dare", 0.7, 0.5),
    *(("knots", 1.0, density) for density in (0.5, 1.0)),
)
"""Search grid, fixed in advance: (method, weight of every parent, density). In a tie, the first candidate wins."""
CANCELED = 1e-20
"""Share of a parent's energy up to which a merged update is rounding."""


@public(MergeSettings)
def merge_adapters(settings: MergeSettings) -> reports.MergeReport:
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
    output, watch = required_output(settings.output, "DIR", dry_run=False), Stopwatch(settings.command)
    with ExitStack() as stack:
        parents = plan.open_parents(settings, output, stack)
        if not (settings.data or settings.search):
            return write_merge(parents, settings, output)
        require_libraries(settings.engine)
        sets, searched = _read_sets(parents, settings, output), tuple[reports.SearchedMerge, ...]()
        if settings.search:
            halves = {name: split(inputs) for name, inputs in sets.items()}
            dev, sets = ({name: half[place] for name, half in halves.items()} for place in (0, 1))
            place = output.with_name(f"{output.name}.search")
            parents, settings, searched = _search(parents, settings, dev, place)
        report = merge_or_resume(parents, settings, output)
    evidence, merged = [], adapter_input(output.name, output)
    for parent in parents:
        folder = f"{EVALUATIONS}/{parent.name}"
        reference, candidate = _compared(sets[parent.name], [merged], output / folder)
        evidence.append(
            reports.ParentEvidence(
                parent=parent.name, reference=reference, merged=candidate, evaluation=folder
            )
        )
    verdict = reports.verdict_of([row.merged.grade for row in evidence])
    tested = reports.ParentTests(verdict=verdict, parents=tuple(evidence))
    report = report.model_copy(update={"certificate": tested, "search": searched, "run": watch.run_info()})
    write_report(report, output)
    return report


def write_merge(parents: Sequence[plan.Parent], settings: MergeSettings, output: Path) -> reports.MergeReport:
    """Merge open adapters into the folder `output` and return the report."""
    watch = Stopwatch(settings.command)
    rank, predictions = settings.rank, tuple[reports.PredictedKl, ...]()
    if settings.max_kl_per_token is not None:
        rank, predictions = rank_within(parents, settings, settings.max_kl_per_token)
    layout, opened = plan.plan_merge(parents, settings, rank), [parent.opened for parent in parents]
    pairs = [job.pair for job in layout.jobs if isinstance(job.pair, plan.MergedPair)]
    work = ((job.pair, plan.merge_bytes(job)) for job in layout.jobs)
    fitting = workers_within(settings.max_memory, opened, work, settings.workers)
    with written_adapter(
        output,
        layout,
        fitting,
        settings.progress,
        plan.write_merged,
        plan.written_error,
        force=settings.force,
    ) as (folder, written, weights):
        base, rows = local_base(settings.base_model), weights.modules
        architecture = architecture_of(layout.config, opened[0].location.root, base)
        report = reports.MergeReport(
            parents=tuple(_parents(parents, pairs)),
            base=layout.config.base_model,
            output_path=path_text(output),
            output_sha256=weights.sha256,
            **_choices(settings),
            largest_rank=max(job.new_rank for job in layout.jobs),
            dtype=type_names(*(dtype for job in layout.jobs for dtype in (job.dtype_A, job.dtype_B))),
            error=error_of_all((row.norm, row.error or 0.0) for row in rows.values()),
            bytes=weights.size,
            predicted=predictions,
            architecture=architecture,
            runtimes=verdicts(written, architecture),
            modules=tuple(
                reports.MergedModule(
                    name=pair.module,
                    parent_ranks=pair.parent_ranks,
                    rank=job.stored_rank,
                    norm=rows[pair.module].norm,
                    error=rows[pair.module].error,
                )
                for job, pair in zip(layout.jobs, pairs, strict=True)
            ),
            notes=tuple(_notes(parents, pairs)),
            run=watch.run_info(),
        )
        write_report(report, folder)
    return report


def merge_or_resume(
    parents: Sequence[plan.Parent], settings: MergeSettings, output: Path
) -> reports.MergeReport:
    """Return the report in `output` if it is of the same merge; otherwise merge.

    Raises UsageError (output-exists) if the folder holds anything else.
    """
    if settings.force or not output.exists():
        return write_merge(parents, settings, output)
    with suppress(InputError):
        report = reports.MergeReport.read(output / reports.REPORT)
        merged = [(parent.sha256, parent.weight) for parent in report.parents]
        same = merged == [(parent.sha256, parent.weight) for parent in parents]
        if same and all(getattr(report, name) == value for name, value in _choices(settings).items()):
            return report
    raise already_exists(output)


def write_report(report: reports.MergeReport, folder: Path) -> None:
    """Write the report, its page, and the block of the model card."""
    save_with_page(report, folder / reports.REPORT)
    write_card(folder, Card(markdown.render(reports.card_blocks(report))))


def rank_within(
    parents: Sequence[plan.Parent], settings: MergeSettings, limit: float
) -> tuple[int, tuple[reports.PredictedKl, ...]]:
    """Return the smallest rank whose predicted KL has its upper end below the limit on every calibration.

    The calibrations are of the exact sum: a parent's own does not see the directions of the other parents.
    Raises UsageError (`other-calibration`) for a calibration of another adapter.
    """
    with TemporaryDirectory() as scratch:
        exact = replace(settings, method="linear", max_kl_per_token=None, calibration=())
        write_merge(parents, exact, Path(scratch) / "sum")
        audit = audit_adapter(Path(scratch) / "sum")
    calibrations = [Calibration.read(path) for path in paths_of(settings.calibration)]
    try:
        measured = [with_calibration(audit, modules_of(audit), calibration) for calibration in calibrations]
    except UsageError as error:
        paths = " ".join(str(parent.path) for parent in parents)
        error.hint = f"gradience merge {paths} -o SUM, then gradience calibrate SUM on each parent's prompts"
        raise
    rank, predictions = smallest_rank(measured, limit)
    return rank, tuple(
        reports.PredictedKl(calibration_sha256=calibration.sha256, kl_per_token=kl, high=high)
        for calibration, (kl, high) in zip(calibrations, predictions, strict=True)
    )


def _choices(settings: MergeSettings) -> dict[str, Any]:
    """Return the report fields that identify a merge, together with its parents."""
    return {
        "method": settings.method,
        "density": settings.density if settings.method in SPARSE else None,
        "seed": settings.seed if settings.method == "dare" else None,
        "requested_rank": settings.rank,
        "saved": settings.saved,
    }


def _parents(
    parents: Sequence[plan.Parent], pairs: Sequence[plan.MergedPair]
) -> Iterator[reports.MergeParent]:
    *sums, (merged, _) = np.sum([pair.overlaps for pair in pairs], axis=0).tolist()
    for parent, (energy, inner) in zip(parents, sums, strict=True):
        ranks = [pair.rank for pair in parent.opened.pairs]
        yield reports.MergeParent(
            name=parent.name,
            path=path_text(parent.path),
            sha256=parent.sha256,
            source=hub_source(parent.opened.source),
            weight=parent.weight,
            modules=len(ranks),
            smallest_rank=min(ranks),
            largest_rank=max(ranks),
            cosine=cosine(
                inner, energy, max(0.0, merged)
            ),  # energies that cancel may be rounded to less than 0
            projection=inner / energy if energy else None,
        )


def _notes(parents: Sequence[plan.Parent], pairs: Sequence[plan.MergedPair]) -> Iterator[str]:
    unnamed = [parent.name for parent in parents if parent.config.base_model is None]
    if unnamed:
        yield f"the config of {', '.join(unnamed)} names no base model: it was not compared with the others"
    gone = sum(pair.overlaps[-1, 0] <= CANCELED * pair.overlaps[:, 0].max() for pair in pairs)
    if gone:
        yield f"{counted(gone, 'merged module is', 'merged modules are')} 0: untrained, or the updates cancel"


# ---------------------------------------------------------------- tests on the parents' examples


def _read_sets(
    parents: Sequence[plan.Parent], settings: MergeSettings, output: Path
) -> dict[str, EvaluateInputs]:
    """Return the examples of each parent, by its name. Raises UsageError (no-data)."""
    named = dict(zip(ascii_uppercase, parents, strict=False)) | {parent.name: parent for parent in parents}
    given = sets_of(EvaluateSettings(**shared(settings, EvaluateSettings) | {"adapters": ()}))
    sets: dict[str, EvaluateInputs] = {}
    for each in given:
        if parent := named.get(each.set_name):
            folder = output / EVALUATIONS / parent.name
            request = replace(each, adapters=(parent.path,), output=folder, set_name="")
            reference = AdapterInput.of(parent.name, parent.path, parent.opened)
            sets[parent.name] = read_inputs(request, (reference,))
    if not len(given) == len(sets) == len(parents):
        raise UsageError(
            f"--data for {', '.join(sets) or 'no parent'}: a merge is tested on every parent's own examples",
            code="no-data",
            hint=f"give --data NAME=FILE once for each parent; the names are {', '.join(named)}",
        )
    return sets


def _compared(
    inputs: EvaluateInputs, candidates: Sequence[AdapterInput], folder: Path
) -> tuple[EvaluatedAdapter, ...]:
    """Compare candidates with a parent on its examples, and return the rows of all."""
    adapters = (inputs.reference, *candidates)
    names = short_names([adapter.given.resolve() for adapter in adapters])
    named = [replace(adapter, name=name) for adapter, name in zip(adapters, names, strict=True)]
    inputs = with_adapters(inputs, named)
    report_notes(inputs, len(candidates))
    return evaluate(inputs, folder).adapters


# ---------------------------------------------------------------- search


def _search(
    parents: Sequence[plan.Parent], settings: MergeSettings, dev: Mapping[str, EvaluateInputs], folder: Path
) -> tuple[list[plan.Parent], MergeSettings, tuple[reports.SearchedMerge, ...]]:
    """Return the best candidate on the dev examples, and the results of all candidates."""
    merges, candidates, gains = [], [], []
    for method, share, density in GRID:
        weighted = [parent._replace(weight=share) for parent in parents]
        merges.append((weighted, replace(settings, method=method, density=density)))
        place = folder / "candidates" / f"{method}-{share:g}-{density:g}"
        merge_or_resume(*merges[-1], place)
        candidates.append(adapter_input(place.name, place))
    for name, inputs in dev.items():
        _, *tested = _compared(inputs, candidates, folder / "dev" / name)
        # A candidate that could not be evaluated counts as the worst.
        gains.append([-1.0 if row.gain is None else row.gain for row in tested])
    deltas = list(zip(*gains, strict=True))
    best = max(range(len(GRID)), key=lambda place: (min(deltas[place]), sum(deltas[place])))
    rows = tuple(
        reports.SearchedMerge(
            method=method,
            weights=(share,) * len(parents),
            density=density if method in SPARSE else None,
            deltas=deltas[place],
            chosen=place == best,
        )
        for place, (method, share, density) in enumerate(GRID)
    )
    return *merges[best], rows
