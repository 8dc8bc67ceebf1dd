"""Records of the rows -> `EvaluationReport`. Counts come from the records alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from gradience.evaluate.answering import Answering, Answers
from gradience.evaluate.comparison import diverge
from gradience.evaluate.inputs import BASE_ROW, Inputs
from gradience.evaluate.likelihoods import against, graded_likelihood, likelihoods_of
from gradience.files.records import Evaluation, ExamplesRun, ScoreRecord, count
from gradience.files.shared_names import path_text, sentence_text
from gradience.reports.base.graded import Bounds, NextGrade
from gradience.reports.base.run import Stopwatch
from gradience.reports.evaluation import (
    BASE,
    CANDIDATE,
    REFERENCE,
    EvaluatedAdapter,
    EvaluationConditions,
    EvaluationReport,
    OutputChange,
)
from gradience.tasks.base import GenerationTask
from gradience.words import counted, points


def report_of(
    answering: Answering, rows: Sequence[Answers], fingerprint_of_base: str, watch: Stopwatch
) -> EvaluationReport:
    """Return what the rows show, the first of them being the reference."""
    inputs = answering.inputs
    first = rows[0].answers
    assert first is not None
    return EvaluationReport(
        base=path_text(inputs.model.name),
        task=inputs.task.name,
        source={key: sentence_text(value) for key, value in inputs.task.source.items()},
        role=inputs.role,
        examples=len(inputs.examples),
        examples_sha256=answering.data,
        margin=inputs.margin,
        conditions=conditions_of(first.run, fingerprint_of_base),
        adapters=tuple(_graded(inputs, [row_of(inputs, rows[0], row) for row in rows])),
        notes=tuple(map(sentence_text, inputs.notes)),
        run=watch.run_info(),
    )


def conditions_of(run: ExamplesRun, fingerprint_of_base: str) -> EvaluationConditions:
    """Return what decides an answer, from the header of the reference's records."""
    names = EvaluationConditions.model_fields.keys() - {"base_fingerprint"}
    return EvaluationConditions(
        **{name: getattr(run, name) for name in names}, base_fingerprint=fingerprint_of_base
    )


def row_of(inputs: Inputs, reference: Answers, row: Answers) -> EvaluatedAdapter:
    """Return everything about a row but its grade."""
    facts: dict[str, Any] = {"records": tuple(row.files)}
    if row.answers is not None:
        counts = count(row.answers.records)
        facts |= {"n": counts.n, "correct": counts.correct, "truncated": counts.truncated}
        if inputs.compares_nll:
            facts |= {"correct": None, "likelihood": likelihoods_of(row.answers)}
        if isinstance(inputs.task, GenerationTask):
            facts |= {"cut_off": counts.cut_off, "failed_extractions": counts.failed_extractions}
    if row.answers is not None and row is not reference:
        assert reference.answers is not None
        facts |= _against(inputs, reference.answers, row)
    if row.adapter is None:
        return EvaluatedAdapter(
            name=BASE_ROW, role=BASE, path=None, sha256=None, config_sha256=None, smallest_rank=None,
            largest_rank=None, lora_params=0, other_params=0, params_saved=None, **facts,
        )  # fmt: skip
    adapter, whole = row.adapter, inputs.reference.lora_params
    is_reference = row is reference
    return EvaluatedAdapter(
        name=adapter.name,
        role=REFERENCE if is_reference else CANDIDATE,
        path=path_text(adapter.given),
        sha256=adapter.identity.weights_sha256,
        config_sha256=adapter.identity.config_sha256,
        smallest_rank=adapter.ranks[0],
        largest_rank=adapter.ranks[1],
        lora_params=adapter.lora_params,
        other_params=adapter.other_params,
        params_saved=None if is_reference or not whole else 1 - adapter.lora_params / whole,
        grade="X" if row.error else None,
        reason=f"could not be evaluated: {sentence_text(row.error)}" if row.error else "",
        **facts,
    )


