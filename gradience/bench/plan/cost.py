"""What one seed costs: memory and time, from kernels that are counted and lengths that were read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from gradience.artifacts.forecast import CostEstimate, TimeEstimate
from gradience.bench.config.load import BenchConfig
from gradience.bench.config.sections import HealingSettings
from gradience.bench.plan.preview import Lengths
from gradience.calibrate.heal.distil import CHECKS
from gradience.evaluate.cost import (
    LOADED,
    answering_bytes,
    dtype_of,
    evaluation_work,
    longest_of,
    sorted_longest,
    weights_bytes_of,
)
from gradience.evaluate.counting import (
    Work,
    network_on_meta,
    training_work,
)
from gradience.evaluate.evaluator import SCORED_AT_ONCE
from gradience.evaluate.machines import Machine

ADAM_BYTES = 16
"""For each trained parameter: float32 weight, gradient and two moments."""
ADAM_KERNELS = 10
"""For each trained tensor and step; together they read and write its weight, gradient and moments: 28 bytes a value."""

PASS = 1 / 3
"""A pass forward, in micro-steps of a training, whose pass backward is as much as two."""


CALIBRATING = 3 / 2
"""Passes forward and backward over the rows of a calibration: one half of them twice, the other once."""


class Counts(NamedTuple):
    """How often a seed does what costs time."""

    trainings: int
    healings: int
    evaluations: int
    calibrations: int = 0


class Works(NamedTuple):
    """Kernels of what a run does over and over."""

    step: Work
    """A micro-step of a training."""
    adam: Work
    """An update of the trained parameters."""
    answering: Work
    decoding: Work | None
    scoring: Work | None


@dataclass(frozen=True, slots=True)
class Shapes:
    """Rows and tokens of the batches of a run."""

    steps: int
    """Of a training."""
    train: tuple[int, int]
    """Rows and tokens of a batch, padding included."""
    deciding: int
    """Examples that decide."""
    rows: int
    """Of a batch of them."""
    prompt: int
    new: int
    """Tokens that a batch generates until its last row ends; 0 for labels."""


def shapes_of(config: BenchConfig, lengths: Lengths | None, examples: int, new_tokens: int) -> Shapes | None:
    """The batches of a run; every example at its limit where the lengths are not known. None without steps."""
    recipe, causal = config.train, config.model.type == "causal_lm"
    known = lengths or Lengths((recipe.max_length,), (recipe.max_length,), (new_tokens,) if causal else ())
    steps = recipe.max_steps
    if steps is None and recipe.epochs is not None and lengths is not None:
        sequences = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
        steps = round(recipe.epochs * -(-len(lengths.train) // sequences))
    if steps is None:
        return None
    batch, rows = recipe.per_device_train_batch_size, min(recipe.per_device_eval_batch_size, max(1, examples))
    return Shapes(
        steps,
        (batch, round((sorted_longest if config.train.group_by_length else longest_of)(known.train, batch))),
        examples,
        rows,
        round(sorted_longest(known.prompts, min(rows, len(known.prompts)))),
        min(new_tokens, round(longest_of(known.responses, rows))) if causal else 0,
    )


def cost_of(
    config: BenchConfig,
    shape: Any,
    shapes: Shapes,
    machines: Sequence[Machine],
    *,
    labels: int | None,
    counts: Counts,
) -> CostEstimate:
    """The cost of one seed of `config` on a base of this shape (transformers' config), on each of the machines."""
    dtype = dtype_of(config.model, shape)
    base, network = _networks(config, shape, dtype, labels)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    parameters = sum(weight.numel() for weight in trained)
    weights_bytes = weights_bytes_of(base, packed=config.model.quantization is not None)
    step = training_work(network, *shapes.train, labels=labels is not None)
    saved = (
        step.saved if not config.model.gradient_checkpointing else _recomputed(config, shape, shapes, labels)
    )
    answering, decoding, scoring = evaluation_work(network, shapes.rows, shapes.prompt, shapes.new)
    works = Works(step, _adam(parameters, len(trained)), answering, decoding, scoring)
    micro, loading = config.train.gradient_accumulation_steps, weights_bytes / LOADED
    return CostEstimate(
        base_params=sum(weight.numel() for name, weight in base.named_parameters() if "lora_" not in name),
        probe_params=parameters,
        weights_bytes=weights_bytes,
        trained_bytes=ADAM_BYTES * parameters,
        activation_bytes=saved,
        evaluation_bytes=_answering(shape, shapes, works, dtype),
        tokens_per_training=shapes.steps * micro * shapes.train[0] * shapes.train[1],
        kernels_per_step=micro * step.count,
        kernels_per_token=decoding.count if decoding else None,
        times=tuple(_time_on(machine, config, shapes, works, counts, loading) for machine in machines),
    )


def _time_on(
    machine: Machine, config: BenchConfig, shapes: Shapes, works: Works, counts: Counts, loading: float
) -> TimeEstimate:
    """loading: seconds that the base takes to be loaded."""
    micro = config.train.gradient_accumulation_steps
    step, adam = machine.seconds(works.step), machine.seconds(works.adam)
    decoding = shapes.new * machine.seconds(works.decoding) if works.decoding else 0
    training = shapes.steps * (micro * step + adam) + loading
    answers = shapes.deciding / shapes.rows * (machine.seconds(works.answering) + decoding)
    scores = 2 * shapes.deciding / SCORED_AT_ONCE * machine.seconds(works.scoring) if works.scoring else 0
    healing = calibrating = 0.0
    writing = decoding / shapes.rows
    if config.compression.calibration is not None:
        each = CALIBRATING * step / shapes.train[0] + writing
        calibrating = loading + config.compression.calibration.rows * each
    if config.compression.healing is not None:
        healing = loading + _healing(config.compression.healing, shapes, step, adam, writing)
    seed = counts.trainings * training + counts.healings * healing + loading
    seed += counts.calibrations * calibrating
    seed += counts.evaluations * answers + (counts.evaluations - 1) * scores
    return TimeEstimate(
        machine=machine.name,
        training=training,
        evaluation=answers + scores,
        seed=seed,
        calibration=calibrating,
        healing=healing,
    )


def _answering(shape: Any, shapes: Shapes, works: Works, dtype: torch.dtype) -> int:
    """Bytes of an evaluation beside the base."""
    return answering_bytes(
        shape,
        [work for work in (works.answering, works.decoding) if work],
        cached=shapes.rows * (shapes.prompt + shapes.new) if shapes.new else 0,
        scored=SCORED_AT_ONCE * shapes.new,
        itemsize=dtype.itemsize,
    )


def _adam(parameters: int, tensors: int) -> Work:
    """An update of so many parameters in so many tensors."""
    kernels = ADAM_KERNELS * tensors
    return Work({(0, 28 * parameters // kernels, torch.float32): kernels})


def _healing(healing: HealingSettings, shapes: Shapes, step: float, adam: float, writing: float) -> float:
    """Seconds of a healing. step: of a micro-step of a training; adam: of an update; writing: of a row's completion.

    Each of its steps, and each look at rows, is the teacher's pass besides the student's.
    """
    steps = healing.steps_of(shapes.steps) * (step * (1 + PASS) + adam)
    looks = ((CHECKS + 1) / 8 + 2 / 4) * healing.rows * 2 * PASS * step / shapes.train[0]
    return steps + looks + healing.rows * writing


def _networks(config: BenchConfig, shape: Any, dtype: torch.dtype, labels: int | None) -> tuple[Any, Any]:
    base, network = network_on_meta(
        copy.deepcopy(shape), config.lora.peft_arguments(), dtype=dtype, labels=labels
    )
    if config.model.gradient_checkpointing:
        how = {"use_reentrant": False, "preserve_rng_state": False}
        # Renamed within transformers 5; the old name goes away in 6.
        enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
        enable(how)
        network.enable_input_require_grads()
    return base, network


def _recomputed(config: BenchConfig, shape: Any, shapes: Shapes, labels: int | None) -> int:
    """Bytes that gradient checkpointing keeps: what goes into each layer, and one layer while it is computed again."""
    layers = shape.get_text_config().num_hidden_layers
    one = copy.deepcopy(shape)
    one.get_text_config().num_hidden_layers = 1
    dtype = dtype_of(config.model, shape)
    _, network = network_on_meta(one, config.lora.peft_arguments(), dtype=dtype, labels=labels)
    rows, length = shapes.train
    between = rows * length * shape.get_text_config().hidden_size * dtype.itemsize
    return training_work(network, rows, length, labels=labels is not None).saved + int(layers * between)
