"""Build the `ShrinkReport` from the evaluated candidates, with its sentences. Pure."""

from collections.abc import Sequence

from gradience.evaluate.outcome import conditions_of, exploratory, row_of, source_of
from gradience.files.shared_names import path_text, sentence_text
from gradience.reports.base.run import Stopwatch
from gradience.reports.bench_plan import PlannedSet, margin_text
from gradience.reports.evaluation import CHANGES, EvaluatedAdapter, examples_needed
from gradience.reports.shrink import (
    Candidate,
    CandidateStatus,
    GuardOutcome,
    RewriteControl,
    ShrinkCandidate,
    ShrinkPlan,
    ShrinkReport,
    TestedStatus,
    refusal_of,
)
from gradience.shrink.search import SearchResults, SetResults

STATUSES: dict[str | None, TestedStatus] = {
    None: "inconclusive",  # a single example: no interval for its likelihood
    "B": "shown",
    "C": "inconclusive",
    "D": "worse",
    "X": "not evaluated",
}
"""Grade -> status of a candidate."""


def report_of(plan: ShrinkPlan, plan_sha256: str, results: SearchResults, watch: Stopwatch) -> ShrinkReport:
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
    control = RewriteControl(
        result=None if rewritten is None else row_of(inputs, task.reference, rewritten),
        reason=sentence_text(results.control_reason if rewritten is None else rewritten.error),
    )
    smallest = next((candidate for candidate in reversed(candidates) if candidate.status == "shown"), None)
    return ShrinkReport(
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
        rows = [on_set.tested.get(candidate.name) for on_set in results]
        status: CandidateStatus = "not tested"
        needs = ""
        for planned, row in zip(plan.sets, (*rows, None), strict=False):
            status = "not tested" if row is None else STATUSES[row.grade]
            if row is not None and status == "inconclusive":
                needs = needs_of(row, planned, candidate)
            if status != "shown":
                break
        outcomes.append(
            ShrinkCandidate(
                **candidate.model_dump(exclude={"kept_energy"}),
                status=status,
                result=None if rows[0] is None else _as_planned(plan, rows[0]),
                needs=needs,
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
    reason = refusal_of(guards, first)
    if first.status == "worse":
        return f"No candidate is within the margin. {first.words.capitalize()}, the first tested, is {reason}"
    if first.status == "not evaluated":
        return f"No result: {first.words} {reason}"
    return f"No candidate is shown to stay within the margin. {first.needs}"


def needs_of(row: EvaluatedAdapter, planned: ShrinkPlan | PlannedSet, candidate: Candidate) -> str:
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
