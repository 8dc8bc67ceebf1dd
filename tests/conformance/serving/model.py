"""Adapters for a tiny base model, and log-probabilities that use neither PEFT nor the writer under test."""

import json
import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig
from transformers.pytorch_utils import Conv1D

from conformance.serving.architectures import Architecture
from gradience.models.embedded import smollm2

Logprobs = list[list[float]]
"""One list per prompt, one log-probability per token of the vocabulary."""
Update = tuple[float, np.ndarray, np.ndarray]
"""s, A (r, n), B (m, r)."""

PROMPTS = [[1, 5, 9, 33], [7, 99, 100, 3, 2, 64], [120, 11], [64, 64, 65, 1, 0, 17, 31, 88, 90]]
MAX_TOKENS = 64
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Base:
    """A base model on disk."""

    architecture: Architecture
    folder: Path

    def load(self) -> Any:
        """The model, in float32."""
        return self.architecture.load_base(self.folder)

    def logprobs(self, model: torch.nn.Module) -> Logprobs:
        """log p after each prompt, for the whole vocabulary or for the classes."""
        with torch.no_grad():
            rows = [self.architecture.logits(model, prompt) for prompt in PROMPTS]
        return [torch.log_softmax(row.double(), dim=-1).tolist() for row in rows]


def smollm2_base() -> Base:
    """SmolLM2-135M, from the package index."""
    return Base(Architecture("LlamaForCausalLM", LlamaConfig), smollm2())


def make_adapter(base: Base, folder: Path, seed: int, **settings: Any) -> None:
    """An adapter with a decaying spectrum in every module: components differ by half an octave."""
    torch.manual_seed(seed)
    model = get_peft_model(base.load(), LoraConfig(task_type=base.architecture.task, **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ("lora_B" in name or "lora_embedding_B" in name) and parameter.ndim == 2:
                parameter.normal_(std=0.06)
                if "experts" not in name:  # their columns are (rank, expert)
                    parameter.mul_(2.0 ** (-torch.arange(parameter.shape[1]) / 2))
            elif parameter.requires_grad and "lora_A" not in name and "lora_embedding_A" not in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)


def copy_adapter(
    source: Path,
    folder: Path,
    *,
    config: Mapping[str, Any],
    tensors: Callable[[str], float | None] = lambda name: 1.0,
) -> None:
    """`source` with other config fields, and every tensor multiplied by `tensors(name)` (None: left out)."""
    folder.mkdir(parents=True)
    fields = json.loads((source / CONFIG).read_text(encoding="utf-8")) | config
    (folder / CONFIG).write_text(json.dumps(fields, indent=2), encoding="utf-8")
    factors = {name: (tensor, tensors(name)) for name, tensor in load_file(source / WEIGHTS).items()}
    kept = {name: tensor * factor for name, (tensor, factor) in factors.items() if factor is not None}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})


# ---------------------------------------------------------------- three ways to the same log-probabilities


def peft_logprobs(base: Base, adapter: Path) -> Logprobs:
    """With the adapter loaded by PEFT. A missing tensor is an error here, not a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        model = PeftModel.from_pretrained(base.load(), adapter)
    return base.logprobs(model.eval())


def hotswap_logprobs(base: Base, loaded: Path, adapter: Path) -> Logprobs:
    """With `loaded` loaded by PEFT and then swapped for the adapter."""
    model = PeftModel.from_pretrained(base.load(), loaded)
    hotswap_adapter(model, str(adapter), adapter_name="default", torch_device="cpu")
    return base.logprobs(model.eval())


def dense_logprobs(
    base: Base,
    adapter: Path,
    ranks: Mapping[str, int] | None = None,
    scales: Mapping[str, float] | None = None,
) -> Logprobs:
    """With what is saved whole put in, and s·B·A added to the weights in float64: neither PEFT nor r-space.

    ranks: to which a dense SVD cuts each update.   scales: used in place of PEFT's.
    """
    model = base.load()
    with torch.no_grad():
        for name, tensor in whole_of(adapter).items():
            module_name, _, parameter = name.rpartition(".")
            setattr(model.get_submodule(module_name), parameter, torch.nn.Parameter(tensor))
        for name, (scale, factor_A, factor_B) in updates_of(adapter).items():
            delta = (scale if scales is None else scales[name]) * factor_B @ factor_A
            if ranks is not None:
                delta = truncated(delta, ranks[name])
            module = model.get_submodule(name)
            if isinstance(module, torch.nn.Embedding | Conv1D):
                delta = delta.T  # stored (vocabulary, dim), and (in, out)
            # A new parameter: the head and the embedding of a tied model are one, and only one of them is meant.
            module.weight = torch.nn.Parameter((module.weight.double() + torch.from_numpy(delta)).float())
    return base.logprobs(model)


def truncated(delta: np.ndarray, rank: int) -> np.ndarray:
    """The best approximation of this rank (Eckart–Young)."""
    left, values, right = np.linalg.svd(delta, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def updates_of(adapter: Path) -> dict[str, Update]:
    """s, A and B of every module, read with PEFT's rule as its documentation has it."""
    fields = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    tensors = load_file(adapter / WEIGHTS)
    factors: dict[str, Update] = {}
    for key, tensor in tensors.items():
        module, is_factor, _ = key.removeprefix("base_model.model.").partition(".lora_")
        if not is_factor or not key.endswith(("lora_A.weight", "lora_embedding_A")):
            continue
        rank = _by_pattern(fields["rank_pattern"], module, fields["r"])
        alpha = _by_pattern(fields["alpha_pattern"], module, fields["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if fields["use_rslora"] else rank)
        factor_B = tensors[key.replace("_A", "_B")]
        factors[module] = (scale, tensor.double().numpy(), factor_B.double().numpy())
    return factors


def whole_of(adapter: Path) -> dict[str, torch.Tensor]:
    """What an adapter holds beside factors: biases and modules that were saved whole."""
    tensors = load_file(adapter / WEIGHTS)
    names = {name: name.removeprefix("base_model.model.").replace(".base_layer", "") for name in tensors}
    return {names[name]: tensor for name, tensor in tensors.items() if ".lora_" not in name}


def _by_pattern(pattern: Mapping[str, float], name: str, otherwise: float) -> float:
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", name)), otherwise)
