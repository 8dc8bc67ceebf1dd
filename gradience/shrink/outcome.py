"""What was evaluated -> `ShrinkReport`: which candidate is the smallest that is shown to hold, in words too. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gradience.evaluate.outcome import conditions_of, row_of
from gradience.files.shared_names import path_text, sentence_text
from gradience.reports.base.run import Stopwatch
from gradience.reports.evaluation import EvaluatedAdapter
from gradience.reports.shrink import (
    CandidateStatus,
    RewriteControl,
    ShrinkCandidate,
    ShrinkPlan,
    ShrinkReport,
    TestedStatus,
)
from gradience.shrink.distance import distance
from gradience.shrink.plan import Prepared
from gradience.shrink.walk import TestedCandidate, Walk

STATUSES: dict[str | None, TestedStatus] = {
    None: "inconclusive",  # a single row, of whose likelihood nothing is shown
    "B": "shown",
    "C": "inconclusive",
    "D": "worse",
    "X": "not evaluated",
}
"""Grade -> what it says of a candidate."""


def report_of(
    prepared: Prepared,
    plan_sha256: str,
    fingerprint_of_base: str,
    dev: Sequence[TestedCandidate],
    start: int,
    walked: Walk,
    watch: Stopwatch,
) -> ShrinkReport:
    """Return what the answers show."""
    inputs, plan = prepared.inputs, prepared.plan
    assert walked.reference.answers is not None
    candidates = candidates_of(plan, dev, start, walked)
    smallest = next((candidate for candidate in reversed(candidates) if candidate.status == "shown"), None)
    return ShrinkReport(
        base=path_text(inputs.model.name),
        task=inputs.task.name,
        source={key: sentence_text(value) for key, value in inputs.task.source.items()},
        plan=plan,
        plan_sha256=plan_sha256,
        conditions=conditions_of(walked.reference.answers.run, fingerprint_of_base),
        reference=row_of(inputs, walked.reference, walked.reference),
        control=_control(prepared, walked),
        start=plan.candidates[start].name,
        candidates=candidates,
        smallest=None if smallest is None else smallest.name,
        smallest_sha256=None if smallest is None or smallest.result is None else smallest.result.sha256,
        sentence=sentence_of(plan, candidates),
        notes=tuple(map(sentence_text, inputs.notes)),
        run=watch.run_info(),
    )


def candidates_of(
    plan: ShrinkPlan, dev: Sequence[TestedCandidate], start: int, walked: Walk
) -> tuple[ShrinkCandidate, ...]:
    """Return every planned candidate with what came of it."""
    on_dev = {tested.candidate.name: tested.row.pairs for tested in dev}
    tested = {each.candidate.name: each for each in walked.tested}
    rows = []
    for place, candidate in enumerate(plan.candidates):
        one = tested.get(candidate.name)
        status = _status(one, skipped=place < start)
        rows.append(
            ShrinkCandidate(
                **candidate.model_dump(
                    include={"name", "kind", "rank", "lora_params", "params_saved", "predicted_kl"}
                ),
                status=status,
                dev=on_dev.get(candidate.name),
                result=None if one is None else one.row,
                distance=None if one is None else distance(walked.reference, one.answers, walked.control),
                needs=""
                if one is None or status != "inconclusive"
                else needs_of(one.row, plan, candidate.words),
            )
        )
    return tuple(rows)


def _status(tested: TestedCandidate | None, *, skipped: bool) -> CandidateStatus:
    if tested is None:
        return "skipped" if skipped else "not tested"
    return STATUSES[tested.row.grade]


def _control(prepared: Prepared, walked: Walk) -> RewriteControl:
    if walked.control is None:
        return RewriteControl(result=None, distance=None, reason=sentence_text(walked.control_reason))
    return RewriteControl(
        result=row_of(prepared.inputs, walked.reference, walked.control),
        distance=distance(walked.reference, walked.control, None),
        reason=sentence_text(walked.control.error),
    )


# ---------------------------------------------------------------- words


def sentence_of(plan: ShrinkPlan, candidates: Sequence[ShrinkCandidate]) -> str:
    """Return the answer in one sentence."""
    shown = [candidate for candidate in candidates if candidate.status == "shown"]
    if shown:
        last = shown[-1]
        assert last.result is not None
        saved = f"{100 * last.params_saved:.1f} % of the LoRA parameters saved"
        return f"{last.words} is the smallest shown to hold: {saved}, {_claim(last.result)}"
    first = next(candidate for candidate in candidates if candidate.result is not None)
    assert first.result is not None
    if first.status == "worse":
        return f"no candidate holds: {first.words}, the first one tested, is {first.result.reason}"
    if first.status == "not evaluated":
        return f"nothing is shown: {first.words} {first.result.reason}"
    return f"no candidate is shown to hold: {first.needs}"


def _claim(row: EvaluatedAdapter) -> str:
    """The reason of a B behind its colon."""
    return row.reason.partition(": ")[2]


def needs_of(row: EvaluatedAdapter, plan: ShrinkPlan, candidate: str) -> str:
    """Return which margin these rows show of a candidate, and how many rows the margin of the plan would take."""
    if row.bounds is None:
        return f"of {candidate} a single row shows nothing"
    rows = row.next_grade.examples if row.next_grade else None
    seen = "its loss is what it seems" if _loses(row) else "both are equally good"
    needs = (
        f"that margin needs about {rows:,} rows, for a chance of 80 % if {seen}"
        if rows
        else "if its loss is what it seems, no number of rows shows that margin"
    )
    excluded, asked = plan.drop(max(0.0, -row.bounds.low)), plan.drop(plan.margin)
    return f"of {candidate} these {row.n:,} rows exclude a loss of {excluded}, not of {asked}; {needs}"


def _loses(row: EvaluatedAdapter) -> bool:
    if row.pairs is not None:
        return row.pairs.delta < 0
    return row.likelihood is not None and (row.likelihood.delta or 0.0) > 0
