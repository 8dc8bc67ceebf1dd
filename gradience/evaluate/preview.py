"""What an example looks like to the model, and what is scored in it; only the tokenizer is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gradience.evaluate.inputs import Inputs, read_inputs
from gradience.evaluate.settings import EvaluateSettings
from gradience.files.shared_names import path_text
from gradience.models.rendering import encode_apart, encode_pair
from gradience.reports.evaluation import EvaluationPreview
from gradience.reports.forecast import ScoredExample
from gradience.tasks.base import ChoiceTask, ClassificationTask, GenerationTask, LikelihoodTask, Task
from gradience.tasks.rows import first_rows

Encode = Callable[[Any, str, str], tuple[list[int], list[int]]]
SHOWN = 3
"""Examples of which a preview shows what is scored."""
PREVIEWED = 1000
"""Rows of a file that are read for them."""


def read_preview(request: EvaluateSettings) -> Inputs:
    """Read the inputs of a preview: of a file of examples only its first rows. Raises as `read_inputs` does."""
    if request.data is None:
        return read_inputs(request)
    limit = min(request.limit or PREVIEWED, PREVIEWED)
    with first_rows(PREVIEWED):
        inputs = read_inputs(replace(request, limit=limit))
    if len(inputs.examples) < PREVIEWED:
        return inputs
    return replace(inputs, notes=(*inputs.notes, f"a preview reads at most {PREVIEWED:,} examples of a file"))


def preview_evaluation(inputs: Inputs) -> EvaluationPreview:
    """Return the first examples of an evaluation as the model would see them, with what is scored in them."""
    encode = encode_apart if inputs.model.type == "seq2seq_lm" else encode_pair
    return EvaluationPreview(
        base=path_text(inputs.model.name),
        task=inputs.task.name,
        scored_by=inputs.task.scored_by,
        examples=len(inputs.examples),
        scored=tuple(
            scored_example(inputs.task, row, inputs.tokenizer, encode) for row in inputs.examples[:SHOWN]
        ),
        notes=inputs.notes,
    )


def scored_example(task: Task, example: Any, tokenizer: Any, encode: Encode = encode_pair) -> ScoredExample:
    """Return an example as the model sees it, and what its answer is compared with.

    tokenizer: None where it is not here. encode: into ids of prompt and response, the end token included.
    """
    if isinstance(task, ClassificationTask):
        text, _ = text_and_ids(example, tokenizer)
        return ScoredExample(id=example.id, prompt=text, scored=task.label_names[example.label])
    prompt, response = example.prompt, example.response
    if tokenizer is not None:
        before, after = encode(tokenizer, prompt, response)
        ends = task.end if isinstance(task, LikelihoodTask) else not isinstance(task, ChoiceTask)
        prompt, response = tokenizer.decode(before), tokenizer.decode(after if ends else after[:-1])
    if isinstance(task, ChoiceTask):
        marks = [f"*{text}" if place == example.label else text for place, text in enumerate(example.choices)]
        return ScoredExample(id=example.id, prompt=prompt, response=response, scored=" | ".join(marks))
    extracted = correct = None
    if isinstance(task, GenerationTask) and task.decide is not None:
        decision = task.decide(example.id, [example.response])
        extracted, correct = next(iter(decision.answers.values()), None), decision.correct
    elif isinstance(task, GenerationTask):
        deciding = next(iter(task.filters.values()), None)
        extracted = None if deciding is None else deciding(example.response)
        correct = extracted is not None and task.same(extracted, example.answer)
    return ScoredExample(
        id=example.id,
        prompt=prompt,
        response=response,
        scored=example.answer,
        extracted=extracted,
        correct=correct,
    )


def text_and_ids(example: Any, tokenizer: Any) -> tuple[str, list[int] | None]:
    """Return a text or a pair as the model sees it, and its ids where the tokenizer is here."""
    pair = (example.text, example.text_pair) if example.text_pair is not None else (example.text,)
    ids = list(tokenizer(*pair)["input_ids"]) if tokenizer is not None else None
    return (tokenizer.decode(ids) if ids is not None else "\n".join(pair)), ids
