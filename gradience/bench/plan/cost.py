"""Memory that a run of Bench takes, from shapes that are counted and lengths that were read."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.preview import Lengths
from gradience.evaluate.cost import (
    answering_bytes,
    longest_of,
    process_bytes,
    sorted_longest,
    weights_bytes_of,
)
from gradience.evaluate.counting import activation_bytes, network_on_meta
from gradience.evaluate.evaluator import SCORED_AT_ONCE
from gradience.models.load import dtype_of
from gradience.reports.forecast import CostEstimate

ADAM_BYTES = 16
"""For each trained parameter: float32 weight, gradient and two moments."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """Rows and tokens of the batches of a run."""

    steps: int
    """Of a training."""
    train: tuple[int, int]
    """Rows and tokens of a batch, padding included."""
    rows: int
    """Of a batch of an evaluation."""
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
        rows,
        round(sorted_longest(known.prompts, min(rows, len(known.prompts)))),
        min(new_tokens, round(longest_of(known.responses, rows))) if causal else 0,
    )


def cost_of(config: BenchConfig, shape: Any, shapes: Shapes, *, labels: int | None) -> CostEstimate:
    """Return the memory of `config`'s stages on a base of this shape (transformers' config)."""
    dtype = dtype_of(config.model, shape, config.runtime.device)
    base, network = _networks(config, shape, dtype, labels)
    parameters = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    rows, length = shapes.train
    return CostEstimate(
        base_params=sum(weight.numel() for name, weight in base.named_parameters() if "lora_" not in name),
        probe_params=parameters,
        weights_bytes=weights_bytes_of(base, packed=config.model.quantization is not None),
        trained_bytes=ADAM_BYTES * parameters,
        activation_bytes=(
            _recomputed(config, shape, shapes, labels)
            if config.model.gradient_checkpointing
            else activation_bytes(network, rows, length, labels=labels is not None)
        ),
        evaluation_bytes=answering_bytes(
            shape,
            network,
            rows=shapes.rows,
            prompt=shapes.prompt,
            new=shapes.new,
            scored=SCORED_AT_ONCE * shapes.new,
            itemsize=dtype.itemsize,
        ),
        process_bytes=process_bytes(config.runtime.device),
        tokens_per_training=shapes.steps * config.train.gradient_accumulation_steps * rows * length,
    )


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
    dtype = dtype_of(config.model, shape, config.runtime.device)
    _, network = network_on_meta(one, config.lora.peft_arguments(), dtype=dtype, labels=labels)
    rows, length = shapes.train
    between = rows * length * shape.get_text_config().hidden_size * dtype.itemsize
    return activation_bytes(network, rows, length, labels=labels is not None) + int(layers * between)
