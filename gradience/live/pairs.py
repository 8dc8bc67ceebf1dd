"""Which tensors are LoRA factors: PEFT's layers inside any model, wrapped or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from gradience.adapters.config import initialisation_of
from gradience.adapters.keys import parse_key

if TYPE_CHECKING:
    from peft.tuners.lora.layer import LoraLayer


@dataclass(frozen=True, slots=True)
class LivePair:
    """One LoRA module where it lives. A: (r, n …), B: (m, r …); the update is scale·B·A."""

    name: str
    A: Tensor
    B: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return int(self.A.shape[0])


def find_pairs(model: nn.Module, adapter: str | None = None) -> tuple[list[LivePair], dict[str, str]]:
    """Return PEFT's LoRA factors inside `model`, and name -> reason of the modules that cannot be measured."""
    from peft.tuners.adalora.layer import AdaLoraLayer
    from peft.tuners.lora.layer import LoraLayer, ParamWrapper

    pairs: list[LivePair] = []
    unmeasured: dict[str, str] = {}
    for path, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        name = parse_key(f"{path.replace('_orig_mod.', '')}.lora_A.weight").module
        if isinstance(layer, AdaLoraLayer):
            unmeasured[name] = "AdaLoRA"
        elif isinstance(layer, ParamWrapper):
            unmeasured[name] = "stacked experts"
        elif (chosen := adapter or _trained_adapter(layer)) and (factors := _factors(layer, chosen)):
            if reason := _unmeasurable(*factors):
                unmeasured[name] = reason
            else:
                pairs.append(LivePair(name, *factors, scale=float(layer.scaling[chosen])))
    return pairs, unmeasured


def _trained_adapter(layer: LoraLayer) -> str | None:
    """The active adapter that is being trained, else the first active one."""
    active = [name for name in layer.active_adapters if _factors(layer, name) is not None]
    trained = [name for name in active if any(factor.requires_grad for factor in _factors(layer, name) or ())]
    return next(iter(trained or active), None)


def _factors(layer: LoraLayer, adapter: str) -> tuple[Tensor, Tensor] | None:
    if adapter in layer.lora_embedding_A:
        return layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
    if adapter in layer.lora_A:
        return cast("Tensor", layer.lora_A[adapter].weight), cast("Tensor", layer.lora_B[adapter].weight)
    return None


def _unmeasurable(A: Tensor, B: Tensor) -> str | None:
    from torch.distributed.tensor import DTensor

    if isinstance(A, DTensor) or isinstance(B, DTensor) or A.numel() == 0 or B.numel() == 0:
        return "sharded over devices"
    if A.is_meta or B.is_meta:
        return "on the meta device"
    if A.shape[0] != B.shape[1]:
        return "not a plain product of two factors"
    return None


def starts_at_zero(model: nn.Module, adapter: str | None) -> bool:
    """Return whether ΔW = 0 before the first step; True for a model without PEFT."""
    configs = getattr(_unwrapped(model), "peft_config", None)
    if not configs:
        return True
    config = configs[adapter] if adapter in configs else next(iter(configs.values()))
    start = initialisation_of(config.init_lora_weights)
    return start is not None and start.zero


def _unwrapped(model: nn.Module) -> nn.Module:
    """Without DistributedDataParallel and torch.compile around it."""
    for attribute in ("module", "_orig_mod"):
        inner = getattr(model, attribute, None)
        if isinstance(inner, nn.Module) and not hasattr(model, "peft_config"):
            return _unwrapped(inner)
    return model
