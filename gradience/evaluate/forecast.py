"""Forecast an evaluation before any weight is loaded: its memory, the smallest margin that it can show, and its first
examples as the model sees them."""

from bisect import bisect_right
from fractions import Fraction
from statistics import fmean
from typing import Any

from gradience.errors import InputError
from gradience.evaluate.engines import engine
from gradience.evaluate.engines.base import SCORED_SHARE
from gradience.evaluate.evaluator import SCORED_AT_ONCE
from gradience.evaluate.inputs import EvaluateInputs
from gradience.evaluate.rows import texts_of
from gradience.files.shared_names import path_text, sentence_text
from gradience.models.tokenizers import encode_pair
from gradience.reports.evaluation import EvaluationForecast, ShownMargin
from gradience.reports.forecast import ScoredExample
from gradience.tasks.base import ChoiceTask, ClassificationTask, GenerationTask, LikelihoodTask, Task

DISCORDANCES = (0.0, 0.01, 0.03, 0.05, 0.1, 0.2)
"""Assumed discordances: from equal answers to a retrained adapter that differs on one example in five."""
CHANCE = 0.8
SHAPING = ("r", "target_modules", "rank_pattern", "use_dora", "layers_to_transform", "layers_pattern")
"""Adapter config fields that determine the amount of computation."""
AS_LONG = "The memory is for answers as long as the reference answers. Longer ones, up to `max_new_tokens`, need more."

SHOWN = 3
"""Number of examples in a preview."""


def margins_of(
    examples: int, margin: Fraction, claims: int, looks: tuple[int, ...] = ()
) -> tuple[ShownMargin, ...]:
    """Return the smallest margin that this number of `examples` can show, for several discordances.

    One of them is the largest discordance at which they can show `margin`, rounded down to a tenth of a percent.

    claims: candidates that share the error of 5 %; the smallest p-value must pass the strictest of Holm's levels.
    looks: planned looks; the last of them has less than the whole error.
    """
    from gradience.statistics.power import Assumptions
    from gradience.statistics.sequential import nominal_levels

    level = nominal_levels(looks or (examples,), 0.05 / max(1, claims))[-1]

    def smallest(discordance: float) -> float:
        return Assumptions(discordance, level=level).smallest_margin(examples, CHANCE)

    too_much = bisect_right(range(1001), float(margin), key=lambda tenth: smallest(tenth / 1000))
    shares = {*DISCORDANCES, max(0, too_much - 1) / 1000}
    return tuple(ShownMargin(discordance=share, margin=smallest(share)) for share in sorted(shares))


def forecast_evaluation(inputs: EvaluateInputs) -> EvaluationForecast:
    """Return the forecast of an evaluation, with the first examples for a preview.

    Only the base's config.json and tokenizer are read.
    """
    request, decides = inputs.request, inputs.compares == "correct"
    memory = _memory(inputs) if engine(request.engine).local else _unknown("the engine computes elsewhere.")
    notes = map(sentence_text, inputs.notes)
    claims, previewed = len(inputs.adapters) - 1, inputs.examples[: SHOWN if request.preview else 0]
    return EvaluationForecast(
        base=path_text(inputs.model.name),
        task=inputs.task.name,
        adapters=tuple(adapter.name for adapter in inputs.adapters),
        with_base=request.with_base,
        examples=len(inputs.examples),
        looks=inputs.looks,
        guard=inputs.request.is_guard,
        margin=inputs.margin,
        margins=margins_of(len(inputs.examples), inputs.margin, claims, inputs.looks) if decides else (),
        adapter_bytes=inputs.adapter_bytes,
        scored_by=inputs.task.scored_by if previewed else "",
        scored=tuple(scored_example(inputs.task, row, inputs.tokenizer) for row in previewed),
        **{**memory, "notes": (*notes, *memory["notes"])},
    )


def _unknown(why: str) -> dict[str, Any]:
    """Return a forecast's memory fields for unknown memory."""
    sizes = dict.fromkeys(("weights_bytes", "batch_bytes", "process_bytes"))
    return {**sizes, "assumptions": (f"No memory estimate: {why}",), "notes": ()}


