"""Seven of the tasks of GLUE: sentences, or pairs of them, to classify.

Wang et al., "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding", ICLR 2019.
The labels of its test splits are not public: the validation split confirms, and dev is held out of train.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gradience.errors import UsageError, did_you_mean
from gradience.tasks.base import ClassificationTask, LabelScoring
from gradience.tasks.classification import Labels, pair_id, texts_of, word_of
from gradience.tasks.examples import LabeledExample, prepare, with_dev
from gradience.tasks.metrics import Metric
from gradience.tasks.rows import sources_of, train_and_confirm


@dataclass(frozen=True, slots=True)
class Subset:
    """Labels as the hub's `nyu-mll/glue` has them; the metric as the paper has it."""

    label_names: tuple[str, ...]
    gate: str
    """Accuracy that a probe must reach before conclusions are drawn from it. Text, since it is exact."""
    confirms: int
    """Size of the hub's validation split, which confirms: for a forecast, before the data are read."""
    metric: Metric = "accuracy"
    exact: bool = False
    """Texts that differ only in punctuation are different examples: a comma may decide the label."""


_ENTAILS = ("entailment", "not_entailment")

SUBSETS = {
    "cola": Subset(("unacceptable", "acceptable"), "0.70", 1_043, "matthews", exact=True),
    "mnli": Subset(("entailment", "neutral", "contradiction"), "0.70", 9_815),
    "mrpc": Subset(("not_equivalent", "equivalent"), "0.75", 408, "f1"),
    "qnli": Subset(_ENTAILS, "0.75", 5_463),
    "qqp": Subset(("not_duplicate", "duplicate"), "0.80", 40_430, "f1"),
    "rte": Subset(_ENTAILS, "0.60", 277),
    "sst2": Subset(("negative", "positive"), "0.75", 872),
}


def load(
    *,
    subset: str,
    dataset: str = "nyu-mll/glue",
    revision: str | None = None,
    train_file: Path | None = None,
    validation_file: Path | None = None,
    dev: Annotated[int, Field(ge=0)] | None = None,
) -> ClassificationTask:
    """Load a GLUE task from the hub, or from two files (CSV, TSV, JSONL) with the hub's columns.

    subset: cola, mnli, mrpc, qnli, qqp, rte or sst2.
    dev: number of training examples that become dev (default 500, at most a fifth of train).
    Raises UsageError (`glue-subset`), InputError (`task-label`), and the errors of `rows.train_and_confirm`,
    `Labels` and `examples.with_dev`.
    """
    kind = _subset(subset)
    tables = train_and_confirm(
        train_file,
        validation_file,
        dataset=dataset,
        subset=subset,
        split="validation_matched" if subset == "mnli" else "validation",
        revision=revision,
    )
    indices = Labels(tables).indices(kind.label_names)

    def examples() -> Iterator[LabeledExample]:
        for role, table in tables.items():
            for row in table.read():
                text, second = texts_of(row)
                key = pair_id(text, second, exact=kind.exact)
                yield LabeledExample(key, text, indices[word_of(row)], role, second)

    return ClassificationTask(
        name=f"glue_{subset}",
        examples=with_dev(prepare(examples()), dev),
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
        hint = did_you_mean(name, SUBSETS, f"set `subset` to one of {', '.join(SUBSETS)}")
        raise UsageError(f"{name}: not a task of GLUE with labels to count", code="glue-subset", hint=hint)
    return SUBSETS[name]
