"""The scale that each runtime gives the modules of an adapter: PEFT's, or another one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from gradience.adapters.config import DEFAULT_ALPHA, DEFAULT_RANK
from gradience.adapters.patterns import PatternTable
from gradience.ranks import scale_of

SCALE_SLACK = 1e-9
"""Two scales this close (relatively) are the same: they came from divisions."""


class LoadedModule(NamedTuple):
    """One LoRA module. rank: inner dimension on disk, per expert."""

    name: str
    rank: int


@dataclass(frozen=True)
class LoadedAdapter:
    """The config and the modules of an adapter, as a runtime finds them."""

    config: Mapping[str, Any]
    modules: Sequence[LoadedModule]

    @cached_property
    def rank_pattern(self) -> PatternTable:
        """rank_pattern, ready for look-ups by PEFT's rule."""
        return PatternTable(self.config.get("rank_pattern") or {})

    @cached_property
    def alpha_pattern(self) -> PatternTable:
        """alpha_pattern, ready for look-ups by PEFT's rule."""
        return PatternTable(self.config.get("alpha_pattern") or {})

    @cached_property
    def r(self) -> int:
        """The global rank."""
        return int(self.config.get("r") or DEFAULT_RANK)

    @cached_property
    def alpha(self) -> float:
        """The global α."""
        value = self.config.get("lora_alpha")
        return float(DEFAULT_ALPHA if value is None else value)

    @cached_property
    def rslora(self) -> bool:
        """use_rslora."""
        return bool(self.config.get("use_rslora"))

    @cached_property
    def largest(self) -> int:
        """The largest rank, of the config and of the tensors."""
        return max((self.r, *(module.rank for module in self.modules)))

    def declared(self, module: LoadedModule) -> int:
        """Return the rank that the config gives a module."""
        value = self.rank_pattern.lookup(module.name).value
        return self.r if value is None else int(value)


Scale = Callable[[LoadedAdapter, LoadedModule], float]
"""The scale that a runtime gives a module."""


def peft_scale(adapter: LoadedAdapter, module: LoadedModule) -> float:
    """Return the scale in PEFT (0.21, tuners/lora/layer.py) and in vLLM 0.32 (lora/peft_helper.py).

    The first pattern that matches a module gives its α.
    """
    value = adapter.alpha_pattern.lookup(module.name).value
    return scale_of(
        adapter.alpha if value is None else value, adapter.declared(module), use_rslora=adapter.rslora
    )


def config_scale(adapter: LoadedAdapter, module: LoadedModule) -> float:
    """Return the scale in PEFT's hotswap: the config's α and r for every module, with rsLoRA."""
    return scale_of(adapter.alpha, adapter.r, use_rslora=adapter.rslora)


def gguf_scale(adapter: LoadedAdapter, module: LoadedModule) -> float:
    """Return the scale in llama.cpp (llama-adapter.h): the config's α over the tensor's rank; 1 where α = 0."""
    return scale_of(adapter.alpha, module.rank, use_rslora=False) if adapter.alpha else 1.0


def wrong_scale(scale: Scale, adapter: LoadedAdapter) -> str:
    """Return the modules that get another scale than PEFT gives them, in words; empty where there are none."""
    wrong = [
        module
        for module in adapter.modules
        if not math.isclose(scale(adapter, module), peft_scale(adapter, module), rel_tol=SCALE_SLACK)
    ]
    if not wrong:
        return ""
    first = wrong[0]
    used, meant = scale(adapter, first), peft_scale(adapter, first)
    return f"{len(wrong)} of {len(adapter.modules)} modules; {first.name} gets {used:.4g}, not {meant:.4g}"
