"""Records of the rows -> `EvaluationReport`. Counts come only from the records."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from statistics import fmean
from typing import TYPE_CHECKING, Any

from gradience.evaluate.inputs import EvaluateInputs
from gradience.evaluate.records import diverge
from gradience.files.records import Evaluation, ExamplesRun, ScoreRecord, count, first
from gradience.files.shared_names import path_text, sentence_text
from gradience.reports.base.graded import Bounds, LikelihoodEvidence, NextGrade, per_token
from gradience.reports.base.report import Stopwatch
from gradience.reports.evaluation import (
    BASE,
    CANDIDATE,
    REFERENCE,
    EvaluatedAdapter,
    EvaluationConditions,
    EvaluationReport,
    OutputChange,
    StopReason,
    TestedLook,
)
from gradience.statistics.groups import numbered
from gradience.tasks.base import GenerationTask
from gradience.words import counted, points

EXPLORATORY = "exploratory ({} after the first answers)"
SHOWN = "shown for these adapters: "
"""Start of the reason of a B."""

if TYPE_CHECKING:  # scipy is loaded where something is computed
    from gradience.evaluate.evaluator import AdapterAnswers, Answering
    from gradience.statistics.paired import Interval
    from gradience.statistics.pooled import Pooled
    from gradience.statistics.sequential import Look


def report_of(
    answering: Answering, rows: Sequence[AdapterAnswers], fingerprint_of_base: str, watch: Stopwatch
) -> EvaluationReport:
    """Return the report of the rows; the first one is the reference."""
    inputs = answering.inputs
    reference = rows[0].answers
    assert reference is not None
    engines = {row.scores.run.engine for row in rows if row.scores is not None} - {reference.run.engine}
    return EvaluationReport(
        base=path_text(inputs.model.name),
        task=inputs.task.name,
        source=source_of(inputs),
        role=inputs.role,
        examples=len(inputs.examples),
        examples_sha256=answering.data,
        looks=inputs.looks,
        groups=groups_in_order(inputs),
        grown_from=inputs.grown_from,
        margin=inputs.margin,
        by_agreement=inputs.by_agreement,
        first_margin=inputs.first_margin,
        conditions=conditions_of(reference.run, fingerprint_of_base, *engines),
        adapters=tuple(_graded(inputs, [row_of(inputs, rows[0], row) for row in rows])),
        notes=tuple(map(sentence_text, inputs.notes)),
        run=watch.run_info(),
    )


def source_of(inputs: EvaluateInputs) -> dict[str, str]:
    """Return the source of the examples."""
    return {key: sentence_text(value) for key, value in inputs.task.source.items()}


def groups_in_order(inputs: EvaluateInputs) -> tuple[int, ...] | None:
    """Return the group of each example, in their order; None if each is its own."""
    if not inputs.group_of or isinstance(
        inputs.examples, range
    ):  # of a recomputation only their number is known
        return None
    return numbered(inputs.group_of[row.id] for row in inputs.examples)


def conditions_of(
    run: ExamplesRun, fingerprint_of_base: str, divergence_engine: str | None = None
) -> EvaluationConditions:
    """Return everything that determines an answer, from the header of the reference's records."""
    names = EvaluationConditions.model_fields.keys() & ExamplesRun.model_fields.keys()
    return EvaluationConditions(
        **{name: getattr(run, name) for name in names},
        base_fingerprint=fingerprint_of_base,
        divergence_engine=divergence_engine,
    )


