"""What one seed costs: memory and time, from kernels that are counted and lengths that were read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gradience.artifacts.forecast import CostEstimate, TimeEstimate
from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.preview import Lengths
from gradience.evaluate.counting import (
    Work,
    decoding_work,
    forward_of,
    network_on_meta,
    training_work,
    work_of,
)
from gradience.evaluate.evaluator import SCORED_AT_ONCE
from gradience.evaluate.machines import Machine

ADAM_BYTES = 16
"""For each trained parameter: float32 weight, gradient and two moments."""
ADAM_KERNELS = 10
"""For each trained tensor and step; together they read and write its weight, gradient and moments: 28 bytes a value."""
PACKED_BITS = 4.127
"""Of a weight in NF4 with its block constants (QLoRA)."""
LOADED = 1e9
"""Bytes of a checkpoint that are loaded in a second."""


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


def longest_of(lengths: Sequence[int], batch: int) -> float:
    """The expected longest of `batch` lengths that are drawn at random: how long a padded row of training is.

    >>> longest_of([10, 20], 1), longest_of([10, 20], 2)
    (15.0, 17.5)
    """
    n, before, expected = len(lengths), 0.0, 0.0
    for place, length in enumerate(sorted(lengths), start=1):
        below = (place / n) ** batch  # the chance that no drawn length is further right than this
        expected += length * (below - before)
        before = below
    return expected


def sorted_longest(lengths: Sequence[int], batch: int) -> float:
    """The mean longest of batches that are sorted by length, as an evaluation makes them.

    >>> sorted_longest([3, 9, 4, 10], 2)
    7.0
    """
    longest = sorted(lengths)[batch - 1 :: batch] or [max(lengths)]
    return sum(longest) / len(longest)


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
        (batch, round(longest_of(known.train, batch))),
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
    trainings: int,
    evaluations: int,
) -> CostEstimate:
    """The cost of one seed of `config` on a base of this shape (transformers' config), on each of the machines."""
    dtype = dtype_of(config, shape)
    base, network = _networks(config, shape, dtype, labels)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    parameters = sum(weight.numel() for weight in trained)
    weights_bytes = _weights_bytes(base, packed=config.model.quantization is not None)
    step = training_work(network, *shapes.train, labels=labels is not None)
    saved = (
        step.saved if not config.model.gradient_checkpointing else _recomputed(config, shape, shapes, labels)
    )
    adam = Work(
        {(0, 28 * parameters // (ADAM_KERNELS * len(trained)), torch.float32): ADAM_KERNELS * len(trained)}
    )
    micro = config.train.gradient_accumulation_steps
    answering, decoding, scoring = _evaluation(network, shapes)
    times = []
    for machine in machines:
        loading = weights_bytes / LOADED
        training = shapes.steps * (micro * machine.seconds(step) + machine.seconds(adam)) + loading
        answers = (
            shapes.deciding
            / shapes.rows
            * (machine.seconds(answering) + (shapes.new * machine.seconds(decoding) if decoding else 0))
        )
        scores = 2 * shapes.deciding / SCORED_AT_ONCE * machine.seconds(scoring) if scoring else 0
        seed = trainings * training + evaluations * answers + (evaluations - 1) * scores + loading
        times.append(
            TimeEstimate(machine=machine.name, training=training, evaluation=answers + scores, seed=seed)
        )
    return CostEstimate(
        base_params=sum(weight.numel() for name, weight in base.named_parameters() if "lora_" not in name),
        probe_params=parameters,
        weights_bytes=weights_bytes,
        trained_bytes=ADAM_BYTES * parameters,
        activation_bytes=saved,
        tokens_per_training=shapes.steps * micro * shapes.train[0] * shapes.train[1],
        kernels_per_step=micro * step.count,
        kernels_per_token=decoding.count if decoding else None,
        times=tuple(times),
    )


def dtype_of(config: BenchConfig, shape: Any) -> torch.dtype:
    """The precision of the frozen base; `auto` is what its config.json says."""
    if config.model.dtype != "auto":
        return getattr(torch, config.model.dtype)  # type: ignore[no-any-return]
    said = getattr(shape, "dtype", None)
    return said if isinstance(said, torch.dtype) else torch.float32


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
    dtype = dtype_of(config, shape)
    _, network = network_on_meta(one, config.lora.peft_arguments(), dtype=dtype, labels=labels)
    rows, length = shapes.train
    between = rows * length * shape.get_text_config().hidden_size * dtype.itemsize
    return training_work(network, rows, length, labels=labels is not None).saved + int(layers * between)


def _evaluation(network: Any, shapes: Shapes) -> tuple[Work, Work | None, Work | None]:
    """Reading a batch, one decoding step of it, and reading a batch of responses with the logits on all of them."""
    rows, prompt, new = shapes.rows, max(1, shapes.prompt), shapes.new
    if not new:
        return work_of(lambda: forward_of(network, rows=rows, length=prompt)), None, None
    return (
        work_of(lambda: forward_of(network, rows=rows, length=prompt, logits=1)),
        decoding_work(network, rows, cached=prompt + new // 2),
        work_of(lambda: forward_of(network, rows=SCORED_AT_ONCE, length=prompt + new, logits=new)),
    )


def _weights_bytes(base: Any, *, packed: bool) -> int:
    """Bytes of the base's weights; packed: the linear layers in NF4, everything else and the head in float32."""
    weights = {name: weight for name, weight in base.named_parameters() if "lora_" not in name}
    if not packed:
        return sum(weight.nbytes for weight in weights.values())
    linear = {
        id(module.weight)
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name
    }
    head = base.get_output_embeddings()
    linear -= {id(head.weight)} if head is not None else set()
    bits = sum(weight.numel() * (PACKED_BITS if id(weight) in linear else 32) for weight in weights.values())
    return int(bits / 8)
