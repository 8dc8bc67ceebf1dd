"""Texts with their labels from a user's own files (JSONL, CSV, TSV): `text`, `label`, and perhaps `text_pair`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gradience.reports.bench_plan import Role
from gradience.tasks.base import ClassificationTask, LabelScoring
from gradience.tasks.examples import LabelledExample
from gradience.tasks.labelled import Columns, check_labels, labelled, pair_id, read
from gradience.tasks.labelled import label_names as names_in
from gradience.tasks.metrics import Metric
from gradience.tasks.rows import Row
from gradience.tasks.user_rows import Gathering, tables_of

PAIR = "text_pair"


def load(
    *,
    file: Path | None = None,
    train_file: Path | None = None,
    dev_file: Path | None = None,
    confirm_file: Path | None = None,
    dev: Annotated[int, Field(ge=0)] | None = None,
    label_names: Annotated[list[str], Field(min_length=2)] | None = None,
    metric: Metric = "accuracy",
) -> ClassificationTask:
    """Examples from one `file`, split by its texts, or from `train_file` and `confirm_file`.

    label_names: in the order of the head's outputs; by default the sorted labels of train.
    Other columns, and data sets on the hub: `text_classification`.
    Raises UsageError (`task-metric`), InputError (`task-label`), and as `tables_of` and `Gathering.examples` do.
    """
    tables = {
        role: replace(table, rows=list(table.rows))
        for role, table in tables_of(file, train=train_file, dev=dev_file, confirm=confirm_file).items()
    }
    rows = [row for table in tables.values() for row in table.rows]
    pair = PAIR if any(row.has(PAIR) for row in rows) else None
    labels: dict[str, int] = {}

    def about(row: Row) -> str:
        return "\n".join(row.text(column) for column in ("text", pair) if column)

    def make(row: Row, role: Role) -> Iterator[LabelledExample]:
        text, second = row.text("text"), row.text(pair) if pair else None
        yield LabelledExample(pair_id(text, second, exact=True), text, labels[row.place], role, second)

    gathering = Gathering("labels", about, make)
    gathering.check(tables)
    reads = [
        one for role, table in tables.items() for one in read(table, Columns("text", "label", pair), role)
    ]
    names = label_names or names_in(one for one in reads if one.role in (None, "train"))
    check_labels(names, metric, " and ".join(table.source for table in tables.values()))
    labels.update(
        (one.place, example.label) for one, example in zip(reads, labelled(reads, names), strict=True)
    )
    return ClassificationTask(
        name="classification",
        examples=gathering.examples(tables, dev),
        label_names=tuple(names),
        metric=metric,
        source={role or "all": table.source for role, table in tables.items()},
    )


def scoring(*, metric: Metric = "accuracy", **_: object) -> LabelScoring:
    """How labels are scored; of the options `metric` alone matters."""
    return LabelScoring(metric=metric)
