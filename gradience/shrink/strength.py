"""`gradience shrink --over strength`: evaluate all strengths and ranks on dev rows, and test the best on test rows.

DIR/candidates/NAME/   each point of the grid, as `gradience compress --strength` writes it
DIR/dev/               the evaluation of all points on the dev rows; its plot `frontier`
DIR/test/              the evaluation of the chosen point on the test rows
DIR/adapter/           the chosen point, if it is shown on every data set
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gradience.adapters.adapter import Adapter
from gradience.audit.adapter import audit_opened
from gradience.errors import UsageError
from gradience.evaluate.adapters import AdapterInput, adapter_input
from gradience.evaluate.inputs import EvaluateInputs, split, with_adapters
from gradience.evaluate.verb import JOINT, evaluate_each, forecast_sets, read_sets, report_notes
from gradience.files.digests import refuse_other_run
from gradience.files.whole import check_output, only_one
from gradience.plan.criteria import ToOwnRanks, ToRank
from gradience.progress import Watcher
from gradience.reports.evaluation import EvaluationForecast
from gradience.reports.evaluation_sets import EvaluationSetsReport
from gradience.shrink.candidates import CandidateSource, TruncatedKind
from gradience.shrink.plan import reference_of
from gradience.shrink.search import CANDIDATES
from gradience.shrink.settings import ShrinkSettings
from gradience.shrink.verb import ADAPTER, put_in_place

STRENGTHS = (0.9, 0.8, 0.7, 0.6, 0.5)
"""Default grid."""
DEV, TEST = "dev", "test"
RULE = (
    "on the dev rows, the task's drop is at most half of its margin; of these, the largest gain on the guards, in units"
    " of their margins"
)


class Point(NamedTuple):
    """One point of the grid."""

    name: str
    strength: float
    """Factor for the update of the reference adapter."""
    rank: int


def search_strength(settings: ShrinkSettings, opened: Adapter) -> EvaluationSetsReport | EvaluationForecast:
    """Choose a point on the dev rows, and return its evaluation on the test rows.

    If no point is chosen, only the reference and the base are evaluated there. Raises what reading, compressing and
    evaluating raise.
    """
    watcher, output = settings.watcher or Watcher(), settings.folder
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
        part: Sequence[EvaluateInputs], folder: Path, scaled: Sequence[AdapterInput]
    ) -> EvaluationSetsReport:
        inputs = [with_adapters(each, (reference, *scaled)) for each in part] if scaled else part
        with only_one(folder):
            return evaluate_each(inputs, folder, watcher)

    with only_one(output):
        written = {point.name: make(source, point, output / CANDIDATES / point.name) for point in points}
        chosen = choose(evaluated(dev, output / DEV, [*written.values()]))
        watcher.note(f"{chosen or 'no point'} is chosen: {RULE}")
        report = evaluated(test, output / TEST, [] if chosen is None else [written[chosen]])
        shown = [row.name for row in report.candidates if row.grade == "B"]
        put_in_place(output, shown[0] if shown else None, watcher.note)
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
    check_output(output / ADAPTER, Path(settings.adapter), force=(output / DEV / JOINT).exists())
    refuse_other_run(output, "shrink --over strength")


def grid(strengths: Sequence[float], ranks: Sequence[int], rank: int) -> tuple[Point, ...]:
    """Return every strength at every rank, the strongest and largest first; without the adapter itself.

    >>> [point.name for point in grid((0.5, 1.0), (8, 4), rank=8)]
    ['strength0.5', 'strength1-rank4', 'strength0.5-rank4']
    """
    return tuple(
        Point(f"strength{by:g}" + ("" if each == rank else f"-rank{each}"), by, each)
        for each in sorted({min(each, rank) for each in ranks}, reverse=True)
        for by in sorted(set(strengths), reverse=True)
        if (each, by) != (rank, 1.0)
    )


def make(source: CandidateSource, point: Point, folder: Path) -> AdapterInput:
    """Write one point of the grid to `folder`, replacing it: a truncation of another strength."""
    kind = TruncatedKind(criterion=ToRank, strength=point.strength)
    if point.rank == source.rank:
        kind = replace(kind, criterion=lambda _: ToOwnRanks())
    kind.make(source, point.rank, folder)
    return adapter_input(point.name, folder)


def choose(report: EvaluationSetsReport) -> str | None:
    """Return the candidate that `RULE` chooses; None if none is better on the guards."""
    best, least = None, 0.0
    for row in report.candidates:
        drops = {False: [0.0], True: [0.0]}  # of the task and of guards, in units of the margins
        for planned in report.plan.sets:
            gain = report.rows_on(planned.name)[row.name].gain
            drops[planned.guard].append(float("inf") if gain is None else -gain / float(planned.margin))
        if max(drops[False]) <= 0.5 and sum(drops[True]) < least:
            best, least = row.name, sum(drops[True])
    return best
