"""Where a run that several machines share keeps what: names, and nothing else.

A run without a storage has its folder DIR, which all machines see, and below DIR/.shared what they tell each other.
With one, all of it lies below STORAGE/<the plan's digest>.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradience.storage.place import Place

SHARED = ".shared"


def is_address(storage: str) -> bool:
    """Whether it is the address of a storage, and not a folder."""
    return "://" in storage


def place_of(storage: str, plan_digest: str) -> Place:
    """Where the machines of the run tell each other what they do."""
    return Place.at(f"{storage}/{plan_digest[:16]}" if is_address(storage) else f"{storage}/{SHARED}")


def folder_of_seed(run: Path, seeds: Sequence[int], seed: int) -> Path:
    """The folder of a seed in the folder of the run, which is the same where there is one seed."""
    return run if len(seeds) == 1 else run / f"seed_{seed}"


def lease_name(seed: int, stage: str) -> str:
    return f"leases/{seed}/{stage}"


def spec_name(seed: int, stage: str) -> str:
    return f"specs/{seed}/{stage}.json"


def failure_name(seed: int, stage: str) -> str:
    return f"failures/{seed}/{stage}.json"


def log_name(seed: int, stage: str) -> str:
    return f"logs/{seed}/{stage}.log"
