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
from gradience.audit.adapter import audit_opened
from gradience.errors import UsageError
from gradience.evaluate.adapters import AdapterInput, adapter_input
from gradience.evaluate.halves import split, with_adapters
from gradience.evaluate.inputs import EvaluateInputs
from gradience.evaluate.verb import evaluate_each, forecast_sets, read_sets, report_notes
from gradience.files.digests import refuse_other_run
from gradience.files.shared_names import path_text
from gradience.files.whole import check_output, only_one
from gradience.plan.criteria import ToOwnRanks, ToRank
from gradience.progress import Watcher
from gradience.reports.base.report import save_with_page
from gradience.reports.base.run import Stopwatch
from gradience.reports.evaluation import EvaluationForecast
from gradience.reports.evaluation_sets import EvaluationSetsReport
from gradience.reports.strength import StrengthPoint, StrengthReport
from gradience.shrink.candidates import CandidateSource, TruncatedKind
from gradience.shrink.plan import reference_of
from gradience.shrink.search import CANDIDATES
from gradience.shrink.settings import ShrinkSettings
from gradience.shrink.verb import ADAPTER, put_in_place

STRENGTH = "strength.json"
STRENGTHS = (0.9, 0.8, 0.7, 0.6, 0.5)
"""Default grid."""
DEV, TEST = "dev", "test"


def search_strength(settings: ShrinkSettings, opened: Adapter) -> StrengthReport | EvaluationForecast:
    """Choose a strength on the dev rows, and test it once on the test rows.

    Raises what reading, compressing and evaluating raise.
    """
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

    def evaluated(
        part: Sequence[EvaluateInputs], folder: Path, *scaled: AdapterInput
    ) -> EvaluationSetsReport:
        with only_one(folder):
            return evaluate_each(
                [with_adapters(each, (reference, *scaled)) for each in part], folder, watcher
            )

    with only_one(output):
        made = {point.name: make(source, point, output / CANDIDATES / point.name) for point in points}
        on_dev = evaluated(dev, output / DEV, *made.values())
        chosen = choose(on_dev)
        report = StrengthReport(
            adapter=path_text(reference.given),
            rank=source.rank,
            points=points,
            dev=on_dev,
            chosen=chosen,
            test=None if chosen is None else evaluated(test, output / TEST, made[chosen]),
            run=watch.run_info(),
        )
        shown = report.tested is not None and report.tested.grade == "B"
        put_in_place(output, chosen if shown else None, watcher.note)
        save_with_page(report, output / STRENGTH)
    return report


def refuse(settings: ShrinkSettings) -> None:
    """Refuse settings that cannot be combined with a search over strengths, and what the output would replace.

    Raises UsageError (`strength-needs-guard`, `strength-alone`, `output-exists`, `output-other-run`).
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
    refuse_other_run(output, "shrink --over strength")


def grid(strengths: Sequence[float], ranks: Sequence[int], rank: int) -> tuple[StrengthPoint, ...]:
    """Return every strength at every rank, the strongest and largest first; without the adapter itself.

    >>> [point.name for point in grid((0.5, 1.0), (8, 4), rank=8)]
    ['strength0.5', 'strength1-rank4', 'strength0.5-rank4']
    """
    return tuple(
        StrengthPoint(
            name=f"strength{by:g}" + ("" if each == rank else f"-rank{each}"), strength=by, rank=each
        )
        for each in sorted({min(each, rank) for each in ranks}, reverse=True)
        for by in sorted(set(strengths), reverse=True)
        if (each, by) != (rank, 1.0)
    )


def make(source: CandidateSource, point: StrengthPoint, folder: Path) -> AdapterInput:
    """Write one point of the grid to `folder`, replacing it: a truncation of another strength."""
    kind = TruncatedKind(criterion=ToRank, strength=point.strength)
    if point.rank == source.rank:
        kind = replace(kind, criterion=lambda _: ToOwnRanks())
    kind.make(source, point.rank, folder)
    return adapter_input(point.name, folder)


def choose(report: EvaluationSetsReport) -> str | None:
    """Return the candidate that the rule of `StrengthReport` chooses; None if none is better on the guards."""
    best, least = None, 0.0
    for row in report.candidates:
        drops = {False: [0.0], True: [0.0]}  # of the task and of guards, in units of the margins
        for planned in report.plan.sets:
            gain = report.rows_on(planned.name)[row.name].gain
            drops[planned.guard].append(float("inf") if gain is None else -gain / float(planned.margin))
        if max(drops[False]) <= 0.5 and sum(drops[True]) < least:
            best, least = row.name, sum(drops[True])
    return best
