"""An adapter as a runtime finds it, and the scales that runtimes give its modules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from gradience.adapters.patterns import PatternTable

PEFT_DEFAULT = 8
"""r and lora_alpha of a config that does not say (PEFT 0.21, tuners/lora/config.py)."""


class Module(NamedTuple):
    """One LoRA module. rank: inner dimension on disk, per expert.   rows, columns: m and n of ΔW."""

    name: str
    rank: int
    rows: int
    columns: int
    kind: str


class Place(NamedTuple):
    """Where a module sits: `model.layers.3.mlp.up_proj` is in layer 3, of the type `model.layers.*.mlp.up_proj`."""

    layer: int | None
    type: str
    last: str


@dataclass(frozen=True)
class Written:
    """The config and the modules of an adapter."""

    config: Mapping[str, Any]
    modules: Sequence[Module]

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
        return int(self.config.get("r") or PEFT_DEFAULT)

    @cached_property
    def alpha(self) -> float:
        """The global α."""
        value = self.config.get("lora_alpha")
        return float(PEFT_DEFAULT if value is None else value)

    @cached_property
    def rslora(self) -> bool:
        """use_rslora."""
        return bool(self.config.get("use_rslora"))

    @cached_property
    def largest(self) -> int:
        """The largest rank, of the config and of the tensors."""
        return max((self.r, *(module.rank for module in self.modules)))

    def declared(self, module: Module) -> int:
        """The rank that the config gives a module."""
        found = self.rank_pattern.lookup(module.name).value
        return self.r if found is None else int(found)

    @cached_property
    def certain(self) -> bool:
        """False where a key of the patterns could not be evaluated: then the scale is not known."""
        tables = (self.rank_pattern, self.alpha_pattern)
        return all(table.lookup(module.name).certain for table in tables for module in self.modules)

    def names(self, key: str) -> tuple[str, ...]:
        """A list of names in the config; empty where there is none."""
        value = self.config.get(key)
        return tuple(str(item) for item in value) if isinstance(value, list | tuple) else ()

    @cached_property
    def layers(self) -> dict[int, set[str]]:
        """Layer -> last parts of the names of its modules."""
        found: dict[int, set[str]] = {}
        for module in self.modules:
            place = place_of(module.name)
            if place.layer is not None:
                found.setdefault(place.layer, set()).add(place.last)
        return found

    @cached_property
    def types(self) -> dict[str, list[Module]]:
        """Type of module -> its modules, one per layer."""
        found: dict[str, list[Module]] = {}
        for module in self.modules:
            found.setdefault(place_of(module.name).type, []).append(module)
        return found


def place_of(name: str) -> Place:
    """Split a module's name at its first index."""
    parts = name.split(".")
    for position, part in enumerate(parts):
        if part.isdecimal():
            return Place(int(part), ".".join([*parts[:position], "*", *parts[position + 1 :]]), parts[-1])
    return Place(None, name, parts[-1])


# ---------------------------------------------------------------- scales

Scale = Callable[[Written, Module], float]
"""The scale that a runtime gives a module."""


def _divided(alpha: float, rank: int, rslora: bool) -> float:
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def peft_scale(adapter: Written, module: Module) -> float:
    """PEFT (0.21, tuners/lora/layer.py), and vLLM 0.32 (lora/peft_helper.py): the first pattern that matches."""
    found = adapter.alpha_pattern.lookup(module.name).value
    return _divided(adapter.alpha if found is None else found, adapter.declared(module), adapter.rslora)


def config_scale(adapter: Written, module: Module) -> float:
    """PEFT's hotswap, older vLLM, LoRAX: the config's α and r for every module, with rsLoRA."""
    return _divided(adapter.alpha, adapter.r, adapter.rslora)


def plain_scale(adapter: Written, module: Module) -> float:
    """SGLang (srt/lora/lora.py): the config's α/r for every module; use_rslora is not read."""
    return _divided(adapter.alpha, adapter.r, False)


def tensor_scale(adapter: Written, module: Module) -> float:
    """TensorRT-LLM (lora_manager.py): the config's α and the tensor's own rank, with rsLoRA."""
    return _divided(adapter.alpha, module.rank, adapter.rslora)


def gguf_scale(adapter: Written, module: Module) -> float:
    """llama.cpp (llama-adapter.h): the config's α over the tensor's own rank; α = 0 means a scale of 1."""
    return _divided(adapter.alpha, module.rank, False) if adapter.alpha else 1.0