def _against(inputs: Inputs, reference: Evaluation[Any], row: Answers) -> dict[str, Any]:
    """The fields that compare with the reference."""
    from gradience.statistics.paired import tango, tango_p_value

    assert row.answers is not None
    change = diverge(reference, row.answers)  # refuses what was not evaluated in the same way
    scores = row.answers if inputs.likelihoods else row.scores
    output = _change_of_scores(scores, change.flips) if scores is not None else None
    if inputs.compares_nll:
        return {**against(reference, row.answers, inputs.margin), "change": output}
    if output is None and change.kl_mean is not None and change.flips is not None:
        output = OutputChange(
            kl_mean=change.kl_mean,
            kl_standard_error=change.kl_standard_error,
            flips=change.flips,
            flipped_examples=change.flips,
            kl_per_token=change.kl_mean,
        )
    return {
        "pairs": change.table,
        "bounds": Bounds.of(tango(change.table, 0.90), tango_p_value(change.table, float(inputs.margin))),
        "change": output,
    }


def _change_of_scores(scores: Evaluation[Any], flipped: int | None) -> OutputChange | None:
    """Return KL and flips on the gold responses; None if the engine does not measure them.

    flipped: examples whose own output changes.
    """
    rows = [row for row in scores.records if isinstance(row, ScoreRecord)]
    values = [row.kl for row in rows if row.kl is not None]
    flips = [row.flips for row in rows if row.flips is not None]
    if not rows or len(values) < len(rows) or len(flips) < len(rows):
        return None
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return OutputChange(
        kl_mean=fmean(values),
        kl_standard_error=error,
        flips=sum(flips),
        flipped_examples=flipped,
        kl_per_token=sum(values) / sum(row.n_tokens for row in rows),
    )


# ---------------------------------------------------------------- grades


def _graded(inputs: Inputs, rows: Sequence[EvaluatedAdapter]) -> list[EvaluatedAdapter]:
    """The rows, the candidates among them with their grades: several claims from one experiment are adjusted."""
    from gradience.statistics.paired import holm

    tested = [row for row in rows if row.role == CANDIDATE and row.bounds is not None]
    adjusted = dict(
        zip(
            [row.name for row in tested],
            holm([row.bounds.p_value for row in tested if row.bounds is not None]),
            strict=True,
        )
    )
    return [
        graded(inputs, row, adjusted[row.name], len(tested))
        if row.role == CANDIDATE and row.name in adjusted
        else row
        for row in rows
    ]


def graded(inputs: Inputs, row: EvaluatedAdapter, adjusted: float, family: int = 1) -> EvaluatedAdapter:
    """Return a candidate's row with its grade. adjusted: its p-value, for the claims in `family` together."""
    from gradience.statistics.paired import pair_grade
    from gradience.statistics.power import examples_needed

    if row.likelihood is not None:
        return graded_likelihood(row, inputs.margin, adjusted, family)
    pairs, bounds, margin = row.pairs, row.bounds, inputs.margin
    assert pairs is not None
    assert bounds is not None
    allowed = f"(margin {points(margin).removeprefix('+')} points)"
    grade = pair_grade(bounds.low, bounds.high, margin, adjusted)
    needs = None
    if grade == "B":
        reason = f"supported for these runs: with 95 % confidence {_at_worst(bounds.low)} {allowed}"
    elif grade == "D":
        least = points(-bounds.high).removeprefix("+")
        reason = f"inferior: with 95 % confidence at least {least} points fewer correct {allowed}"
    else:
        reason = f"neither shown: it may have {_at_worst(bounds.low).removeprefix('at most ')} {allowed}"
        if pair_grade(bounds.low, bounds.high, margin, 0.0) == "B":
            several = counted(family, "candidate")
            reason = f"not shown after adjustment for {several}: {_at_worst(bounds.low)} {allowed}"
        needed = examples_needed(
            pairs.discordance, float(margin), delta=min(pairs.delta, 0.0), level=0.05 / family
        )
        # One that lies between: what it needs is never less than what it has.
        examples = None if needed is None else max(needed, pairs.n + 1)
        needs = NextGrade(grade="B", examples=examples, seeds=None)
    changes = {"grade": grade, "reason": reason, "adjusted_p": adjusted, "next_grade": needs}
    return EvaluatedAdapter(**{**dict(row), **changes})


def _at_worst(low: float) -> str:
    size = points(abs(low)).removeprefix("+")
    return f"at most {size} points fewer correct" if low < 0 else f"at least {size} points more correct"
