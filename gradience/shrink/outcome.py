"""Build the `ShrinkReport` from the evaluated candidates, with its sentences. Pure."""

from collections.abc import Sequence

from gradience.evaluate.inputs import EvaluateInputs
from gradience.evaluate.outcome import conditions_of, exploratory, row_of, source_of
from gradience.files.shared_names import path_text, sentence_text
from gradience.reports.base.run import Stopwatch
from gradience.reports.evaluation import EvaluatedAdapter, examples_needed
from gradience.reports.shrink import (
    CandidateStatus,
    GuardOutcome,
    RewriteControl,
    ShrinkCandidate,
    ShrinkPlan,
    ShrinkReport,
    TestedStatus,
    refusal_of,
)
from gradience.shrink.search import GuardResults, TaskResults, TestedCandidate

STATUSES: dict[str | None, TestedStatus] = {
    None: "inconclusive",  # a single example: no interval for its likelihood
    "B": "shown",
    "C": "inconclusive",
    "D": "worse",
    "X": "not evaluated",
}
"""Grade -> status of a candidate."""


def report_of(
    inputs: EvaluateInputs,
    plan: ShrinkPlan,
    plan_sha256: str,
    fingerprint_of_base: str,
    results: TaskResults,
    watch: Stopwatch,
    guards: Sequence[GuardResults] = (),
) -> ShrinkReport:
    """Return the report of a search."""
    assert results.reference.answers is not None
    outcomes = tuple(_guard_outcome(plan, guard) for guard in guards)
    candidates = candidates_of(inputs, plan, results, guards)
    rewritten = results.control
    control = RewriteControl(
        result=None if rewritten is None else row_of(inputs, results.reference, rewritten),
        reason=sentence_text(results.control_reason if rewritten is None else rewritten.error),
    )
    smallest = next((candidate for candidate in reversed(candidates) if candidate.status == "shown"), None)
    return ShrinkReport(
        base=path_text(inputs.model.name),
        task=inputs.task.name,
        source=source_of(inputs),
        plan=plan,
        plan_sha256=plan_sha256,
        conditions=conditions_of(results.reference.answers.run, fingerprint_of_base),
        reference=row_of(inputs, results.reference, results.reference),
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


def _guard_outcome(plan: ShrinkPlan, guard: GuardResults) -> GuardOutcome:
    rows = [each.row for each in guard.tested]
    return GuardOutcome(
        name=guard.inputs.name,
        source=source_of(guard.inputs),
        reference=row_of(guard.inputs, guard.reference, guard.reference),
        results=tuple(map(exploratory, rows) if plan.changes else rows),
    )


def deciding(
    plan: ShrinkPlan, outcome: TestedCandidate, guards: Sequence[GuardResults]
) -> tuple[EvaluatedAdapter | None, ShrinkPlan, str]:
    """Return a candidate's deciding row, the plan of its data set, and the candidate's name for a sentence.

    The first row that is not shown decides. It is None if a larger candidate failed on an earlier data set.
    """
    words = outcome.candidate.words.capitalize()
    if STATUSES[outcome.row.grade] == "shown":
        for number, planned in enumerate(plan.guards):
            tested = guards[number].tested if number < len(guards) else ()
            row = next((each.row for each in tested if each.candidate == outcome.candidate), None)
            if row is None or STATUSES[row.grade] != "shown":
                return row, plan.on(planned), f"{words} on {planned.name}"
    return outcome.row, plan, words


def candidates_of(
    inputs: EvaluateInputs,
    plan: ShrinkPlan,
    results: TaskResults,
    guards: Sequence[GuardResults] = (),
) -> tuple[ShrinkCandidate, ...]:
    """Return every planned candidate with its outcome."""
    tested = {outcome.candidate.name: outcome for outcome in results.tested}
    rows = []
    for candidate in plan.candidates:
        outcome = tested.get(candidate.name)
        status: CandidateStatus = "not tested"
        needs = ""
        if outcome is not None:
            row, on_set, words = deciding(plan, outcome, guards)
            if row is not None:
                status = STATUSES[row.grade]
                needs = needs_of(row, on_set, words) if status == "inconclusive" else ""
        rows.append(
            ShrinkCandidate(
                **candidate.model_dump(
                    include={"name", "kind", "rank", "lora_params", "params_saved", "predicted_kl_per_token"}
                ),
                status=status,
                result=None if outcome is None else exploratory(outcome.row) if plan.changes else outcome.row,
                needs=needs,
            )
        )
    return tuple(rows)


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


def needs_of(row: EvaluatedAdapter, plan: ShrinkPlan, candidate: str) -> str:
    """Return the drop that is not ruled out for a candidate, and the examples needed for the planned margin."""
    if row.bounds is None:
        return f"{candidate} cannot be tested with a single example"
    needs = examples_needed(row, plan.compares)
    if -row.bounds.low < plan.margin:  # ruled out, but by too few examples for a grade
        return f"{candidate} is {row.reason}; {needs}"
    measure = {"nll": "an NLL increase", "agreement": "a share of changed answers"}.get(
        plan.compares, "a drop"
    )
    drop, margin = plan.drop_text(max(0.0, -row.bounds.low)), plan.drop_text(plan.margin)
    return (
        f"{candidate} is inconclusive: with {row.n:,} examples, {measure} of up to {drop} cannot be ruled out"
        f" (margin {margin}); {needs}{row.look.why_early if row.look else ''}"
    )
