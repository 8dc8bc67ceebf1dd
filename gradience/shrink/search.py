"""Make, evaluate and test candidates from the largest to the smallest, until one is not shown; and the report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from gradience.compress.adapter import write_rotated
from gradience.errors import InputError
from gradience.evaluate.adapters import AdapterInput, adapter_input
from gradience.evaluate.evaluator import AdapterAnswers, Answering, LoadedBase
from gradience.evaluate.inputs import EvaluateInputs
from gradience.evaluate.outcome import conditions_of, exploratory, graded, row_of, source_of
from gradience.files.artifact import digest_of
from gradience.files.shared_names import path_text, sentence_text
from gradience.progress import Watcher
from gradience.reports import shrink as reports
from gradience.reports.base.report import Stopwatch
from gradience.reports.bench_plan import PlannedSet, margin_text
from gradience.reports.evaluation import CHANGES, EvaluatedAdapter, examples_needed
from gradience.reports.shrink import GuardOutcome, PlannedCandidate, ShrinkCandidate, ShrinkPlan
from gradience.shrink.candidates import KINDS, CandidateSource

CANDIDATES, GUARDS = "candidates", "guards"
"""Folders with the candidates, and with the records of each guard."""
CONTROL = "rewrite_control"
Make = Callable[[PlannedCandidate], AdapterInput]
STATUSES: dict[str | None, reports.TestedStatus] = {
    None: "inconclusive",  # a single example: no interval for its likelihood
    "B": "shown",
    "C": "inconclusive",
    "D": "worse",
    "X": "not evaluated",
}
"""Grade -> status of a candidate."""


@dataclass(frozen=True, kw_only=True)
class SearchInputs:
    """Inputs of a search, before it is planned."""

    sets: Sequence[EvaluateInputs]
    """Reference adapter and test rows of each data set in test order: the task, then the guards."""
    source: CandidateSource
    notes: Sequence[str] = ()
    """On prompts and calibration."""


@dataclass(frozen=True, kw_only=True)
class Prepared(SearchInputs):
    """Inputs and plan, before a model is loaded."""

    plan: ShrinkPlan


@dataclass(frozen=True, slots=True)
class SetResults:
    """Results on one data set."""

    inputs: EvaluateInputs
    reference: AdapterAnswers
    tested: Mapping[str, EvaluatedAdapter]
    """Name -> graded row of each candidate that was tested here."""
    control: AdapterAnswers | None = None
    """The rewrite control; None on a guard, and if it could not be written."""

    def shown(self, candidates: Sequence[PlannedCandidate]) -> list[PlannedCandidate]:
        """Return the candidates that are shown here."""
        grades = {name: row.grade for name, row in self.tested.items()}
        return [candidate for candidate in candidates if grades.get(candidate.name) == "B"]


@dataclass(frozen=True, slots=True)
class SearchResults:
    """Results on the data sets that were reached, the task first."""

    sets: Sequence[SetResults]
    base_fingerprint: str
    control_reason: str = ""
    """Reason for a missing rewrite control."""


def search_candidates(
    prepared: Prepared, output: Path, watcher: Watcher, make: Make, base: LoadedBase
) -> SearchResults:
    """Test on each data set the candidates that are shown on those before; on the task also the rewrite control.

    A candidate is shown only if it is shown on every data set, so one that fails is not tested on the later sets. Each
    set is tested from the largest candidate to the smallest, so the order of the candidates stays fixed.
    """
    control, reason = _control(prepared, output)
    candidates: Sequence[PlannedCandidate] = prepared.plan.candidates
    results: list[SetResults] = []
    fingerprint = ""
    for number, inputs in enumerate(prepared.sets, 1):
        folder, rows = output, 1 + len(candidates)
        if number == 1:
            rows += control is not None
        else:
            folder, control = output / GUARDS / inputs.name, None
            watcher.data_set(inputs.name, number, len(prepared.sets))
        answering = Answering(inputs, folder, watcher, rows=rows, likelihoods=number == 1, base=base)
        answering.kept.bind(digest_of(prepared.plan))
        results.append(answering.work(partial(results_on, candidates=candidates, make=make, control=control)))
        fingerprint, candidates = answering.fingerprint, results[-1].shown(candidates)
        if not candidates:
            break
    return SearchResults(results, fingerprint, reason)


def results_on(
    answering: Answering,
    candidates: Sequence[PlannedCandidate],
    make: Make,
    control: AdapterInput | None = None,
) -> SetResults:
    """Test the candidates in order on one data set, each at the full level, up to the first that is not shown.

    Before them, the reference adapter answers, and its rewrite control if there is one.
    """
    reference = answering.reference()
    rewritten = None if control is None else answering.candidate(control, lambda row: True)
    largest, rows = 0.0, dict[str, EvaluatedAdapter]()
    for candidate in candidates:
        row = row_of(answering.inputs, reference, answering.candidate(make(candidate), answering.stops))
        if row.bounds is not None:
            largest = max(largest, row.bounds.p_value)
            row = graded(answering.inputs, row, largest)
        rows[candidate.name] = row
        if row.grade != "B":
            break
    return SetResults(answering.inputs, reference, rows, rewritten)


def maker(source: CandidateSource, output: Path) -> Make:
    """Return a function that makes each candidate below `output` once."""

    @cache
    def make(candidate: PlannedCandidate) -> AdapterInput:
        folder = output / CANDIDATES / candidate.name
        KINDS[candidate.kind].make(source, candidate.rank, folder)
        return adapter_input(candidate.name, folder)

    return make


def _control(prepared: Prepared, output: Path) -> tuple[AdapterInput | None, str]:
    """Return the rewrite control, or the reason for its absence."""
    folder = output / CANDIDATES / CONTROL
    try:
        write_rotated(prepared.source.adapter, folder)
    except InputError as error:
        return None, str(error)
    return adapter_input(CONTROL, folder), ""


# ---------------------------------------------------------------- the report


def report_of(
    plan: ShrinkPlan, plan_sha256: str, results: SearchResults, watch: Stopwatch
) -> reports.ShrinkReport:
    """Return the report of a search."""
    task, *guards = results.sets
    inputs, rewritten = task.inputs, task.control
    assert task.reference.answers is not None
    outcomes = tuple(
        GuardOutcome(
            name=planned.name,
            source=source_of(guard.inputs),
            reference=row_of(guard.inputs, guard.reference, guard.reference),
            results=tuple(_as_planned(plan, row) for row in guard.tested.values()),
        )
        for planned, guard in zip(plan.guards, guards, strict=False)
    )
    candidates = candidates_of(plan, results.sets)
    control = reports.RewriteControl(
        result=None if rewritten is None else row_of(inputs, task.reference, rewritten),
        reason=sentence_text(results.control_reason if rewritten is None else rewritten.error),
    )
    smallest = next((candidate for candidate in reversed(candidates) if candidate.status == "shown"), None)
    return reports.ShrinkReport(
        base=path_text(inputs.model.name),
        task=inputs.task.name,
        source=source_of(inputs),
        plan=plan,
        plan_sha256=plan_sha256,
        conditions=conditions_of(task.reference.answers.run, results.base_fingerprint),
        reference=row_of(inputs, task.reference, task.reference),
        control=control,
        start=plan.candidates[0].name,
        candidates=candidates,
        guards=outcomes,
        smallest=None if smallest is None else smallest.name,
        smallest_sha256=None if smallest is None or smallest.result is None else smallest.result.sha256,
        sentence=sentence_of(plan, candidates, outcomes),
        notes=tuple(map(sentence_text, inputs.notes)),
        run=watch.run_info(),
    )


def _as_planned(plan: ShrinkPlan, row: EvaluatedAdapter) -> EvaluatedAdapter:
    return exploratory(row) if plan.changes else row


def candidates_of(plan: ShrinkPlan, results: Sequence[SetResults]) -> tuple[ShrinkCandidate, ...]:
    """Return every planned candidate with its outcome: the first row that is not shown decides.

    A candidate is not tested if a larger one failed on the same data set or on an earlier one.
    """
    outcomes = []
    for candidate in plan.candidates:
        rows = [on_set.tested[candidate.name] for on_set in results if candidate.name in on_set.tested]
        status: reports.CandidateStatus = "not tested"
        if rows and (rows[-1].grade != "B" or len(rows) == len(plan.sets)):
            status = STATUSES[rows[-1].grade]
        outcomes.append(
            ShrinkCandidate(
                **candidate.model_dump(exclude={"kept_energy"}),
                status=status,
                result=_as_planned(plan, rows[0]) if rows else None,
                needs=needs_of(rows[-1], plan.sets[len(rows) - 1], candidate)
                if status == "inconclusive"
                else "",
            )
        )
    return tuple(outcomes)


# ---------------------------------------------------------------- words


def sentence_of(
    plan: ShrinkPlan, candidates: Sequence[ShrinkCandidate], guards: Sequence[GuardOutcome] = ()
) -> str:
    """Return the result in one sentence."""
    shown = [candidate for candidate in candidates if candidate.status == "shown"]
    if shown:
        last = shown[-1]
        assert last.result is not None
        claim = last.result.reason.partition(": ")[2]
        for guard in guards:
            row = guard.row(last.name)
            claim += "" if row is None else f"; {guard.name}: {row.reason.partition(': ')[2]}"
        saved = f"{100 * last.params_saved:.1f} % fewer LoRA parameters"
        if plan.changes:
            return (
                f"Exploratory: {last.words} would be the smallest candidate within the margin, but the plan was"
                f" changed after the first answers: {saved}, {claim}"
            )
        return f"{last.words.capitalize()} is the smallest candidate shown to stay within the margin: {saved}, {claim}"
    first = next(candidate for candidate in candidates if candidate.result is not None)
    assert first.result is not None
    reason = reports.refusal_of(guards, first)
    if first.status == "worse":
        return f"No candidate is within the margin. {first.words.capitalize()}, the first tested, is {reason}"
    if first.status == "not evaluated":
        return f"No result: {first.words} {reason}"
    return f"No candidate is shown to stay within the margin. {first.needs}"


def needs_of(row: EvaluatedAdapter, planned: ShrinkPlan | PlannedSet, candidate: reports.Candidate) -> str:
    """Return the drop that is not ruled out for a candidate, and the examples needed for the planned margin."""
    subject = candidate.words.capitalize()
    subject += f" on {planned.name}" if isinstance(planned, PlannedSet) else ""
    if row.bounds is None:
        return f"{subject} cannot be tested with a single example"
    needs = examples_needed(row, planned.compares)
    if -row.bounds.low < planned.margin:  # ruled out, but by too few examples for a grade
        return f"{subject} is {row.reason}; {needs}"
    article = "an" if planned.compares == "nll" else "a"
    drop, margin = (
        margin_text(size, planned.compares) for size in (max(0.0, -row.bounds.low), planned.margin)
    )
    return (
        f"{subject} is inconclusive: with {row.n:,} examples, {article} {CHANGES[planned.compares]} of up to {drop}"
        f" cannot be ruled out (margin {margin}); {needs}{row.look.why_early if row.look else ''}"
    )
