"""The forecast: kernels counted on the meta device against real runs, lengths against a count by hand."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_bench import SLOW, gsm8k_values
from transformers import AutoConfig, AutoModelForCausalLM

from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.cost import (
    ADAM_BYTES,
    Counts,
    Shapes,
    cost_of,
    longest_of,
    shapes_of,
    sorted_longest,
)
from gradience.bench.plan.preview import Lengths
from gradience.evaluate.counting import (
    Work,
    decoding_work,
    forward_of,
    network_on_meta,
    tiny_with_lora,
    training_work,
    work_of,
)
from gradience.evaluate.machines import H100, Machine, this_processor
from gradience.models.known import KNOWN
from gradience.report.forecast import rough_duration

EVERYWHERE: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
TALL: dict[str, int] = {
    "vocab_size": 5000, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
"""A head that outweighs everything else."""

# ------------------------------------------------------------------ kernels


def real_and_meta(base: Path) -> tuple[Any, Any]:
    real = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager", dtype=torch.float32)
    config = LoraConfig(task_type="CAUSAL_LM", **EVERYWHERE)
    shape = AutoConfig.from_pretrained(base)
    return get_peft_model(real, config), network_on_meta(shape, EVERYWHERE, dtype=torch.float32, labels=None)[
        1
    ]


def test_what_is_counted_without_numbers_is_what_a_real_model_computes(base: Path) -> None:
    real, meta = real_and_meta(base)
    for rows, length in ((3, 7), (2, 16)):
        work = work_of(lambda: forward_of(meta, rows=rows, length=length))  # noqa: B023
        computed = work_of(lambda: forward_of(real, rows=rows, length=length))  # noqa: B023
        assert work.flops == computed.flops > 0
        assert work.count == pytest.approx(computed.count, abs=5)  # a mask or two


def test_products_by_hand(base: Path) -> None:
    real, meta = real_and_meta(base)
    linear = sum(
        m.weight.numel() for m in real.modules() if isinstance(m, torch.nn.Linear)
    )  # LoRA's A and B too
    heads, layers, rows, length = 32, 2, 3, 7
    attention = layers * 2 * 2 * rows * heads * length * length
    work = work_of(lambda: forward_of(meta, rows=rows, length=length))
    assert work.flops == 2 * rows * length * linear + attention


def test_the_head_is_read_once_however_many_rows_are_answered() -> None:
    shape = AutoConfig.for_model("llama", **TALL)
    _, network = network_on_meta(shape, EVERYWHERE, dtype=torch.float32, labels=None)
    width, vocabulary = TALL["hidden_size"], TALL["vocab_size"]
    for rows in (1, 16):
        work = work_of(lambda: forward_of(network, rows=rows, length=4, logits=1))  # noqa: B023
        largest = max(size for _, size, _ in work.kernels)
        assert largest == 4 * (width * vocabulary + rows * (width + vocabulary))


def test_training_is_forward_backward_and_no_gradient_of_frozen_weights(base: Path) -> None:
    _, meta = real_and_meta(base)
    forward = work_of(lambda: forward_of(meta, rows=4, length=16))
    training = training_work(meta, 4, 16, labels=False)
    assert 2 * forward.flops < training.flops < 3 * forward.flops
    assert training.count > 2 * forward.count


def test_lora_multiplies_the_kernels_of_a_decoding_step() -> None:
    """Mistral-7B's layers: seven projections, each with LoRA. Every layer starts the same number of kernels."""
    counts = {}
    for layers in (1, 2):
        shape = AutoConfig.for_model(**KNOWN["mistralai/Mistral-7B-v0.1"] | {"num_hidden_layers": layers})
        _, network = network_on_meta(shape, EVERYWHERE, dtype=torch.bfloat16, labels=None)
        with_lora = decoding_work(network, 8).count
        with network.disable_adapter():
            counts[layers] = (with_lora, decoding_work(network, 8).count)
    lora, plain = (counts[2][place] - counts[1][place] for place in (0, 1))
    assert 35 <= plain <= 65
    assert 5 <= (lora - plain) / 7 <= 8  # two products, casts, a scale and a sum for each projection


def test_activations_are_those_that_a_real_training_keeps(base: Path) -> None:
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
    saved = training_work(meta, 4, 16, labels=False).saved
    assert measured / 2 < saved < 2 * measured


# ------------------------------------------------------------------ time and memory


def test_a_machine_adds_what_takes_longest_of_each_kernel() -> None:
    work = Work({(2_000_000, 1_000, torch.float32): 2, (0, 500_000, torch.float32): 4})
    assert SLOW.seconds(work) == pytest.approx(2 * 2 + 4 * 0.5 + 6 * 1e-3)
    queue = Machine("queue", {torch.float32: 1e6}, bandwidth=1e6, launch=2, asynchronous=True)
    assert queue.seconds(work) == pytest.approx(6 * 2)  # starting them takes longer than computing them


def test_this_processor_is_measured() -> None:
    result = this_processor(torch.float32, 1, width=64, inner=96)
    assert result.flops.keys() == {torch.float32}
    assert min(*result.flops.values(), result.bandwidth) > 1e6
    assert 0 < result.launch < 1
    assert result.name.endswith("with 1 thread")
    assert not result.asynchronous


