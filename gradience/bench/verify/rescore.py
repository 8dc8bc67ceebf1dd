"""Stored answers marked again: from the output to the answer in it, from the logits to the label. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from gradience.evaluate.choose import predictions_of
from gradience.evaluate.generate import decided
from gradience.files.records import (
    ChoiceRecord,
    ClassificationRecord,
    Evaluation,
    ExamplesRun,
    GenerationRecord,
    Record,
    ScoreRecord,
)
from gradience.tasks.base import AnswerScoring, ChoiceScoring, LabelScoring, Scoring


class Rescored(NamedTuple):
    """An evaluation as it is marked now."""

    evaluation: Evaluation[Any]
    changed: tuple[str, ...]
    """Identities of the examples whose record says something else."""


def rescored(evaluation: Evaluation[Any], rules: Scoring) -> Rescored:
    """Mark every answer again, as an evaluation would."""
    rows = tuple(_again(row, evaluation.run, rules) for row in evaluation.records)
    changed = tuple(row.id for row, before in zip(rows, evaluation.records, strict=True) if row is not before)
    return Rescored(Evaluation(evaluation.run, rows), changed)


def _again(row: Record, run: ExamplesRun, rules: Scoring) -> Record:
    if isinstance(row, ClassificationRecord) and isinstance(rules, LabelScoring) and row.logits:
        predicted = max(range(len(row.logits)), key=lambda place: row.logits[place])  # the first of equals
        return _with(row, predicted=predicted, correct=predicted == row.label)
    if isinstance(row, ChoiceRecord) and isinstance(rules, ChoiceScoring):
        predictions = predictions_of(row.loglikelihoods, row.characters)
        predicted = predictions[rules.choose_by]
        return _with(row, predictions=predictions, predicted=predicted, correct=predicted == row.label)
    if isinstance(row, GenerationRecord) and isinstance(rules, AnswerScoring):
        verdict = (
            decided(row.output, row.answer, rules.filters, rules.same)
            if rules.decide is None
            else rules.decide(row.id, [row.output])
        )
        extracted = next(iter(verdict.answers.values()), None)
        return _with(row, answers=dict(verdict.answers), extracted=extracted, correct=verdict.correct)
    return row


def _with(row: Record, **fields: Any) -> Record:
    """The record with these fields; itself where it has them."""
    same = all(getattr(row, name) == value for name, value in fields.items())
    return row if same else replace(row, **fields)


def repeated(records: Iterable[Record]) -> list[str]:
    """Return the identities that more than one record has."""
    seen: set[str] = set()
    return [row.id for row in records if row.id in seen or seen.add(row.id)]  # type: ignore[func-returns-value]


def gold_of(row: Record) -> tuple[str, str, str]:
    """Return what a record says of the example itself: identity, digest of the text, and the gold answer."""
    if isinstance(row, ClassificationRecord):
        return row.id, row.text_sha256, str(row.label)
    if isinstance(row, ChoiceRecord):
        return row.id, row.prompt_sha256, f"{row.choices_sha256} {row.label}"
    if isinstance(row, ScoreRecord):
        return row.id, row.prompt_sha256, row.response_sha256
    return row.id, row.prompt_sha256, row.answer