def row_of(inputs: EvaluateInputs, reference: AdapterAnswers, row: AdapterAnswers) -> EvaluatedAdapter:
    """Return everything about a row but its grade."""
    facts: dict[str, Any] = {"records": tuple(row.files)}
    if row.answers is not None:
        counts = count(row.answers.records)
        facts |= {"n": counts.n, "correct": counts.correct, "truncated": counts.truncated}
        if inputs.compares_nll:
            facts |= {"correct": None, "likelihood": LikelihoodEvidence.of(*_columns(row.answers))}
        if isinstance(inputs.task, GenerationTask):
            facts |= {"cut_off": counts.cut_off, "failed_extractions": counts.failed_extractions}
    if row.answers is not None and row is not reference:
        assert reference.answers is not None
        same = first(reference.answers, counts.n, row.answers.run if inputs.looks else None)
        facts |= _against(inputs, same, row.answers, row.scores)
    adapter, whole = row.adapter, inputs.reference.lora_params
    role = BASE if adapter is None else REFERENCE if row is reference else CANDIDATE
    if role == BASE and facts.get("look") is not None:
        facts["look"] = facts["look"].model_copy(update={"stopped": None})
    read = adapter if adapter is not None and adapter.ranks is not None else None  # None: a name on a server
    smallest, largest = (None, None) if read is None or read.ranks is None else read.ranks
    nothing = 0 if role == BASE else None
    return EvaluatedAdapter(
        name=row.file_name,
        role=role,
        path=None if adapter is None else path_text(adapter.given),
        sha256=None if read is None else read.identity.weights_sha256,
        config_sha256=None if read is None else read.identity.config_sha256,
        smallest_rank=smallest,
        largest_rank=largest,
        lora_params=read.lora_params if read else nothing,
        other_params=read.other_params if read else nothing,
        params_saved=1 - read.lora_params / whole if read and whole and role == CANDIDATE else None,
        grade="X" if row.error else None,
        reason=f"could not be evaluated: {sentence_text(row.error)}" if row.error else "",
        **facts,
    )


def _against(
    inputs: EvaluateInputs,
    reference: Evaluation[Any],
    answers: Evaluation[Any],
    scores: Evaluation[Any] | None,
) -> dict[str, Any]:
    """Return the fields that compare with the reference."""
    from gradience.statistics.pooled import pool
    from gradience.statistics.sequential import Look

    look = Look(inputs.looks, inputs.looks.index(len(answers.records)) + 1) if inputs.looks else None
    change = diverge(reference, answers)  # raises if they were not evaluated in the same way
    output = _change_of_scores(answers if inputs.compares_nll else scores, change.flips)
    facts: dict[str, Any] = {}
    if inputs.compares_nll:
        (before, tokens), (after, _) = _columns(reference), _columns(answers)
        facts["likelihood"] = LikelihoodEvidence.of(before, tokens, after)
        differences: Sequence[float] = per_token(before, tokens, after)
    else:
        if output is None and change.kl_per_example is not None and change.flips is not None:
            output = OutputChange(
                kl_per_example=change.kl_per_example,
                flipped_examples=change.flips,
                kl_per_token=change.kl_per_example,
            )
        facts["pairs"] = change.table
        pairs = zip(reference.records, answers.records, strict=True)
        differences = [after.correct - before.correct for before, after in pairs]
    facts["change"] = output
    if len(differences) < 2:
        return facts
    if inputs.by_agreement:
        return facts | _agreed(inputs, look, differences)
    groups = [inputs.group_of[row.id] for row in answers.records] if inputs.group_of else None
    return facts | _tested(inputs, look, pool([differences], groups))


def _agreed(inputs: EvaluateInputs, look: Look | None, differences: Sequence[float]) -> dict[str, Any]:
    """Return what `_tested` returns, by the exact bound of the share of changed answers, or of groups with one.

    The mean of any score of the answers' text between 0 and 1 changes by at most that share.
    """
    from scipy.stats import binom

    from gradience.statistics.paired import LEVEL, Interval, largest_share, most_changed, p_value

    units = [_groups_of_first(inputs, n) for n in (look.looks if look else (len(differences),))]
    seen, margin = units[: look.number if look else 1], float(inputs.margin)
    names = _group_of_each(inputs) if inputs.group_of else range(len(differences))
    changed = len({name for name, difference in zip(names, differences, strict=False) if difference})

    def interval(level: float) -> Interval:
        share = largest_share(changed, seen, level, units[-1])
        return Interval(-share, share)

    bounds = Bounds.of(interval(LEVEL), p_value(changed, seen, margin, units[-1]))
    if look is None:
        return {"bounds": bounds}
    nominal = float(binom.cdf(changed, seen[-1], margin))
    level = float(binom.cdf(most_changed(seen, margin, LEVEL, units[-1])[-1], seen[-1], margin))
    return _stopped(inputs, look, bounds, interval(LEVEL / 2), nominal, level=level)


