"""The Trainer as it is used here: on the chosen device, with the batch that the recipe says, in a seeded order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from gradience.models.devices import make_current
from gradience.models.load import Base
from gradience.training.settings import TrainSettings, stream


@dataclass
class OneDevice(TrainingArguments):
    """The Trainer's arguments, on the device that was chosen and on no other one."""

    place: str = "cpu"
    """The device, as torch writes it."""

    @property
    def device(self) -> torch.device:
        """Return the device of the model and the batches."""
        super().device  # noqa: B018  (sets up accelerate on first use)
        return torch.device(self.place)

    @property
    def n_gpu(self) -> int:
        """At most one: several would share each batch through DataParallel, and so multiply it."""
        return min(1, int(super().n_gpu))


@contextmanager
def accelerate_on(device: torch.device) -> Iterator[None]:
    """Let accelerate take `device` while this lasts."""
    name, before = "ACCELERATE_TORCH_DEVICE", os.environ.get("ACCELERATE_TORCH_DEVICE")
    os.environ[name] = str(device)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def trainer_arguments(
    recipe: TrainSettings, folder: Path, seed: int, base: Base, checkpointing: bool
) -> OneDevice:
    """Return the recipe as the Trainer's arguments, and make the base's device the current one.

    folder: for checkpoints. checkpointing: gradient checkpointing.
    """
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": recipe.max_steps or -1,
        "num_train_epochs": recipe.epochs or 1,
        "learning_rate": recipe.lr,
        "lr_scheduler_type": recipe.lr_scheduler_type,
        # transformers 5: a number below 1 is a share of all steps.
        "warmup_steps": recipe.warmup_steps or recipe.warmup_ratio or 0,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "optim": recipe.optim,
        "per_device_train_batch_size": recipe.per_device_train_batch_size,
        "gradient_accumulation_steps": recipe.gradient_accumulation_steps,
        "bf16": recipe.bf16,
        "logging_steps": recipe.logging_steps,
        "logging_nan_inf_filter": False,  # a loss that is no number must be seen
        "save_strategy": "steps" if recipe.save_steps else "no",
        "save_steps": recipe.save_steps or 500,
        "seed": stream(seed, "training"),
        "data_seed": stream(seed, "data order"),
        "use_cpu": base.device == "cpu",
        "dataloader_pin_memory": base.device.startswith("cuda"),
        "label_names": ["labels"],
        "remove_unused_columns": False,
        "report_to": [],
        "disable_tqdm": True,
    }
    if checkpointing:
        known = {field.name for field in fields(OneDevice)}
        # Renamed within transformers 5; the old name goes away in 6.
        name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
        arguments |= {name: True, f"{name}_kwargs": {"use_reentrant": False}}
    device = torch.device(base.device)
    with accelerate_on(device):
        args = OneDevice(place=base.device, **arguments)
        assert args.device == device  # checked here: the first access sets up accelerate
    make_current(device)  # transformers has just made the first GPU the current one
    return args
