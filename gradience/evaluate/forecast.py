"""The memory that an evaluation takes and the margin that it can show, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from gradience.errors import InputError
from gradience.evaluate.batches import CPU_TOKENS, SCORED_SHARE, TRIED_TOKENS
from gradience.evaluate.budget import on_processor
from gradience.evaluate.checks import memory, memory_of
from gradience.evaluate.inputs import AdapterInput, Inputs
from gradience.files.shared_names import path_text, sentence_text
from gradience.reports.evaluation import EvaluationForecast, ShownMargin
from gradience.tasks.base import ChoiceTask, ClassificationTask, GenerationTask

DISCORDANCES = (0.01, 0.03, 0.05, 0.1, 0.2)
"""From a truncation that hardly differs to a retrained adapter of another answer in five."""
CHANCE = 0.8
SHAPING = ("r", "target_modules", "rank_pattern", "use_dora", "layers_to_transform", "layers_pattern")
"""What of an adapter's config decides how much is computed."""


def margins_of(examples: int, claims: int) -> tuple[ShownMargin, ...]:
    """Return the smallest margin that so many examples show, for several discordances.

    claims: candidates that share the error of 5 %; the smallest p-value must pass the strictest of Holm's levels.
    """
    from gradience.statistics.power import smallest_margin

    return tuple(
        ShownMargin(
            discordance=discordance,
            margin=smallest_margin(examples, discordance, level=0.05 / max(1, claims), wanted=CHANCE),
        )
        for discordance in DISCORDANCES
    )


def forecast_evaluation(inputs: Inputs) -> EvaluationForecast:
    """Return what `inputs` would do: only the base's config.json and its tokenizer are read."""
    examples, request = len(inputs.examples), inputs.request
    cost, assumptions = _cost(inputs)
    notes = (*inputs.notes, *(_memory(inputs, cost) if cost else ()))
    return EvaluationForecast(
        base=path_text(inputs.model.name),
        task=inputs.task.name,
        adapters=tuple(each.name for each in inputs.adapters),
        with_base=request.with_base,
        examples=examples,
        margin=inputs.margin,
        margins=() if inputs.compares_nll else margins_of(examples, len(inputs.adapters) - 1),
        weights_bytes=cost.weights if cost else None,
        adapter_bytes=inputs.adapter_bytes,
        batch_bytes=cost.batch if cost else None,
        process_bytes=cost.process if cost else None,
        assumptions=tuple(assumptions),
        notes=tuple(map(sentence_text, notes)),
    )


@dataclass(frozen=True, slots=True)
class _Cost:
    weights: int
    batch: int
    process: int


def _memory(inputs: Inputs, cost: _Cost) -> Iterator[str]:
    """What the batches add to what `checks.notes_of` has said of the weights."""
    free, whole = memory_of(inputs.request.device)
    alone = cost.weights + inputs.adapter_bytes
    if alone <= free:
        yield from memory(alone + cost.batch, cost.weights, free, whole)


def _cost(inputs: Inputs) -> tuple[_Cost | None, list[str]]:
    """Memory, and what it rests on."""
    if inputs.model.type == "seq2seq_lm":
        return None, ["No memory estimate: it is not counted for encoder–decoder models."]
    from transformers import AutoConfig

    from gradience.evaluate.cost import answering_bytes, process_bytes, weights_bytes_of
    from gradience.evaluate.counting import network_on_meta
    from gradience.models.load import dtype_of, from_folder, quiet
    from gradience.models.locate import locate

    shape = from_folder(AutoConfig, inputs.model.name, locate(inputs.model, ("config.json",)).folder)
    dtype = dtype_of(inputs.model, shape, inputs.request.device)
    labels = len(inputs.task.label_names) if isinstance(inputs.task, ClassificationTask) else None
    rows, prompt, new = _lengths(inputs)
    with quiet():
        try:
            base, network = network_on_meta(shape, _lora(inputs.reference), dtype=dtype, labels=labels)
        except InputError as error:
            if error.code != "lora-misfit":
                raise
            return None, [f"No memory estimate: {sentence_text(str(error))}"]
        weights = weights_bytes_of(base, packed=inputs.model.quantization is not None)
        try:
            batch = answering_bytes(
                shape,
                network,
                rows=rows,
                prompt=prompt,
                new=0 if inputs.likelihoods else new,
                scored=_scored_rows(inputs, rows) * new,
                itemsize=dtype.itemsize,
            )
        except (RuntimeError, ValueError) as error:  # shapes of config.json that do not fit each other
            return None, [f"No memory estimate: {sentence_text(str(error).splitlines()[0])}"]
    said = []
    if new and not isinstance(inputs.task, ChoiceTask) and not inputs.likelihoods:
        said.append(
            "Answers are assumed as long as the gold ones; a model that does not stop writes up to `max_new_tokens`."
        )
    return _Cost(weights, batch, process_bytes(inputs.request.device)), said


def _lora(adapter: AdapterInput) -> Mapping[str, Any]:
    return {key: adapter.fields[key] for key in SHAPING if adapter.fields.get(key)}


def _lengths(inputs: Inputs) -> tuple[int, int, int]:
    """Rows, tokens of a padded prompt or text, and tokens that are generated."""
    from gradience.evaluate.cost import longest_of, sorted_longest
    from gradience.models.load import load_tokenizer
    from gradience.models.rendering import encode_pair, token_counts

    tokenizer = load_tokenizer(inputs.model)
    if isinstance(inputs.task, ClassificationTask):
        texts = [f"{each.text} {each.text_pair or ''}" for each in inputs.examples]
        lengths = [min(inputs.max_length, count) for count in token_counts(tokenizer, texts)]
        rows = _rows(inputs, lengths, 0)
        return rows, round(sorted_longest(lengths, rows)), 0
    pairs = (encode_pair(tokenizer, each.prompt, each.response) for each in inputs.examples)
    prompts, responses = zip(*((len(before), len(after)) for before, after in pairs), strict=True)
    most = max(responses)
    if isinstance(inputs.task, GenerationTask):
        most = inputs.request.max_new_tokens or inputs.task.max_new_tokens
    rows = _rows(inputs, prompts, most)
    return rows, round(sorted_longest(prompts, rows)), min(most, round(longest_of(responses, rows)))


def _rows(inputs: Inputs, lengths: Sequence[int], new: int) -> int:
    """Examples of a batch: as many as were asked for, or of the mean length as the first budget holds."""
    budget = CPU_TOKENS if on_processor(inputs.request.device) else TRIED_TOKENS
    many = inputs.request.batch_size or max(1, budget // max(1, round(fmean(lengths)) + new))
    return min(many, len(inputs.examples))


def _scored_rows(inputs: Inputs, rows: int) -> int:
    """Responses that are scored together, where `rows` are answered together."""
    from gradience.evaluate.evaluator import SCORED_AT_ONCE

    return min(rows, SCORED_AT_ONCE) if inputs.request.batch_size else max(1, rows // SCORED_SHARE)
