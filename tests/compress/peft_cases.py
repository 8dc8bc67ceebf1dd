"""Models and adapters for every kind of module, and what PEFT makes of a folder: loaded, its outputs, its ΔW."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel
from peft.utils.other import ModulesToSaveWrapper
from peft_models import bert, gpt2, gpt_oss, llama, mixtral, qwen_moe, t5
from torch import nn

from gradience.reports.compression import CompressionReport

LINEAR = ["q_proj", "v_proj", "down_proj"]


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


class Attention(nn.Module):
    """nn.MultiheadAttention, which PEFT wraps as a whole and around its out_proj."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 2, batch_first=True)
        self.last = nn.Linear(16, 7)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.last(self.attn(hidden, hidden, hidden, need_weights=False)[0])


class Lookalikes(nn.Module):
    """Modules whose names end like those of others: `body.proj` and `inner.body.proj`, `head` and `my_head`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"proj": nn.Linear(9, 9)})
        self.inner = nn.ModuleDict({"body": nn.ModuleDict({"proj": nn.Linear(9, 9)})})
        self.other = nn.ModuleDict({"proj": nn.Linear(9, 9)})
        self.my_head = nn.Linear(9, 4)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for block in (self.body, self.inner["body"], self.other):
            hidden = torch.tanh(block["proj"](hidden))
        return self.my_head(hidden)


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


def train_saved(model: PeftModel) -> None:
    """Modules that are saved whole, trained away from the base."""
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            for parameter in module.modules_to_save["default"].parameters():
                parameter.data.add_(torch.rand(parameter.shape, dtype=parameter.dtype))


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
    "bert-head": Case(bert, config(target_modules=["query", "value", "dense"], task_type="SEQ_CLS"), train_saved),
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
    "modules-to-save": Case(
        llama, config(target_modules=LINEAR, modules_to_save=["lm_head", "input_layernorm"]), train_saved
    ),
    "token-rows": Case(llama, config(target_modules=LINEAR, trainable_token_indices=[3, 7, 11])),
    "some-layers": Case(lambda: llama(3), config(target_modules=LINEAR, layers_to_transform=[0, 2])),
    "all-but-the-head": Case(bert, config(target_modules="all-linear", task_type="SEQ_CLS"), train_saved),
    "attention": Case(
        Attention, config(target_modules=["attn", "last"], rank_pattern={"attn": 5}, alpha_pattern={"attn": 3})
    ),
    "endings": Case(
        Lookalikes,
        config(target_modules=["proj"], exclude_modules=["inner.body.proj"], modules_to_save=["head"]),
        train_saved,
    ),
    "replicated": Case(llama, config(target_modules=LINEAR, layer_replication=[[0, 2], [0, 2]])),
    "an-expression": Case(llama, config(target_modules=r".*\.[qv]_proj")),
    "excluded": Case(llama, config(target_modules=LINEAR, exclude_modules=["layers.1.self_attn.q_proj"])),
    "experts": Case(
        mixtral,
        config(target_modules=["q_proj"], target_parameters=["experts.gate_up_proj", "experts.down_proj"]),
    ),
    "experts-all-linear": Case(mixtral, config(target_modules="all-linear")),
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
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("always")
        yield messages
    messages.extend(str(record.message) for record in records)


def load(case: Case, folder: Path) -> tuple[PeftModel, list[str]]:
    """The adapter on a fresh copy of the base, in float64, and what PEFT warned of."""
    base = fresh(case).double()
    with warned() as messages:
        model = PeftModel.from_pretrained(base, folder)
    return model.eval(), messages


def load_strict(base: nn.Module, folder: Path) -> PeftModel:
    """The adapter in float64; PEFT's warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings(
            "ignore", message="`is_gradient_checkpointing` is deprecated"
        )  # PEFT asks for it
        return PeftModel.from_pretrained(base.double(), folder).eval()


def outputs(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    if isinstance(model.base_model.model, Attention | Lookalikes):
        width = 16 if isinstance(model.base_model.model, Attention) else 9
        inputs = {"hidden": torch.randn(2, 4, width, generator=generator, dtype=torch.float64)}
    elif isinstance(model.base_model.model, Pixels):
        inputs = {"pixels": torch.randn(2, 5, 7, 7, generator=generator, dtype=torch.float64)}
    else:
        tokens = torch.randint(0, 32, (2, 9), generator=generator)
        inputs = {"input_ids": tokens}
        if "T5" in type(model.base_model.model).__name__:
            inputs["decoder_input_ids"] = tokens[:, :5]
    with torch.no_grad():
        answer = model(**inputs)
    return answer if isinstance(answer, torch.Tensor) else answer.logits


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
