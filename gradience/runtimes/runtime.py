"""The runtimes that were run: the scale that each gives a module, and what it needs to load an adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gradience.ranks import max_lora_rank_step
from gradience.runtimes.scales import LoadedAdapter, Scale, config_scale, gguf_scale, peft_scale


class Runtime(NamedTuple):
    """One runtime. The runs hold `scale` to what the runtime computed; `needs` is what the run needed, in words."""

    scale: Scale
    needs: Callable[[LoadedAdapter], str] = lambda adapter: ""


def _slot(adapter: LoadedAdapter) -> str:
    return (
        f"in place of an adapter of use_rslora {adapter.rslora}, rank {adapter.largest} or more, "
        "and the same lora_dropout"
    )


def _allocated(adapter: LoadedAdapter) -> str:
    return f"with --max-lora-rank {max_lora_rank_step(adapter.largest)} or more"


RUNTIMES: dict[str, Runtime] = {
    "PEFT": Runtime(peft_scale),
    "PEFT hotswap": Runtime(config_scale, _slot),
    "vLLM": Runtime(peft_scale, _allocated),
    "llama.cpp": Runtime(gguf_scale),
}
"""By the names of `runs.json`."""
