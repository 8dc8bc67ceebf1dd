"""Parents of a merge, as PEFT saves them, and what their updates are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from factor_samples import write
from peft import LoraConfig
from peft_cases import CASES, Case, fresh, load
from peft_models import Updates, fill, peft_updates, save


def parent(case: Case, folder: Path, seed: int, **options: object) -> Path:
    """An adapter for the model of `case`, with factors that `seed` draws. options: of `save_pretrained` or `dtype`."""

    def prepare(model) -> None:
        torch.manual_seed(seed)
        fill(model)
        if case.prepare:
            case.prepare(model)

    save(fresh(case), case.config, folder, prepare=prepare, **options)
    return folder


def with_config(case: Case | str, **options: object) -> Case:
    """The same model with another config."""
    case = CASES[case] if isinstance(case, str) else case
    return replace(case, config=LoraConfig(**{"r": 6, "lora_alpha": 9} | options))


def pair_of(tmp_path: Path, first: Case, second: Case | None = None, **options: object) -> tuple[Path, Path]:
    """Two parents, A and B."""
    return (
        parent(first, tmp_path / "A", 1, **options),
        parent(second or first, tmp_path / "B", 2, **options),
    )


def updates_of(case: Case, folder: Path) -> Updates:
    """ΔW of every module, by PEFT."""
    return peft_updates(load(case, folder)[0])


def weighted(updates: list[Updates], weights: list[float]) -> Updates:
    """Σ w·ΔW; a module that an adapter lacks counts as 0."""
    keys = dict.fromkeys(key for one in updates for key in one)
    return {
        key: np.sum(
            [weight * one[key] for one, weight in zip(updates, weights, strict=True) if key in one], axis=0
        )
        for key in keys
    }


def write_updates(folder: Path, updates: dict[str, np.ndarray], **fields: object) -> Path:
    """An adapter of full rank whose ΔW are exactly these: B = ΔW, A = 1, s = 1."""
    factors = {name: (np.eye(update.shape[1]), update) for name, update in updates.items()}
    rank = max(update.shape[1] for update in updates.values())
    return write(folder, factors, lora_alpha=rank, target_modules=sorted(updates), **fields)
