"""Dev and test halves of a data set, for a search that chooses on one and is tested once on the other."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gradience.digests import in_first_half
from gradience.errors import UsageError
from gradience.evaluate.adapters import AdapterInput
from gradience.evaluate.inputs import EvaluateInputs, with_looks
from gradience.tasks.examples import LabeledExample


def split(inputs: EvaluateInputs) -> tuple[EvaluateInputs, EvaluateInputs]:
    """Return the dev rows and the test rows: a task's own if it has dev examples, else halves by their content.

    Groups stay whole. Raises UsageError (`too-few-rows`).
    """
    examples = inputs.examples
    dev = inputs.task.examples.of("dev", inputs.request.limit) if inputs.role == "confirm" else ()
    if not dev:
        keys: dict[int, str] = {}
        for row in examples:
            group = inputs.group_of.get(row.id, -1)
            keys[group] = min(keys.get(group, content_of(row)), content_of(row))
        held = [
            keys[inputs.group_of[row.id]] if row.id in inputs.group_of else content_of(row)
            for row in examples
        ]
        first = [in_first_half(f"dev\0{key}") for key in held]
        dev = tuple(row for row, is_dev in zip(examples, first, strict=True) if is_dev)
        examples = tuple(row for row, is_dev in zip(examples, first, strict=True) if not is_dev)
    if not dev or not examples:
        raise UsageError(
            f"{inputs.task.name}: {len(inputs.examples)} examples are too few for a dev half and a test half",
            code="too-few-rows",
            hint="give a few hundred examples",
        )
    request = replace(inputs.request, no_ledger=True, all_rows=True)
    return replace(inputs, examples=dev, looks=(), group_of={}, request=request), replace(
        inputs, examples=examples
    )


def content_of(row: Any) -> str:
    """Return the text of an example, by which rows are split."""
    if isinstance(row, LabeledExample):
        return f"{row.text}\0{row.text_pair or ''}"
    return f"{row.prompt}\0{row.response}"


def with_adapters(inputs: EvaluateInputs, adapters: Sequence[AdapterInput]) -> EvaluateInputs:
    """Return a data set with other adapters, and the looks of its examples."""
    return with_looks(replace(inputs, adapters=tuple(adapters)))
