"""What each LoRA module sees: h = A·x on the way forward, t = Bᵀ·g on the way back, without a copy of the model.

t is the gradient at the output of A, since h goes nowhere but into B. Nothing of it is kept: a consumer is called with
both as soon as t is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

PREFIX = "base_model.model."
EXPERT = re.compile(r"experts?(_?\d+)?")
"""Part of the path of a module that sees some tokens, in the order of a router."""
_EXPERTS = re.compile(r"(moe_)?(num|n)_(local_|routed_)?experts")
_CHOSEN = re.compile(r"num_experts_per_tok(en)?|num_selected_experts|top_k_experts|moe_(top_?)?k")
"""Names in the configs of transformers: how many experts there are, and how many of them each token passes."""
Consumer = Callable[[str, Tensor, Tensor], None]
"""Called with the module's name, h and t; both (…, r)."""


class Reach(NamedTuple):
    """LoRA layers of the active adapter by name, and why others cannot be watched."""

    layers: Mapping[str, Any]
    reasons: Mapping[str, str]


def reach(model: Any) -> Reach:
    """The layers of the active adapter of a `PeftModel` that apply B·A to what they are given, and the others."""
    from peft.tuners.lora import LoraLayer

    key = model.active_adapter
    layers, reasons = {}, {}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and key in layer.r:
            short = name.removeprefix(PREFIX)
            reason = _why_not(short, layer, key)
            if reason:
                reasons[short] = reason
            else:
                layers[short] = layer
    return Reach(layers, reasons)


def routing_of(config: Mapping[str, Any]) -> str:
    """Return how a base routes, by its config: empty if each token passes all experts, or if there are none.

    >>> routing_of({"num_local_experts": 8, "num_experts_per_tok": 2})
    '2 of 8 experts'
    """
    nested = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    for values in nested:
        numbers = {name: value for name, value in values.items() if type(value) is int}
        experts = max((value for name, value in numbers.items() if _EXPERTS.fullmatch(name)), default=0)
        chosen = [value for name, value in numbers.items() if _CHOSEN.fullmatch(name)]
        if experts > 1 and (not chosen or min(chosen) < experts):
            return f"{min(chosen) if chosen else 'some'} of {experts} experts"
    return ""


def _why_not(name: str, layer: Any, key: str) -> str:
    from peft.tuners.lora.layer import MultiheadAttention, ParamWrapper

    if key in layer.lora_variant:
        return "not plain LoRA: its output is not linear in B·A"
    if isinstance(layer, ParamWrapper):
        return "a parameter (stacked experts): PEFT adds B·A to the weights"
    if isinstance(layer, MultiheadAttention):
        return "nn.MultiheadAttention: PEFT adds B·A to the weights"
    if any(EXPERT.fullmatch(part) for part in name.split(".")):
        return "an expert: it sees the tokens that a router sends to it"
    if key in layer.lora_embedding_A:
        return ""
    if key not in layer.lora_A or not isinstance(layer.lora_A[key], nn.Linear):
        return "a convolution"
    return ""


@contextmanager
def capturing(model: Any, layers: Mapping[str, Any], consumer: Consumer) -> Iterator[None]:
    """While this lasts, a backward pass hands h and t of each call of each layer to `consumer`."""
    key = model.active_adapter
    with ExitStack() as stack:
        for name, layer in layers.items():
            if key in layer.lora_embedding_A:
                stack.enter_context(_embedding(layer, name, consumer))
            else:
                handle = layer.lora_A[key].register_forward_hook(_hook(name, consumer))
                stack.callback(handle.remove)
        yield


def _hook(name: str, consumer: Consumer) -> Callable[[Any, Any, Tensor], Tensor]:
    return lambda _module, _arguments, h: _tracked(name, h, consumer)


@contextmanager
def _embedding(layer: Any, name: str, consumer: Consumer) -> Iterator[None]:
    """An embedding looks its A up, in one call of a method, instead of calling a module."""
    look_up = layer._embed

    def tracked(*arguments: Any, **options: Any) -> Tensor:
        return _tracked(name, look_up(*arguments, **options), consumer)

    layer._embed = tracked
    try:
        yield
    finally:
        del layer._embed


def _tracked(name: str, h: Tensor, consumer: Consumer) -> Tensor:
    if not torch.is_grad_enabled():
        return h
    if not h.requires_grad:  # the first LoRA module: nothing before it has a gradient
        h.requires_grad_(True)
    seen = h.detach()

    def receive(t: Tensor) -> None:
        consumer(name, seen, t.detach())

    h.register_hook(receive)  # type: ignore[no-untyped-call]
    return h