def _tested(inputs: EvaluateInputs, look: Look | None, pooled: Pooled) -> dict[str, Any]:
    """Return the bounds, and the look with its repeated interval and the reason for stopping there."""
    margin = float(inputs.margin)
    not_worse, worse = pooled.p_value(margin), pooled.worse_p_value(margin)
    if look is None:
        return {"bounds": Bounds.of(pooled.interval(), not_worse)}
    bounds = Bounds.of(pooled.interval(confidence=look.confidence(0.90)), look.p_value(not_worse))
    return _stopped(inputs, look, bounds, pooled.interval(confidence=look.confidence(0.95)), not_worse, worse)


def _stopped(
    inputs: EvaluateInputs,
    look: Look,
    bounds: Bounds,
    interval: Interval,
    nominal: float,
    worse: float = 1.0,
    level: float | None = None,
) -> dict[str, Any]:
    """Return the bounds, and the look with the reason for stopping there.

    nominal, worse: p-values of the fixed tests at this look. level: of the fixed test, if it is not the look's own.
    """
    from gradience.statistics.paired import LEVEL
    from gradience.statistics.sequential import decide

    stopped: StopReason | None
    share = LEVEL / max(1, len(inputs.adapters) - 1)
    power, stopped = decide(
        look,
        (bounds.low, bounds.high),
        bounds.p_value,
        inputs.margin,
        nominal=nominal,
        worse=worse,
        level=share,
    )
    if stopped is None and look.looks[look.number] > (inputs.request.limit or look.looks[-1]):
        stopped = "limit"
    low, high = interval
    tested = TestedLook(
        number=look.number,
        nominal_level=look.nominal_level() if level is None else level,
        low=low,
        high=high,
        conditional_power=power,
        stopped=stopped,
    )
    return {"bounds": bounds, "look": tested}


def _columns(answers: Evaluation[Any]) -> tuple[Sequence[float], Sequence[int]]:
    """Return log-likelihood and tokens of each response."""
    return [row.loglikelihood for row in answers.records], [row.n_tokens for row in answers.records]


def _change_of_scores(scores: Evaluation[Any] | None, flipped: int | None) -> OutputChange | None:
    """Return KL and flips on the gold responses; None if the engine does not measure them.

    flipped: examples whose own output changes.
    """
    rows = [row for row in scores.records if isinstance(row, ScoreRecord)] if scores is not None else []
    values = [row.kl for row in rows if row.kl is not None]
    if not rows or len(values) < len(rows):
        return None
    return OutputChange(
        kl_per_example=fmean(values),
        flipped_examples=flipped,
        kl_per_token=sum(values) / sum(row.n_tokens for row in rows),
    )


# ---------------------------------------------------------------- grades


def _graded(inputs: EvaluateInputs, rows: Sequence[EvaluatedAdapter]) -> list[EvaluatedAdapter]:
    """Return the rows, the candidates with their grades: several claims from one experiment are adjusted."""
    from gradience.statistics.paired import holm_adjusted

    tested = {
        row.name: row.bounds.p_value for row in rows if row.role == CANDIDATE and row.bounds is not None
    }
    adjusted = holm_adjusted(tested)
    grades = [
        graded(inputs, row, adjusted[row.name], len(tested))
        if row.role == CANDIDATE and row.name in adjusted
        else row
        for row in rows
    ]
    if inputs.first_margin is not None:
        return [exploratory(row, "the margin was changed") for row in grades]
    if inputs.grown_from is not None:
        return [exploratory(row, "examples were added") for row in grades]
    return grades


def exploratory(row: EvaluatedAdapter, change: str = "the plan was changed") -> EvaluatedAdapter:
    """Return a row with at most grade C, because of a change after the first answers."""
    if row.grade != "B":
        return row
    claim = row.reason.partition(": ")[2]
    return row.model_copy(update={"grade": "C", "reason": f"{EXPLORATORY.format(change)}: {claim}"})


