"""`gradience shrink --over strength`: evaluate all strengths and ranks on dev rows, and test the best on test rows.

DIR/candidates/NAME/   each point of the grid, as `gradience compress --strength` writes it
DIR/dev/, DIR/test/    an evaluation on several data sets each: records, reports and digests
DIR/adapter/           the chosen point, if it is shown on every data set
DIR/strength.json      the frontier, the choice, and the result
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gradience.adapters.adapter import Adapter
from gradience.adapters.formats import open_adapter
from gradience.audit.adapter import audit_opened
from gradience.compress.adapter import write_compressed
from gradience.errors import UsageError
from gradience.evaluate.adapters import adapter_input
from gradience.evaluate.halves import split, with_adapters
from gradience.evaluate.inputs import EvaluateInputs
from gradience.evaluate.verb import evaluate_each, forecast_sets, read_sets, report_notes
from gradience.files.digests import refuse_other_run
from gradience.files.shared_names import path_text
from gradience.files.whole import check_output, only_one
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import ToOwnRanks, ToRank
from gradience.progress import Watcher
from gradience.reports.base.report import save_with_page
from gradience.reports.base.run import Stopwatch
from gradience.reports.bench_plan import PlannedSet
from gradience.reports.evaluation import EvaluatedAdapter, EvaluationForecast
from gradience.reports.evaluation_sets import EvaluationSetsReport
from gradience.reports.strength import StrengthPoint, StrengthReport
from gradience.shrink.candidates import CandidateSource
from gradience.shrink.plan import reference_of
from gradience.shrink.search import CANDIDATES
from gradience.shrink.settings import ShrinkSettings
from gradience.shrink.verb import ADAPTER, put_in_place

STRENGTH = "strength.json"
STRENGTHS = (0.9, 0.8, 0.7, 0.6, 0.5)
"""Default grid."""
DEV, TEST = "dev", "test"


def search_strength(settings: ShrinkSettings) -> StrengthReport | EvaluationForecast:
    """Choose a strength on the dev rows, and test it once on the test rows.

    Raises UsageError (`strength-needs-guard`, `strength-alone`, `bad-strength`), and what reading, compressing and
    evaluating raise.
    """
    refuse(settings)
    refuse_other_run(settings.folder, "shrink --over strength")
    with open_adapter(Path(settings.adapter), tokenizer=settings.tokenizer != "base") as opened:
        return _search(settings, opened)


def _search(settings: ShrinkSettings, opened: Adapter) -> StrengthReport | EvaluationForecast:
    watch, watcher, output = Stopwatch(settings.command), settings.watcher or Watcher(), settings.folder
    reference = reference_of(settings, opened)
    sets = read_sets(replace(settings.evaluation, output=output), (reference,))
    source = CandidateSource(opened, audit_opened(opened), card=settings.card)
    points = grid(settings.strengths or STRENGTHS, settings.ranks or (source.rank,), source.rank)
    dev, test = zip(*map(split, sets), strict=True)
    if settings.dry_run:
        planned = [replace(reference, name=point.name) for point in points]
        return forecast_sets([with_adapters(each, (reference, *planned)) for each in dev])
    for each in sets:
        report_notes(each, 0)
    with only_one(output):
        for point in points:
            make(source, point, output / CANDIDATES / point.name)
        written = {
            point.name: adapter_input(point.name, output / CANDIDATES / point.name) for point in points
        }

        def evaluated(
            part: Sequence[EvaluateInputs], names: Sequence[str], folder: Path
        ) -> EvaluationSetsReport:
            adapters = (reference, *(written[name] for name in names))
            with only_one(folder):
                return evaluate_each([with_adapters(each, adapters) for each in part], folder, watcher)

        on_dev = evaluated(dev, [*written], output / DEV)
        chosen = choose(on_dev)
        tested = None if chosen is None else evaluated(test, [chosen], output / TEST)
        report = StrengthReport(
            adapter=path_text(reference.given),
            rank=source.rank,
            points=points,
            dev=on_dev,
            chosen=chosen,
            test=tested,
            run=watch.run_info(),
        )
        shown = report.tested is not None and report.tested.grade == "B"
        put_in_place(output, chosen if shown else None, watcher.note)
        save_with_page(report, output / STRENGTH)
    return report


def refuse(settings: ShrinkSettings) -> None:
    """Refuse settings that cannot be combined with a search over strengths, and what the output would replace.

    Raises UsageError (`strength-needs-guard`, `strength-alone`, `output-exists`).
    """
    if not settings.guards:
        raise UsageError(
            "--over strength needs a guard, to measure what the adapter forgets",
            code="strength-needs-guard",
            hint="add --guard general=rows.jsonl, or for a language model --guard text",
        )
    if settings.calibration is not None or settings.prompts is not None:
        raise UsageError(
            "--over strength cannot be combined with --calibration or --prompts",
            code="strength-alone",
            hint="run `gradience shrink` with them first, then search the strength of the adapter it writes",
        )
    output = settings.folder
    check_output(output / ADAPTER, Path(settings.adapter), force=(output / STRENGTH).exists())


def grid(strengths: Sequence[float], ranks: Sequence[int], rank: int) -> tuple[StrengthPoint, ...]:
    """Return every strength at every rank, the strongest and largest first; without the adapter itself.

    >>> [point.name for point in grid((0.5, 1.0), (8, 4), rank=8)]
    ['strength0.5', 'strength1-rank4', 'strength0.5-rank4']
    """
    each_rank = sorted({min(each, rank) for each in ranks}, reverse=True)
    points = [(each, by) for each in each_rank for by in sorted(set(strengths), reverse=True)]
    return tuple(
        StrengthPoint(
            name=f"strength{by:g}" + ("" if each == rank else f"-rank{each}"), strength=by, rank=each
        )
        for each, by in points
        if (each, by) != (rank, 1.0)
    )


def make(source: CandidateSource, point: StrengthPoint, folder: Path) -> None:
    """Write one point of the grid to `folder`, replacing it."""
    criterion = ToOwnRanks() if point.rank == source.rank else ToRank(point.rank)
    path = source.adapter.location.path
    plan = plan_compression(source.audit, criterion, path=path, strength=point.strength)
    write_compressed(source.adapter, plan, folder, force=True, page=True, card=source.card)


def choose(report: EvaluationSetsReport) -> str | None:
    """Return the candidate that the rule of `StrengthReport` chooses; None if none is better on the guards."""
    worse = {
        planned.name: {name: _worse(row, planned) for name, row in report.rows_on(planned.name).items()}
        for planned in report.plan.sets
    }
    best, least = None, 0.0
    for row in report.candidates:
        drops = [worse[planned.name][row.name] for planned in report.plan.sets if not planned.guard]
        guards = sum(worse[planned.name][row.name] for planned in report.plan.sets if planned.guard)
        if max(drops) <= 0.5 and guards < least:
            best, least = row.name, guards
    return best


def _worse(row: EvaluatedAdapter, planned: PlannedSet) -> float:
    """Return the drop of a row from the reference, in units of the margin."""
    return float("inf") if row.gain is None else -row.gain / float(planned.margin)
