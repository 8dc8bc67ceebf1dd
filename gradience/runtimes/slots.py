"""What one adapter takes of a server's memory: vLLM keeps slots, each as large as the largest rank that it may hold."""

from __future__ import annotations

import math

from gradience.ranks import VLLM_MAX_LORA_RANKS
from gradience.runtimes.record import read_runs

ENGINE = "vLLM"
SLOT_BYTES = 2
"""Of one number: adapters are held in the base's type, which is a 16-bit one (`lora_dtype: auto`)."""


def engine() -> str:
    """Return the engine and its version that was run: `vLLM 0.32.0`."""
    return next(f"{ENGINE} {record.version}" for record in read_runs() if record.runtime == ENGINE)


def slot_bytes(width: float, max_lora_rank: int) -> int:
    """Return the bytes of one slot: A is (max_lora_rank, n) and B (m, max_lora_rank) of every module, zeros included.

    width: Σ(m + n) over the modules that LoRA is on. A lower bound, since vLLM holds room for every module of the model
    that can have LoRA (of `lora_target_modules`, where that is set), embedding and head among them, whether or not an
    adapter uses it. Source: `create_lora_weights` of vLLM 0.32.0, lora/layers/base_linear.py; checked against what
    it holds for every linear module of SmolLM2-135M (docs/conformance/vllm_slots.json).
    """
    return math.ceil(SLOT_BYTES * width * max_lora_rank)


def steps_below(rank: int) -> tuple[int, ...]:
    """Return vLLM's permitted max_lora_rank below the one that holds `rank`, from the next one down."""
    holding = next((step for step in VLLM_MAX_LORA_RANKS if rank <= step), math.inf)
    return tuple(step for step in reversed(VLLM_MAX_LORA_RANKS) if step < holding)
