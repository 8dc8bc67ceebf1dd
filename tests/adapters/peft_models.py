"""Tiny random models, and adapters on them saved by PEFT itself, with what PEFT says their ΔW is."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.numpy import load_file
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

Updates = dict[tuple[str, int | None], np.ndarray]
"""(module, expert) -> ΔW (m, n), float64."""
TARGETS = ["q_proj", "down_proj"]


def llama(layers: int = 2) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=48,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )


def bert() -> BertForSequenceClassification:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
        )
    )


def gpt2() -> GPT2LMHeadModel:
    # Three times the width is the output of c_attn, four times that of c_fc: no side is like another.
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=16, n_embd=12, n_layer=2, n_head=2))


def t5() -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(
        T5Config(vocab_size=40, d_model=16, d_kv=6, d_ff=24, num_layers=2, num_heads=2)
    )


_MOE = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_experts_per_tok": 2,
}


def mixtral() -> MixtralForCausalLM:
    return MixtralForCausalLM(MixtralConfig(**_MOE, intermediate_size=24, num_local_experts=3))


def qwen_moe() -> Qwen2MoeForCausalLM:
    return Qwen2MoeForCausalLM(
        Qwen2MoeConfig(
            **_MOE,
            intermediate_size=24,
            moe_intermediate_size=10,
            shared_expert_intermediate_size=20,
            num_experts=4,
        )
    )


def gpt_oss() -> GptOssForCausalLM:
    """Stores its experts as (experts, in, out): PEFT does not swap the sides."""
    return GptOssForCausalLM(GptOssConfig(**_MOE, head_dim=8, intermediate_size=24, num_local_experts=3))


class Convolutions(nn.Module):
    """One convolution of every kind. Without padding a kernel-sized input gives one output position."""

    def __init__(self) -> None:
        super().__init__()
        self.three = nn.Conv2d(6, 8, 3)
        self.one = nn.Conv2d(6, 8, 1)
        self.line = nn.Conv1d(5, 7, 3)
        self.solid = nn.Conv3d(4, 6, 2)
        self.grouped = nn.Conv2d(8, 12, 3, groups=2)
        self.depthwise = nn.Conv1d(4, 4, 3, groups=4)


class Experts(nn.Module):
    """Three parameters in the order in which DBRX defines them, which is not that of the alphabet."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        for index, name in enumerate(names):
            setattr(self, name, nn.Parameter(torch.zeros(3, 6 + index, 9 + index)))


class Mixture(nn.Module):
    """A model with one block of experts."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.experts = Experts(names)


@dataclass
class Saved:
    """A saved adapter. `model` is in float64 now, so that PEFT computes ΔW from the stored values exactly."""

    path: Path
    model: PeftModel
    updates: Updates

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        return stored_tensors(self.path)


def stored_tensors(folder: Path) -> dict[str, np.ndarray]:
    """What lies in the file. (Not for bf16, which numpy does not have.)"""
    return load_file(folder / "adapter_model.safetensors")


def save(
    base: nn.Module,
    config: LoraConfig,
    path: Path,
    *,
    adapter: str = "default",
    dtype: torch.dtype | None = None,
    prepare: Callable[[PeftModel], None] | None = None,
    **save_options: object,
) -> Saved:
    """Make an adapter with random non-zero factors and let PEFT save it at `path`."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns about what is meant here: ties, groups, biases
        model = get_peft_model(base, config, adapter_name=adapter)
        if dtype is not None:
            model = model.to(dtype)
        fill(model)
        if prepare:
            prepare(model)
        model.save_pretrained(path, **save_options)
    return Saved(path, model.double(), peft_updates(model, adapter))


def fill(model: PeftModel) -> None:
    """Random values in every factor, falling from direction to direction like those of trained adapters."""
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_embedding_A" in name:
            values = torch.randn(parameter.shape)
        elif "lora_B" in name or "lora_embedding_B" in name:
            values = torch.randn(parameter.shape)
            if parameter.ndim > 1:  # not the bias of lora_B
                decay = 0.6 ** torch.arange(parameter.shape[1])
                values = values * decay.reshape(-1, *[1] * (parameter.ndim - 2))
        elif "lora_magnitude" in name or "trainable_tokens_delta" in name:
            values = torch.rand(parameter.shape) + 0.5
        else:
            continue
        parameter.data.copy_(values)


def peft_updates(model: PeftModel, adapter: str = "default") -> Updates:
    """ΔW of every LoRA layer, by PEFT's own layers in float64."""
    updates: Updates = {}
    for name, layer in model.base_model.model.named_modules():
        if not isinstance(layer, LoraLayer) or adapter not in layer.scaling:
            continue
        if isinstance(layer.get_base_layer(), nn.Conv1d | nn.Conv2d | nn.Conv3d):
            updates[name, None] = _convolution_update(layer, adapter)
            continue
        delta = layer.get_delta_weight(adapter).detach().numpy()
        assert delta.dtype == np.float64
        parameter = getattr(layer, "parameter_name", None)
        if parameter is None:
            swapped = getattr(layer, "fan_in_fan_out", False) or "Embedding" in type(layer).__name__
            updates[name, None] = delta.T if swapped else delta
            continue
        full = f"{name.replace('.base_layer', '')}.{parameter}"
        if delta.ndim == 2:
            updates[full, None] = delta
            continue
        for expert, one in enumerate(delta):
            updates[full, expert] = one if layer._did_swap_in_out_features else one.T
    return updates


def _convolution_update(layer: LoraLayer, adapter: str) -> np.ndarray:
    """The linear map from one input patch (channels · kernel) to the output channels, by running PEFT's two layers.

    `get_delta_weight` of grouped convolutions mixes up their axes (merging is not supported there); for all
    others it is compared with this.
    """
    first, second = layer.lora_A[adapter], layer.lora_B[adapter]
    size = (first.in_channels, *first.kernel_size)
    patches = torch.eye(int(np.prod(size)), dtype=torch.float64).reshape(-1, *size)
    with torch.no_grad():
        update = second(first(patches)).reshape(len(patches), -1).T * layer.scaling[adapter]
        if layer.get_base_layer().groups == 1:
            delta = layer.get_delta_weight(adapter)
            assert torch.allclose(delta.reshape(update.shape), update, rtol=1e-12, atol=1e-14)
    return update.numpy()
