"""Texts with their labels from a user's own files (JSONL, CSV, TSV): `text`, `label`, and perhaps `text_pair`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from gradience.errors import InputError, UsageError
from gradience.reports.bench_plan import Role
from gradience.tasks.base import ClassificationTask, LabelScoring
from gradience.tasks.examples import LabeledExample
from gradience.tasks.labeled import Labels, pair_id, texts_of, word_of
from gradience.tasks.metrics import Metric
from gradience.tasks.row import Row
from gradience.tasks.rows import gather, sources_of, tables_of


def load(
    *,
    file: Path | None = None,
    train_file: Path | None = None,
    dev_file: Path | None = None,
    confirm_file: Path | None = None,
    dev: Annotated[int, Field(ge=0)] | None = None,
    columns: dict[str, str] | None = None,
    label_names: Annotated[list[str], Field(min_length=2)] | None = None,
    metric: Metric = "accuracy",
) -> ClassificationTask:
    """Examples from one `file`, split by its texts, or from `train_file` and `confirm_file`.

    label_names: in the order of the head's outputs; by default the sorted labels of train.
    Raises UsageError (`task-metric`: f1 of more than two labels), InputError (`task-label`), and as `tables_of` and
    `gather` do.
    """
    tables = tables_of(file, train=train_file, dev=dev_file, confirm=confirm_file, columns=columns)
    labels = Labels(tables)
    names = label_names or labels.names()
    if len(set(names)) < max(2, len(names)):
        raise InputError(
            f"{' and '.join(sources_of(tables).values())}: its labels are {', '.join(names) or 'none'}",
            code="task-label",
            hint="check the label column and `label_names`: at least two different labels are needed",
        )
    if metric == "f1" and len(names) != 2:
        raise UsageError(
            f"f1 needs exactly two labels (it is computed for the second), but there are {len(names)}",
            code="task-metric",
            hint="use `metric: accuracy` or `metric: matthews`",
        )
    indices = labels.indices(names)

    def make(row: Row, role: Role) -> LabeledExample:
        text, second = texts_of(row)
        return LabeledExample(pair_id(text, second, exact=True), text, indices[word_of(row)], role, second)

    return ClassificationTask(
        name="classification",
        examples=gather(tables, "labels", lambda row: "\n".join(filter(None, texts_of(row))), make, dev),
        label_names=tuple(names),
        metric=metric,
        source=sources_of(tables),
    )


def scoring(*, metric: Metric = "accuracy", **_: object) -> LabelScoring:
    """Return the scoring rule for labels; it depends only on the option `metric`."""
    return LabelScoring(metric=metric)
