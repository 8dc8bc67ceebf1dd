"""Seven of the tasks of GLUE: sentences, or pairs of them, to classify.

Wang et al., "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding", ICLR 2019.
The labels of its test splits are not public: the validation split confirms, and dev is held out of train.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gradience.errors import InputError, UsageError
from gradience.tasks.base import ClassificationTask, LabelScoring
from gradience.tasks.examples import prepare, with_dev
from gradience.tasks.labeled import Columns, Labels, labeled
from gradience.tasks.metrics import Metric
from gradience.tasks.rows import sources_of, train_and_confirm


@dataclass(frozen=True, slots=True)
class Subset:
    """Columns and labels as the hub's `nyu-mll/glue` has them; the metric as the paper has it."""

    columns: Columns
    label_names: tuple[str, ...]
    gate: str
    """Accuracy that a probe must reach before conclusions are drawn from it. Text, since it is exact."""
    confirms: int
    """Size of the hub's validation split, which confirms: for a forecast, before the data are read."""
    metric: Metric = "accuracy"
    exact: bool = False
    """Texts that differ only in punctuation are different examples: a comma may decide the label."""


_ENTAILS = ("entailment", "not_entailment")
_SENTENCES = Columns("sentence1", "label", "sentence2")

SUBSETS = {
    "cola": Subset(
        Columns("sentence", "label"), ("unacceptable", "acceptable"), "0.70", 1_043, "matthews", exact=True
    ),
    "mnli": Subset(
        Columns("premise", "label", "hypothesis"), ("entailment", "neutral", "contradiction"), "0.70", 9_815
    ),
    "mrpc": Subset(_SENTENCES, ("not_equivalent", "equivalent"), "0.75", 408, "f1"),
    "qnli": Subset(Columns("question", "label", "sentence"), _ENTAILS, "0.75", 5_463),
    "qqp": Subset(
        Columns("question1", "label", "question2"), ("not_duplicate", "duplicate"), "0.80", 40_430, "f1"
    ),
    "rte": Subset(_SENTENCES, _ENTAILS, "0.60", 277),
    "sst2": Subset(Columns("sentence", "label"), ("negative", "positive"), "0.75", 872),
}

REFUSED = {
    "stsb": "it rates similarity from 0 to 5: there is no right or wrong label to count",
    "wnli": "its 71 validation pairs are too few for a margin, and built from training sentences with the opposite"
    " label, so that a model that learns scores below chance",
    "ax": "it is a diagnostic set without training examples and without public labels",
    "mnlimatched": "it has no training split; `subset: mnli` confirms on the matched pairs",
    "mnlimismatched": "it has no training split; `subset: mnli` with `mismatched: true` confirms on these pairs",
}


def load(
    *,
    subset: str,
    dataset: str = "nyu-mll/glue",
    revision: str | None = None,
    train_file: Path | None = None,
    validation_file: Path | None = None,
    mismatched: bool = False,
    dev: Annotated[int, Field(ge=0)] | None = None,
) -> ClassificationTask:
    """Load a GLUE task from the hub, or from two files (CSV, TSV, JSONL) with the hub's columns.

    subset: cola, mnli, mrpc, qnli, qqp, rte or sst2. mismatched: confirm on MNLI's mismatched validation
    split.
    dev: number of training examples that become dev (default 500, at most a fifth of train).
    Raises UsageError (`glue-subset`), InputError (`task-label`), and the errors of `rows.train_and_confirm`,
    `Labels` and `examples.with_dev`.
    """
    kind = _subset(subset)
    if mismatched and subset != "mnli":
        raise UsageError("`mismatched` is for mnli only", code="glue-subset", hint="leave out `mismatched`")
    tables = train_and_confirm(
        train_file,
        validation_file,
        dataset=dataset,
        subset=subset,
        split="validation" + {"mnli": "_mismatched" if mismatched else "_matched"}.get(subset, ""),
        revision=revision,
    )
    for table in tables.values():
        if (names := table.label_names.get(kind.columns.label, kind.label_names)) != kind.label_names:
            raise InputError(
                f"{table.source}: its labels are {', '.join(names)}, not {', '.join(kind.label_names)}",
                code="task-label",
                hint="use the profile text_classification: this is not the GLUE task with that name",
            )
    indices = Labels(tables, kind.columns).indices(kind.label_names)
    return ClassificationTask(
        name=f"glue_{subset}",
        examples=with_dev(prepare(labeled(tables, kind.columns, indices, exact=kind.exact)), dev),
        label_names=kind.label_names,
        metric=kind.metric,
        source=sources_of(tables),
    )


def scoring(*, subset: str, **_: object) -> LabelScoring:
    """Return the scoring rule for labels; it depends only on the option `subset`. Raises UsageError
    (`glue-subset`).
    """
    return LabelScoring(metric=_subset(subset).metric)


def _subset(name: str) -> Subset:
    if name not in SUBSETS:
        plain = name.lower().replace("-", "").replace("_", "")
        raise UsageError(
            f"{name}: {REFUSED.get(plain, 'not a task of GLUE')}",
            code="glue-subset",
            hint=(f"did you mean `{plain}`? " if plain in SUBSETS else "")
            + f"set `subset` to one of {', '.join(SUBSETS)}",
        )
    return SUBSETS[name]
