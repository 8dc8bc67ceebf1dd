"""Texts with their labels from a user's own files (JSONL, CSV, TSV): `text`, `label`, and perhaps `text_pair`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from gradience.reports.bench_plan import Role
from gradience.tasks.base import ClassificationTask, LabelScoring
from gradience.tasks.examples import LabeledExample
from gradience.tasks.labeled import Columns, Labels, check_labels, pair_id
from gradience.tasks.metrics import Metric
from gradience.tasks.row import Row
from gradience.tasks.rows import checked, gather, sources_of, tables_of

PAIR = "text_pair"


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
    Other columns, and data sets on the hub: `text_classification`.
    Raises UsageError (`task-metric`), InputError (`task-label`), and as `tables_of` and `gather` do.
    """
    tables = tables_of(file, train=train_file, dev=dev_file, confirm=confirm_file, columns=columns)
    pairs = [row.has(PAIR) for table in tables.values() for row in checked(table, "labels")]
    named = Columns("text", "label", PAIR if any(pairs) else None)
    labels = Labels(tables, named)
    names = label_names or labels.names()
    check_labels(names, metric, tables)
    indices = labels.indices(names)

    def make(row: Row, role: Role) -> LabeledExample:
        text, second = named.texts(row)
        return LabeledExample(pair_id(text, second, exact=True), text, indices[named.word(row)], role, second)

    return ClassificationTask(
        name="classification",
        examples=gather(tables, "labels", lambda row: "\n".join(filter(None, named.texts(row))), make, dev),
        label_names=tuple(names),
        metric=metric,
        source=sources_of(tables),
    )


def scoring(*, metric: Metric = "accuracy", **_: object) -> LabelScoring:
    """Return the scoring rule for labels; it depends only on the option `metric`."""
    return LabelScoring(metric=metric)