def test_padded_lengths_against_all_draws() -> None:
    lengths = [3, 5, 5, 9]
    draws = list(itertools.product(lengths, repeat=3))
    assert longest_of(lengths, 3) == pytest.approx(sum(map(max, draws)) / len(draws))
    assert sorted_longest([9, 3, 5, 6], 2) == (5 + 9) / 2
    assert sorted_longest([4, 2], 8) == 4


def test_batches_come_from_real_lengths() -> None:
    config = BenchConfig.model_validate(gsm8k_values("base"))
    lengths = Lengths(train=(10,) * 50, prompts=(6,) * 20, responses=(4,) * 20)
    assert shapes_of(config, lengths, 20, 320) == Shapes(6, (2, 10), 20, 20, 6, 4)
    assert shapes_of(config, lengths, 20, 3) == Shapes(6, (2, 10), 20, 20, 6, 3)
    unknown = shapes_of(config, None, 20, 320)
    assert (unknown.train, unknown.prompt, unknown.new) == ((2, 512), 512, 320)  # at the limits
    epochs = config.model_copy(
        update={"train": config.train.model_copy(update={"max_steps": None, "epochs": 2.0})}
    )
    assert shapes_of(epochs, None, 20, 320) is None
    result = shapes_of(epochs, lengths, 20, 320)
    assert result.steps == 2 * 9  # 50 examples in steps of 6


def test_a_seed_s_cost_by_hand(base: Path) -> None:
    config = BenchConfig.model_validate(
        gsm8k_values(base, model={"name": str(base), "type": "causal_lm", "dtype": "float32"})
    )
    shape = AutoConfig.from_pretrained(base)
    shapes = Shapes(6, (2, 10), deciding=32, rows=16, prompt=6, new=4)
    cost = cost_of(config, shape, shapes, [SLOW, H100], labels=None, counts=Counts(2, 0, 3))
    real, network = real_and_meta(base)
    trained = sum(weight.numel() for weight in real.parameters() if weight.requires_grad)
    everything = sum(weight.numel() for weight in real.parameters())
    assert cost.probe_params == trained
    assert cost.base_params == everything - trained
    assert cost.weights_bytes == 4 * cost.base_params  # float32
    assert cost.trained_bytes == ADAM_BYTES * trained
    assert cost.tokens_per_training == 6 * 3 * 2 * 10
    step = training_work(network, 2, 10, labels=False)
    assert (cost.kernels_per_step, cost.activation_bytes) == (3 * step.count, step.saved)
    slow = cost.times[0]
    adam = slow.training - 6 * 3 * SLOW.seconds(step)
    assert 6 * 28 * trained / 1e6 <= adam <= 6 * (28 * trained / 1e6 + 1.0)
    assert slow.seed > 2 * slow.training + 2 * slow.evaluation
    longer = Shapes(12, (2, 10), deciding=32, rows=16, prompt=6, new=4)
    twice = cost_of(config, shape, longer, [SLOW], labels=None, counts=Counts(2, 0, 3))
    assert twice.times[0].training == pytest.approx(2 * slow.training, rel=1e-3)


def test_checkpointing_keeps_less_and_computes_more(base: Path) -> None:
    deep = AutoConfig.from_pretrained(base)
    deep.num_hidden_layers = 5
    shapes = Shapes(6, (4, 32), deciding=32, rows=16, prompt=6, new=4)
    costs = []
    for checkpointing in (False, True):
        model = {"name": str(base), "type": "causal_lm", "gradient_checkpointing": checkpointing}
        config = BenchConfig.model_validate(gsm8k_values(base, model=model))
        costs.append(cost_of(config, deep, shapes, [SLOW], labels=None, counts=Counts(1, 0, 1)))
    plain, saved = costs
    assert saved.activation_bytes < 0.6 * plain.activation_bytes
    assert 1.15 < saved.times[0].training / plain.times[0].training < 1.6


def test_four_bits_pack_the_linear_layers_alone(base: Path) -> None:
    model = {"name": str(base), "type": "causal_lm", "quantization": "nf4"}
    shape, shapes = AutoConfig.from_pretrained(base), Shapes(1, (1, 4), 1, 1, 4, 1)
    config = BenchConfig.model_validate(gsm8k_values(base, model=model))
    cost = cost_of(config, shape, shapes, [SLOW], labels=None, counts=Counts(1, 0, 1))
    outside = sum(
        weight.numel()
        for name, weight in AutoModelForCausalLM.from_pretrained(base).named_parameters()
        if "proj" not in name
    )
    assert cost.weights_bytes == int((4.127 * (cost.base_params - outside) + 32 * outside) / 8)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (rough_duration(0.2), "less than 1 s"),
        (rough_duration(89), "89 s"),
        (rough_duration(840), "14 min"),
        (rough_duration(3 * 3600), "3.0 h"),
        (rough_duration(30 * 3600), "30 h"),
        (rough_duration(10 * 86400), "10 days"),
    ],
)
def test_units_that_a_person_reads(text: str, shown: str) -> None:
    assert text == shown


def test_a_tiny_llama_with_lora_runs_where_it_is_told() -> None:
    assert tiny_with_lora("meta").device.type == "meta"
