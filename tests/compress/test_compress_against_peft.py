"""Original and compressed adapters in PEFT: equal outputs at full rank, and below it just the loss that is reported."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from peft_models import (
    bert,
    gpt2,
    gpt_oss,
    llama,
    mixtral,
    peft_updates,
    qwen_moe,
    save,
    stored_tensors,
    t5,
)
from torch import nn

from gradience import audit_adapter
from gradience.artifacts.compression import CompressionReport
from gradience.compress import compress_adapter
from gradience.errors import InputError
from gradience.plan import ToBudget, ToRank, plan_compression

ENCODINGS = ("uniform", "patterns", "padded", "folded")


class Pixels(nn.Module):
    """A convolution net: 3x3, 1x1 and a linear layer on top."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(5, 8, 3)
        self.second = nn.Conv2d(8, 6, 1)
        self.third = nn.Conv2d(6, 6, 3, groups=2)
        self.last = nn.Linear(6, 7)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.second(torch.tanh(self.first(pixels))))
        return self.last(torch.tanh(self.third(hidden)).mean((2, 3)))


def config(**options: object) -> LoraConfig:
    return LoraConfig(**({"r": 6, "lora_alpha": 9} | options))


@dataclass(frozen=True)
class Case:
    """A model and an adapter for it. refused: encoding -> code of the refusal."""

    make: Callable[[], nn.Module]
    config: LoraConfig
    prepare: Callable[[PeftModel], None] | None = None
    refused: dict[str, str] | None = None


def train_biases(model: PeftModel) -> None:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name.endswith(".bias"):
            parameter.data.normal_()


LINEAR = ["q_proj", "v_proj", "down_proj"]
CASES = {
    "llama": Case(llama, config(target_modules="all-linear")),
    "rslora": Case(llama, config(target_modules=LINEAR, use_rslora=True)),
    "patterns": Case(
        lambda: llama(3),
        config(
            target_modules=LINEAR,
            rank_pattern={"v_proj": 4, r"layers\.1\.self_attn\.q_proj": 8},
            alpha_pattern={"v_proj": 3, "down_proj": 5.5},
        ),
    ),
    "patterns-rslora": Case(
        llama, config(target_modules=LINEAR, use_rslora=True, rank_pattern={"v_proj": 4}, alpha_pattern={"q_proj": 2})
    ),
    "bert-head": Case(bert, config(target_modules=["query", "value", "dense"], task_type="SEQ_CLS")),
    "biases": Case(bert, config(target_modules=["query", "value"], bias="lora_only"), train_biases),
    "all-biases": Case(bert, config(target_modules=["query", "value"], bias="all"), train_biases),
    "lora-bias": Case(
        bert,
        config(target_modules=["query", "value"], lora_bias=True),
        refused={"folded": "lora-bias"},
    ),
    "gpt2": Case(gpt2, config(target_modules=["c_attn", "c_fc", "c_proj"], fan_in_fan_out=True)),
    "t5": Case(t5, config(target_modules=["q", "v", "wi", "wo"], task_type="SEQ_2_SEQ_LM")),
    "embedding": Case(gpt2, config(target_modules=["wte", "c_attn"], fan_in_fan_out=True)),
    "convolutions": Case(Pixels, config(target_modules=["first", "second", "last"])),
    "modules-to-save": Case(llama, config(target_modules=LINEAR, modules_to_save=["lm_head", "input_layernorm"])),
    "token-rows": Case(llama, config(target_modules=LINEAR, trainable_token_indices=[3, 7, 11])),
    "some-layers": Case(lambda: llama(3), config(target_modules=LINEAR, layers_to_transform=[0, 2])),
    "an-expression": Case(llama, config(target_modules=r".*\.[qv]_proj")),
    "excluded": Case(llama, config(target_modules=LINEAR, exclude_modules=["layers.1.self_attn.q_proj"])),
    "experts": Case(
        mixtral,
        config(target_modules=["q_proj"], target_parameters=["experts.gate_up_proj", "experts.down_proj"]),
    ),
    "experts-unswapped": Case(
        gpt_oss,
        config(target_modules=["v_proj"], target_parameters=["experts.down_proj", "experts.gate_up_proj"]),
    ),
    "router": Case(
        qwen_moe,
        config(target_modules=["gate_proj"], target_parameters=["experts.down_proj", "mlp.gate.weight"]),
    ),
}  # fmt: skip