def _memory(inputs: EvaluateInputs) -> dict[str, Any]:
    """Return a forecast's memory fields."""
    from transformers import AutoConfig

    from gradience.evaluate.checks import (
        answering_bytes,
        memory,
        memory_of,
        network_on_meta,
        process_bytes,
        weights_bytes_of,
    )
    from gradience.models.load import dtype_of, from_folder, quiet
    from gradience.models.locate import locate

    request = inputs.request
    shape = from_folder(AutoConfig, inputs.model.name, locate(inputs.model, ("config.json",)).folder)
    dtype = dtype_of(inputs.model, shape, request.device)
    labels = len(inputs.task.label_names) if isinstance(inputs.task, ClassificationTask) else None
    rows, prompt, new = _lengths(inputs)
    scored = min(rows, SCORED_AT_ONCE) if request.batch_size else max(1, rows // SCORED_SHARE)
    fields = inputs.reference.fields
    lora = {key: fields[key] for key in SHAPING if fields.get(key)}
    with quiet():
        try:
            base, network = network_on_meta(shape, lora, dtype=dtype, labels=labels)
            weights = weights_bytes_of(base, packed=inputs.model.quantization is not None)
            batch = answering_bytes(
                shape,
                network,
                rows=rows,
                prompt=prompt,
                new=0 if inputs.compares_nll else new,
                scored=scored * new,
                itemsize=dtype.itemsize,
            )
        except InputError as error:
            if error.code != "lora-misfit":
                raise
            return _unknown(sentence_text(str(error)))
        except (RuntimeError, ValueError) as error:  # shapes of config.json that do not fit each other
            return _unknown(sentence_text(str(error).splitlines()[0]))
    free, whole = memory_of(request.device)
    loaded = weights + inputs.adapter_bytes  # if this is too much, an earlier note says so
    return {
        "weights_bytes": weights,
        "batch_bytes": batch,
        "process_bytes": process_bytes(request.device),
        "assumptions": (AS_LONG,) if isinstance(inputs.task, GenerationTask) else (),
        "notes": tuple(memory(loaded + batch, weights, free, whole)) if loaded <= free else (),
    }


def _lengths(inputs: EvaluateInputs) -> tuple[int, int, int]:
    """Return (rows per batch, tokens of a padded prompt or text, generated tokens).

    Rows per batch: the requested number, or rows of mean length that fit into the first budget.
    """
    from gradience.evaluate.checks import longest_of, sorted_longest
    from gradience.models.tokenizers import token_counts

    request = inputs.request
    responses, most = [0], 0
    if inputs.classifies:
        counts = token_counts(inputs.tokenizer, [texts_of(row) for row in inputs.examples])
        prompts = [min(inputs.max_length, count) for count in counts]
    else:
        pairs = [encode_pair(inputs.tokenizer, row.prompt, row.response) for row in inputs.examples]
        prompts, responses = [len(before) for before, _ in pairs], [len(after) for _, after in pairs]
        most = max(responses)
        if isinstance(inputs.task, GenerationTask):
            most = request.max_new_tokens or inputs.task.max_new_tokens
    budget = engine(request.engine).batch_tokens(request.device)
    fit = request.batch_size or max(1, budget // max(1, round(fmean(prompts)) + most))
    rows = min(fit, len(inputs.examples))
    new = min(most, round(longest_of(responses, rows))) if most else 0
    return rows, round(sorted_longest(prompts, rows)), new


# ---------------------------------------------------------------- preview


def scored_example(task: Task, example: Any, tokenizer: Any) -> ScoredExample:
    """Return an example as the model sees it, with its gold answer. tokenizer: None if it is not available."""
    if isinstance(task, ClassificationTask):
        pair = texts_of(example)
        text = "\n".join(pair) if tokenizer is None else tokenizer.decode(tokenizer(*pair)["input_ids"])
        return ScoredExample(id=example.id, prompt=text, scored=task.label_names[example.label])
    prompt, response = example.prompt, example.response
    if tokenizer is not None:
        before, after = encode_pair(tokenizer, prompt, response)
        ends = not (isinstance(task, ChoiceTask) or (isinstance(task, LikelihoodTask) and task.rolling))
        prompt, response = tokenizer.decode(before), tokenizer.decode(after if ends else after[:-1])
    if isinstance(task, ChoiceTask):
        marks = [f"*{text}" if place == example.label else text for place, text in enumerate(example.choices)]
        return ScoredExample(id=example.id, prompt=prompt, response=response, scored=" | ".join(marks))
    answers: dict[str, Any] = {}
    if isinstance(task, GenerationTask):
        decision = task.decision(example.id, example.response, example.answer)
        answers = {"extracted": decision.extracted, "correct": decision.correct}
    return ScoredExample(id=example.id, prompt=prompt, response=response, scored=example.answer, **answers)