def graded(
    inputs: EvaluateInputs, row: EvaluatedAdapter, adjusted: float, family: int = 1
) -> EvaluatedAdapter:
    """Return a candidate's row with its grade. adjusted: its p-value, for the claims in `family` together."""
    from gradience.statistics.paired import FEWEST_GROUPS, pair_grade, too_few_groups

    bounds, margin = row.bounds, inputs.margin
    assert bounds is not None
    if row.likelihood is not None:
        measure, lost, gained = "NLL", "nats per token higher", "nats per token lower"
        allowed = f"{float(margin):g}"
    else:
        measure, lost, gained = "accuracy", "points lower", "points higher"
        allowed = f"{points(margin).removeprefix('+')} points"

    def size(value: float) -> str:
        return f"{value:.2g}" if row.likelihood is not None else points(value).removeprefix("+")

    if inputs.by_agreement:
        measure = "groups with a changed answer" if inputs.group_of else "changed answers"
        allowed, lost = f"{float(100 * margin):g} %", "%"
    worst = (
        f"at most {size(-bounds.low)} {lost}" if bounds.low < 0 else f"at least {size(bounds.low)} {gained}"
    )
    groups = None if row.likelihood is None or row.n is None else _groups_of_first(inputs, row.n)
    grade, needs = pair_grade(bounds.low, bounds.high, margin, adjusted, groups=groups), None
    if grade == "B":
        reason = f"{SHOWN}{measure} {worst} (one-sided 95 % bound, margin {allowed})"
    elif grade == "D":
        reason = (
            f"worse: {measure} at least {size(-bounds.high)} {lost} (one-sided 95 % bound, margin {allowed})"
        )
    else:
        reason = f"inconclusive: {measure} may be {worst.replace('at most', 'up to')} (margin {allowed})"
        if groups is not None and groups < FEWEST_GROUPS:
            reason = f"inconclusive: {too_few_groups(groups)}"
        elif pair_grade(bounds.low, bounds.high, margin, 0.0) == "B":
            reason = (
                f"inconclusive after adjustment for {counted(family, 'candidate')}: {measure} {worst}"
                f" (one-sided 95 % bound, margin {allowed})"
            )
        reason += "" if row.look is None else row.look.why_early
        independent = groups or (row.n if row.n is None else _groups_of_first(inputs, row.n))
        needs = _needs(row, margin, 0.05 / family, independent or 1)
    changes = {"grade": grade, "reason": reason, "adjusted_p": adjusted, "next_grade": needs}
    return EvaluatedAdapter(**{**dict(row), **changes})


def _groups_of_first(inputs: EvaluateInputs, n: int) -> int:
    """Return the number of independent groups among the first `n` examples."""
    if not inputs.group_of:
        return n
    return len(set(_group_of_each(inputs)[:n]))


def _group_of_each(inputs: EvaluateInputs) -> list[int]:
    """Return the group of each example, in their order."""
    recomputed = isinstance(inputs.examples, range)  # groups are then in the order of the examples
    ids = inputs.group_of if recomputed else [row.id for row in inputs.examples]
    return [inputs.group_of[name] for name in ids]


def _needs(row: EvaluatedAdapter, margin: Fraction, level: float, groups: int) -> NextGrade:
    """Return the number of examples that a B needs, always above the current number. groups: independent examples."""
    from gradience.statistics.power import Assumptions, discordance_range, examples_for_mean, variance_range

    allowed, numbers = float(margin), list[int | None]()
    if row.likelihood is not None:
        left, variance = allowed - max(row.likelihood.delta or 0.0, 0.0), (row.likelihood.spread or 0.0) ** 2
        ends = variance_range(variance, groups) if groups > 1 else (variance, variance)
        if left > 0:
            numbers = [examples_for_mean(value, left, level=level) for value in (variance, *ends)]
    elif row.pairs is not None:
        delta, seen = min(row.pairs.delta, 0.0), row.pairs.discordance
        numbers = [
            Assumptions(max(value, -delta), delta=delta, level=level).examples_needed(allowed)
            for value in (seen, *discordance_range(seen, groups))
        ]
    known = [max(number, (row.n or 0) + 1) for number in numbers if number is not None]
    if len(known) < 3:
        return NextGrade(grade="B", examples=None, seeds=None)
    return NextGrade(grade="B", examples=known[0], examples_range=(known[1], known[2]), seeds=None)