def fresh(case: Case) -> nn.Module:
    torch.manual_seed(7)
    model = case.make()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the grouped kernels know no float64
    return model


@contextmanager
def warned() -> Iterator[list[str]]:
    found: list[str] = []
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("always")
        yield found
    found.extend(str(record.message) for record in records)


def load(case: Case, folder: Path) -> tuple[PeftModel, list[str]]:
    """The adapter on a fresh copy of the base, in float64, and what PEFT warned of."""
    base = fresh(case).double()
    with warned() as messages:
        model = PeftModel.from_pretrained(base, folder)
    return model.eval(), messages


def outputs(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    if isinstance(model.base_model.model, Pixels):
        inputs = {"pixels": torch.randn(2, 5, 7, 7, generator=generator, dtype=torch.float64)}
    else:
        tokens = torch.randint(0, 32, (2, 9), generator=generator)
        inputs = {"input_ids": tokens}
        if "T5" in type(model.base_model.model).__name__:
            inputs["decoder_input_ids"] = tokens[:, :5]
    with torch.no_grad():
        found = model(**inputs)
    return found if isinstance(found, torch.Tensor) else found.logits


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Name -> (case, folder, model as PEFT loads it, warnings, ΔW, outputs), made when first asked for."""
    made = {}

    def original(name: str):
        if name not in made:
            case = CASES[name]
            folder = tmp_path_factory.mktemp(name)
            save(fresh(case), case.config, folder, prepare=case.prepare, dtype=torch.float64)
            model, messages = load(case, folder)
            made[name] = case, folder, messages, peft_updates(model), outputs(model)
        return made[name]

    return original


def compress(folder: Path, output: Path, criterion, **options) -> CompressionReport:
    return compress_adapter(folder, plan_compression(audit_adapter(folder), criterion), output, **options)


def relative_errors(before: dict, after: dict) -> dict[str, float]:
    """‖ΔW − ΔW′‖/‖ΔW‖ of every module, over all its experts; a module that is not there is 0."""
    lost: dict[str, float] = {}
    total: dict[str, float] = {}
    for (module, expert), update in before.items():
        difference = update - after.get((module, expert), 0.0)
        lost[module] = lost.get(module, 0.0) + float(np.square(difference).sum())
        total[module] = total.get(module, 0.0) + float(np.square(update).sum())
    return {module: math.sqrt(lost[module] / total[module]) for module in total}


def best_errors(before: dict, ranks: dict[str, int]) -> dict[str, float]:
    """What Eckart and Young say is the least, by dense SVDs."""
    left_out: dict[str, float] = {}
    total: dict[str, float] = {}
    for (module, _), update in before.items():
        energies = np.square(np.linalg.svd(update, compute_uv=False))
        left_out[module] = left_out.get(module, 0.0) + float(energies[ranks[module] :].sum())
        total[module] = total.get(module, 0.0) + float(energies.sum())
    return {module: math.sqrt(left_out[module] / total[module]) for module in total}


PARAMETER_WARNING = "keys did not match any targeted module"
"""PEFT 0.21 says this of every pattern key for a parameter, and applies the pattern all the same."""


def unexpected(messages: list[str], known: list[str], report: CompressionReport) -> list[str]:
    experts = any("experts" in row.name or "mlp.gate." in row.name for row in report.modules)
    return [
        message
        for message in messages
        if message not in known and not (experts and PARAMETER_WARNING in message)
    ]


written = [
    (name, encoding)
    for name, case in CASES.items()
    for encoding in ENCODINGS
    if encoding not in (case.refused or {})
]


@pytest.mark.parametrize(("name", "encoding"), written)
def test_full_rank_means_the_same(name, encoding, originals, tmp_path):
    case, folder, known, updates, expected = originals(name)
    report = compress(folder, tmp_path / "out", ToRank(64), encoding=encoding)
    model, messages = load(case, tmp_path / "out")
    assert unexpected(messages, known, report) == []
    assert torch.allclose(outputs(model), expected, rtol=1e-10, atol=1e-12)
    errors = relative_errors(updates, peft_updates(model))
    assert max(errors.values()) < 1e-14
    for row in report.modules:
        assert row.predicted_error == 0.0
        assert row.measured_error < 1e-15


@pytest.mark.parametrize(("name", "encoding"), written)
def test_smaller_ranks_lose_what_the_report_says_and_no_more_than_they_must(
    name, encoding, originals, tmp_path
):
    case, folder, known, updates, expected = originals(name)
    report = compress(folder, tmp_path / "out", ToRank(2), encoding=encoding)
    check(case, report, tmp_path / "out", known, updates)
    model, _ = load(case, tmp_path / "out")
    assert not torch.allclose(outputs(model), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("encoding", ["patterns", "padded"])
@pytest.mark.parametrize("name", [name for name in CASES if "bias" not in name and name != "router"])
def test_modules_left_out_are_not_missed(name, encoding, originals, tmp_path):
    case, folder, known, updates, _ = originals(name)
    full = plan_compression(audit_adapter(folder), ToRank(64))
    # Room for what has to stay (stacks of experts, an embedding saved with its base weight), and one component more.
    costs = {row.name: row.old_params // row.old_rank for row in full.modules}
    stay = {name for name in costs if "experts" in name or "wte" in name}
    others = [cost for name, cost in costs.items() if name not in stay]
    budget = sum(costs[name] for name in stay) + min(others)
    report = compress(folder, tmp_path / "out", ToBudget(max_params=budget), encoding=encoding)
    check(case, report, tmp_path / "out", known, updates)
    assert len(report.dropped) >= len(others) - 1
    assert not stay.intersection(report.dropped)


def check(case: Case, report: CompressionReport, folder: Path, known: list[str], updates: dict) -> None:
    model, messages = load(case, folder)
    assert unexpected(messages, known, report) == []
    after = peft_updates(model)
    written = {module for module, _ in after}
    assert written == {row.name for row in report.modules if row.stored_rank}
    assert set(report.dropped) == {module for module, _ in updates} - written
    errors = relative_errors(updates, after)
    ranks = {row.name: row.new_rank for row in report.modules}
    best = best_errors(updates, ranks)
    for row in report.modules:
        assert row.measured_error == pytest.approx(errors[row.name], rel=1e-8, abs=1e-14)
        assert errors[row.name] == pytest.approx(best[row.name], rel=1e-8, abs=1e-14)
        assert row.predicted_error == pytest.approx(best[row.name], rel=1e-8, abs=1e-8)
        assert row.stored_rank >= row.new_rank
    assert report.measured_error == pytest.approx(total_error(updates, after), rel=1e-8)
    assert report.kept_energy + report.predicted_error**2 == pytest.approx(1.0, abs=1e-11)
    on_disk = stored_tensors(folder)
    assert sum(
        tensor.size for name, tensor in on_disk.items() if ".lora_" in name and "bias" not in name
    ) == (report.new_params)


def total_error(before: dict, after: dict) -> float:
    lost = sum(float(np.square(update - after.get(key, 0.0)).sum()) for key, update in before.items())
    return math.sqrt(lost / sum(float(np.square(update).sum()) for update in before.values()))


@pytest.mark.parametrize(
    ("name", "encoding", "code"),
    [
        (name, encoding, code)
        for name, case in CASES.items()
        for encoding, code in (case.refused or {}).items()
    ],
)
def test_encodings_that_cannot_say_it_are_refused(name, encoding, code, originals, tmp_path):
    with pytest.raises(InputError) as refusal:
        compress(originals(name)[1], tmp_path / "out", ToRank(2), encoding=encoding)
    assert refusal.value.code == code
    assert "--encoding patterns" in refusal.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_wrapped_parameter_is_not_left_out_alone(originals, tmp_path):
    """Its wrapper would stay: `target_parameters` may match many modules."""
    with pytest.raises(InputError) as refusal:
        compress(originals("router")[1], tmp_path / "out", ToBudget(max_params=209))
    assert refusal.value.code == "parameter-dropped"


def test_config_is_changed_where_it_must_be_and_nowhere_else(originals, tmp_path):
    _, folder, *_ = originals("rslora")
    compress(folder, tmp_path / "out", ToRank(2))
    before = json.loads((folder / "adapter_config.json").read_text())
    after = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert list(after) == list(before)
    assert {name for name in before if before[name] != after[name]} == {"r", "lora_alpha", "use_rslora"}
    assert after["lora_alpha"] / after["r"] == pytest.approx(9 / math.sqrt(6), rel=1e-15)
