"""The forecast: memory counted on the meta device against real runs, lengths against a count by hand."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_sample import config
from peft import LoraConfig, get_peft_model
from tiny_bench import gsm8k_values
from transformers import AutoConfig, AutoModelForCausalLM

from gradience.bench.config import BenchConfig
from gradience.bench.forecast import (
    ADAM_BYTES,
    Lengths,
    Shapes,
    cost_of,
    forecast,
    shapes_of,
)
from gradience.evaluate.checks import activation_bytes, longest_of, network_on_meta, sorted_longest
from gradience.statistics.power import Assumptions, pass_probability

EVERYWHERE: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
"""A head that outweighs everything else."""

# ------------------------------------------------------------------ counted


def real_and_meta(base: Path) -> tuple[Any, Any]:
    real = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager", dtype=torch.float32)
    config = LoraConfig(task_type="CAUSAL_LM", **EVERYWHERE)
    shape = AutoConfig.from_pretrained(base)
    return get_peft_model(real, config), network_on_meta(shape, EVERYWHERE, dtype=torch.float32, labels=None)[
        1
    ]


def test_activations_are_those_that_a_real_training_keeps(base):
    real, meta = real_and_meta(base)
    weights = {weight.untyped_storage().data_ptr() for weight in real.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(3, 20, (4, 16))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        real.train()(input_ids=ids, labels=ids)
    measured = sum(
        tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights
    )
    saved = activation_bytes(meta, 4, 16, labels=False)
    assert measured / 2 < saved < 2 * measured


# ------------------------------------------------------------------ memory of a run


def test_padded_lengths_against_all_draws():
    lengths = [3, 5, 5, 9]
    draws = list(itertools.product(lengths, repeat=3))
    assert longest_of(lengths, 3) == pytest.approx(sum(map(max, draws)) / len(draws))
    assert sorted_longest([9, 3, 5, 6], 2) == (5 + 9) / 2
    assert sorted_longest([4, 2], 8) == 4


def test_batches_come_from_real_lengths():
    config = BenchConfig.model_validate(gsm8k_values("base"))
    lengths = Lengths(train=(10,) * 50, prompts=(6,) * 20, responses=(4,) * 20)
    assert shapes_of(config, lengths, 20, 320) == Shapes((2, 10), 20, 6, 4)
    assert shapes_of(config, lengths, 20, 3) == Shapes((2, 10), 20, 6, 3)
    unknown = shapes_of(config, None, 20, 320)
    assert (unknown.train, unknown.prompt, unknown.new) == ((2, 512), 512, 320)  # at the limits


def test_memory_by_hand(base):
    config = BenchConfig.model_validate(
        gsm8k_values(base, model={"name": str(base), "type": "causal_lm", "dtype": "float32"})
    )
    shape = AutoConfig.from_pretrained(base)
    shapes = Shapes((2, 10), rows=16, prompt=6, new=4)
    cost = cost_of(config, shape, shapes, labels=None)
    real, network = real_and_meta(base)
    trained = sum(weight.numel() for weight in real.parameters() if weight.requires_grad)
    everything = sum(weight.numel() for weight in real.parameters())
    assert cost.probe_params == trained
    assert cost.base_params == everything - trained
    assert cost.weights_bytes == 4 * cost.base_params  # float32
    assert cost.trained_bytes == ADAM_BYTES * trained
    assert cost.activation_bytes == activation_bytes(network, 2, 10, labels=False)
    assert cost.process_bytes > 100e6  # PyTorch and transformers


def test_smallest_margins_are_those_of_the_budget_and_the_arms():
    expected = forecast(config(task={"profile": "gsm8k", "eval_samples": 500}))
    assert {row.name for row in expected.scenarios} == {"truncated", "retrained"}
    for row in expected.scenarios:
        assumed = Assumptions(row.discordance, seeds=3, spread=row.spread)
        assert assumed.power(500, row.margin_these_runs) == pytest.approx(0.8, abs=1e-3)
        together = replace(assumed, claim="mean-over-trainings").power(500, row.margin_over_trainings or 0)
        assert together == pytest.approx(0.8, abs=1e-3)
        assert row.pass_if_equal == pytest.approx(pass_probability(500, 12, row.discordance, 0.0, row.spread))
    assert "Smallest margin" in expected.to_text()
