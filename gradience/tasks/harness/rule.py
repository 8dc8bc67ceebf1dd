"""What is correct as lm-eval says it: its filters and its metric, on one document at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradience.errors import InputError, UsageError, did_you_mean
from gradience.tasks.base import Decision
from gradience.tasks.harness.library import SECONDS, harness

CORRECT = ("exact_match", "acc", "acc_norm", "acc_bytes", "acc_mutual_info", "em")
"""Metrics of lm-eval that are 0 or 1 for each document: the first of a task's that is one of them decides."""
NOTHING = "[invalid]"
"""What lm-eval's filters say where they find nothing."""


def metric_of(task: Any, profile: str, wanted: str | None) -> str:
    """Return the metric that decides. Raises UsageError (`task-option`) for one that the task does not have."""
    listed = list(task.aggregation())
    if wanted is not None and wanted not in listed and task.get_config("process_results") is None:
        raise UsageError(
            f"{profile} has no metric `{wanted}`",
            code="task-option",
            hint=did_you_mean(wanted, listed, f"its metrics are {', '.join(listed)}"),
        )
    return wanted or next((name for name in listed if name in CORRECT), listed[0] if listed else "acc")


def filters_of(task: Any, profile: str, wanted: str | None) -> tuple[str, ...]:
    """Return the names of its filters, the one that decides first. Raises UsageError (`task-option`)."""
    names = [ensemble.name for ensemble in task._filters]
    if wanted is not None and wanted not in names:
        raise UsageError(
            f"{profile} has no filter `{wanted}`",
            code="task-option",
            hint=did_you_mean(wanted, names, f"its filters are {', '.join(names)}"),
        )
    return tuple(sorted(names, key=lambda name: name != wanted))


@dataclass(frozen=True, slots=True)
class HarnessRule:
    """Decides about an example as lm-eval does about its document."""

    task: Any
    """lm-eval's."""
    profile: str
    metric: str
    """Whose value, 0 or 1, says whether a document is answered correctly."""
    names: tuple[str, ...]
    """Of the filters; the first decides."""
    documents: Mapping[str, Any]
    """Identity of an example -> lm-eval's requests of its document."""

    def __call__(self, example_id: str, responses: Sequence[Any]) -> Decision:
        """Filter the responses and apply the metric. Raises InputError.

        `task-metric`: it is neither 0 nor 1; `task-pattern`: a search takes too long, and what is correct must not
        depend on the clock.
        """
        requests = self.documents[example_id]
        instance = harness("lm_eval.api.instance").Instance
        answered = [
            instance(
                request_type=each.request_type,
                doc=each.doc,
                arguments=each.arguments,
                idx=each.idx,
                resps=[said],
            )
            for each, said in zip(requests, responses, strict=True)
        ]
        try:
            for ensemble in self.task._filters:
                ensemble.apply(answered)
            filtered = {name: [each.filtered_resps[name] for each in answered] for name in self.names}
            values = self.task.process_results(requests[0].doc, filtered[self.names[0]])
        except TimeoutError:
            raise InputError(
                f"{self.profile}: a pattern of its filters or metrics takes more than {SECONDS:g} s on one output",
                code="task-pattern",
                hint="write it without repeats inside repeats, such as `(a+)+`",
            ) from None
        answers = {name: _text(one[0]) for name, one in filtered.items()} if len(answered) == 1 else {}
        return Decision(self._correct(values), answers)

    def _correct(self, values: Mapping[str, Any]) -> bool:
        value = values.get(self.metric)
        if isinstance(value, bool | int | float) or hasattr(value, "item"):
            number = float(value)  # type: ignore[arg-type]
            if number in (0.0, 1.0):
                return bool(number)
        has = ", ".join(values) or "nothing"
        what = (
            f"is {value!r:.40}, neither 0 nor 1"
            if self.metric in values
            else f"is not among its values ({has})"
        )
        raise InputError(
            f"{self.profile}: the metric `{self.metric}` of a document {what}",
            code="task-metric",
            hint="choose a metric that says correct or not: --option metric=NAME",
        )


def _text(answer: Any) -> str | None:
    return None if answer is None or answer == NOTHING else str(answer)
