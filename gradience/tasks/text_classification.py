"""Texts to classify from a user's own files (CSV, TSV, JSONL) or from any data set on the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field

from gradience.artifacts.bench_plan import Role
from gradience.errors import InputError, UsageError
from gradience.tasks.base import ClassificationTask
from gradience.tasks.examples import prepare, with_dev
from gradience.tasks.labelled import Columns, labelled, read
from gradience.tasks.labelled import label_names as names_in
from gradience.tasks.metrics import Metric
from gradience.tasks.rows import Table, hub, local

Place = TypeVar("Place", Path, str)
"""A file, or a split of a data set."""


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
    """Examples from one `file`, from `train_file` and `confirm_file`, or from `dataset`; one of the three.

    Where one file (or one split) is all there is, the identities of the texts give the roles. Where there is a
    confirm file (or split) but none for dev, `dev` examples are held out of train (500; a fifth of train where
    that is less).
    label_names: in the order of their indices; by default what the data say, or the sorted labels of train.
    exact: texts that differ only in case, accents, punctuation or spacing are different texts.
    Raises UsageError (`task-files`, `task-metric`), InputError (`task-label`), and what `rows.local`,
    `rows.hub`, `labelled.read` and `examples.with_dev` raise.
    """
    if sum(given is not None for given in (file, train_file or dev_file or confirm_file, dataset)) != 1:
        raise _unclear("give exactly one of `file`, `train_file` with `confirm_file`, and `dataset`")
    tables: dict[Role | None, Table]
    if dataset is None:
        files = _by_role(file, {"confirm": confirm_file, "dev": dev_file, "train": train_file})
        tables = {role: local(path) for role, path in files.items()}
    else:
        alone = train_split if dev_split is None and confirm_split is None else None
        splits = _by_role(alone, {"confirm": confirm_split, "dev": dev_split, "train": train_split})
        tables = {
            role: hub(dataset, split, subset=subset, revision=revision) for role, split in splits.items()
        }
    columns = Columns(text_column, label_column, text_pair_column)
    rows = [row for role, table in tables.items() for row in read(table, columns, role)]
    known = [
        table.label_names[label_column] for table in tables.values() if label_column in table.label_names
    ]
    names = (
        label_names or next(iter(known), ()) or names_in(row for row in rows if row.role in (None, "train"))
    )
    _check(names, metric, " and ".join(table.source for table in tables.values()))
    examples = prepare(labelled(rows, names, exact=exact))
    return ClassificationTask(
        name="text_classification",
        examples=with_dev(examples, dev) if tables.keys() == {"confirm", "train"} else examples,
        label_names=tuple(names),
        metric=metric,
        source={role or "all": table.source for role, table in tables.items()},
    )


def _by_role(alone: Place | None, places: Mapping[Role, Place | None]) -> dict[Role | None, Place]:
    """What to read, in the order in which a text keeps its first role; under None what the identities split."""
    if alone is not None:
        return {None: alone}
    known: dict[Role | None, Place] = {role: place for role, place in places.items() if place is not None}
    if not {"confirm", "train"} <= known.keys():
        raise _unclear("give both a train and a confirm file or split; dev may be left out")
    return known


def _unclear(hint: str) -> UsageError:
    return UsageError(
        "it is unclear which data are for training and which for evaluation", code="task-files", hint=hint
    )


def _check(names: Sequence[str], metric: Metric, source: str) -> None:
    if len(set(names)) < max(2, len(names)):
        raise InputError(
            f"{source}: its labels are {', '.join(names) or 'none'}",
            code="task-label",
            hint="check `label_column` and `label_names`: two labels or more are needed, each once",
        )
    if metric == "f1" and len(names) != 2:
        raise UsageError(
            f"f1 needs exactly two labels (it is that of the second), and there are {len(names)}",
            code="task-metric",
            hint="use `metric: accuracy` or `metric: matthews`",
        )
