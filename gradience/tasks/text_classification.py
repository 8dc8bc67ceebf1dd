"""Texts to classify from a user's own files (CSV, TSV, JSONL) or from any data set on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from gradience.reports.bench_plan import Role
from gradience.tasks.base import ClassificationTask, LabelScoring
from gradience.tasks.examples import prepare, with_dev
from gradience.tasks.labeled import Columns, Labels, check_labels, labeled
from gradience.tasks.metrics import Metric
from gradience.tasks.rows import RowTable, by_role, hub, sources_of, tables_of, unclear


def load(
    *,
    text_column: str,
    label_column: str,
    text_pair_column: str | None = None,
    label_names: Annotated[list[str], Field(min_length=2)] | None = None,
    file: Path | None = None,
    train_file: Path | None = None,
    dev_file: Path | None = None,
    confirm_file: Path | None = None,
    dataset: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
    train_split: str = "train",
    dev_split: str | None = None,
    confirm_split: str | None = None,
    dev: Annotated[int, Field(ge=0)] | None = None,
    exact: bool = False,
    metric: Metric = "accuracy",
) -> ClassificationTask:
    """Load examples from one `file`, from `train_file` and `confirm_file`, or from `dataset`; exactly one of
    the three.

    If there is only one file (or split), the identities of the texts assign the roles. If there is a confirm
    file (or split) but none for dev, `dev` examples are held out of train (default 500, at most a fifth of
    train).
    label_names: in the order of their indices; by default the names in the data, or the sorted labels of
    train.
    exact: texts that differ only in case, accents, punctuation or spacing are different texts.
    Raises UsageError (`task-files`, `task-metric`), InputError (`task-label`), and the errors of
    `rows.local`, `rows.hub`, `Labels` and `examples.with_dev`.
    """
    if sum(given is not None for given in (file, train_file or dev_file or confirm_file, dataset)) != 1:
        raise unclear("give exactly one of `file`, `train_file` with `confirm_file`, and `dataset`")
    tables: dict[Role | None, RowTable]
    if dataset is None:
        tables = tables_of(file, train=train_file, dev=dev_file, confirm=confirm_file)
    else:
        single = train_split if dev_split is None and confirm_split is None else None
        splits = by_role(single, {"confirm": confirm_split, "dev": dev_split, "train": train_split})
        tables = {
            role: hub(dataset, split, subset=subset, revision=revision) for role, split in splits.items()
        }
    columns = Columns(text_column, label_column, text_pair_column)
    labels = Labels(tables, columns)
    known = (table.label_names.get(label_column) for table in tables.values())
    names = label_names or next(filter(None, known), ()) or labels.names()
    check_labels(names, metric, tables)
    examples = prepare(labeled(tables, columns, labels.indices(names), exact=exact))
    return ClassificationTask(
        name="text_classification",
        examples=with_dev(examples, dev) if tables.keys() == {"confirm", "train"} else examples,
        label_names=tuple(names),
        metric=metric,
        source=sources_of(tables),
    )


def scoring(*, metric: Metric = "accuracy", **_: object) -> LabelScoring:
    """Return the scoring rule for labels; it depends only on the option `metric`."""
    return LabelScoring(metric=metric)
