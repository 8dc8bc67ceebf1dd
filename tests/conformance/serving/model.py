"""A tiny random Llama, adapters for it, and log-probabilities that use neither PEFT nor the writer under test."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

Logprobs = list[list[float]]
"""One list per prompt, one log-probability per token of the vocabulary."""
Update = tuple[float, np.ndarray, np.ndarray]
"""s, A (r, n), B (m, r)."""

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROMPTS = [[1, 5, 9, 33], [7, 99, 100, 3, 2, 64], [120, 11], [64, 64, 65, 1, 0, 17, 31, 88, 90]]
MAX_TOKENS = 64
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def make_base(folder: Path) -> None:
    """Two layers, four heads of 32 (the smallest that vLLM's CPU attention takes), grouped keys and values."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=128,
        max_position_embeddings=128,
        initializer_range=0.15,  # large enough for the prompts to disagree about the next token
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def load_base(folder: Path) -> LlamaForCausalLM:
    """The base model, in float32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def make_adapter(base: Path, folder: Path, seed: int, **settings: Any) -> None:
    """An adapter with a decaying spectrum in every module: components differ by half an octave."""
    torch.manual_seed(seed)
    model = get_peft_model(load_base(base), LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ("lora_B" in name or "lora_embedding_B" in name) and parameter.ndim == 2:
                parameter.normal_(std=0.06)
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


def logprobs(model: torch.nn.Module) -> Logprobs:
    """log p(next token | prompt) for the whole vocabulary."""
    with torch.no_grad():
        last = [model(input_ids=torch.tensor([prompt])).logits[0, -1] for prompt in PROMPTS]
    return [torch.log_softmax(row.double(), dim=-1).tolist() for row in last]


def peft_logprobs(base: Path, adapter: Path) -> Logprobs:
    """With the adapter loaded by PEFT. A missing tensor is an error here, not a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        model = PeftModel.from_pretrained(load_base(base), adapter)
    return logprobs(model.eval())


def hotswap_logprobs(base: Path, loaded: Path, adapter: Path) -> Logprobs:
    """With `loaded` loaded by PEFT and then swapped for the adapter."""
    model = PeftModel.from_pretrained(load_base(base), loaded)
    hotswap_adapter(model, str(adapter), adapter_name="default", torch_device="cpu")
    return logprobs(model.eval())


def dense_logprobs(
    base: Path, updates: Mapping[str, Update], ranks: Mapping[str, int] | None = None
) -> Logprobs:
    """With s·B·A added to the weights in float64, cut to `ranks` by a dense SVD: neither PEFT nor r-space."""
    model = load_base(base)
    with torch.no_grad():
        for name, (scale, factor_A, factor_B) in updates.items():
            delta = scale * factor_B @ factor_A
            if ranks is not None:
                delta = truncated(delta, ranks[name])
            weight = model.get_submodule(name).weight
            if isinstance(model.get_submodule(name), torch.nn.Embedding):
                delta = delta.T  # an embedding is stored (vocabulary, dim)
            weight.copy_((weight.double() + torch.from_numpy(delta)).float())
    return logprobs(model)


def truncated(delta: np.ndarray, rank: int) -> np.ndarray:
    """The best approximation of this rank (Eckart–Young)."""
    left, values, right = np.linalg.svd(delta, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def updates_of(adapter: Path) -> dict[str, Update]:
    """s, A and B of every module, read with PEFT's rule as its documentation has it."""
    fields = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    tensors = load_file(adapter / WEIGHTS)
    found: dict[str, Update] = {}
    for key, tensor in tensors.items():
        module, is_factor, _ = key.removeprefix("base_model.model.").partition(".lora_")
        if not is_factor or not key.endswith(("lora_A.weight", "lora_embedding_A")):
            continue
        rank = _by_pattern(fields["rank_pattern"], module, fields["r"])
        alpha = _by_pattern(fields["alpha_pattern"], module, fields["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if fields["use_rslora"] else rank)
        factor_B = tensors[key.replace("_A", "_B")]
        found[module] = (scale, tensor.double().numpy(), factor_B.double().numpy())
    return found


def _by_pattern(pattern: Mapping[str, float], name: str, otherwise: float) -> float:
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", name)), otherwise)
