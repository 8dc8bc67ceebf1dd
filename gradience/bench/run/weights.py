"""The weights of an adapter that a stage has made: counted, asked for, removed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from gradience.adapters.locate import WEIGHTS
from gradience.errors import InputError


def parameters_of(adapter: Path) -> tuple[int, int]:
    """Count the parameters in an adapter's file: of LoRA factors, and of everything else."""
    from safetensors import safe_open

    lora = other = 0
    with safe_open(adapter / WEIGHTS, framework="np") as file:
        for name in file.keys():  # noqa: SIM118  (no dict)
            size = math.prod(file.get_slice(name).get_shape())
            if "lora_" in name:
                lora += size
            else:
                other += size
    return lora, other


def require_weights(adapter: Path) -> None:
    """Raise InputError (`weights-removed`) where a finished stage is needed again and its weights are gone."""
    if not (adapter / WEIGHTS).is_file():
        raise InputError(
            f"{adapter}: its weights are needed again, and were removed when the run ended (runtime.keep_adapters)",
            code="weights-removed",
            hint=f"delete {adapter.parent} and run again to retrain it, or give another --output",
        )


def remove_weights(stages: Iterable[Path]) -> None:
    """Delete the weights below these folders; configs, reports and records stay."""
    for folder in stages:
        for path in folder.rglob(WEIGHTS):
            path.unlink()
