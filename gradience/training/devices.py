"""The Trainer on the one device that was chosen, and the batch that the recipe says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import TrainingArguments

from gradience.errors import UsageError
from gradience.models.devices import processes_here
from gradience.training.settings import TrainSettings


@dataclass
class OneDevice(TrainingArguments):
    """The Trainer's arguments, on the device that was chosen and on no other one."""

    place: str = "cpu"
    """The device, as torch writes it."""

    @property
    def device(self) -> torch.device:
        """Where model and batches go."""
        super().device  # noqa: B018  (joins the other processes on first use)
        return torch.device(self.place)

    @property
    def n_gpu(self) -> int:
        """At most one: several would share each batch through DataParallel, and so multiply it."""
        return min(1, int(super().n_gpu))


@contextmanager
def accelerate_on(device: torch.device) -> Iterator[None]:
    """Accelerate takes `device` while this lasts. Among several processes it takes that of the local rank by itself."""
    name, before = "ACCELERATE_TORCH_DEVICE", os.environ.get("ACCELERATE_TORCH_DEVICE")
    if processes_here() == 1:
        os.environ[name] = str(device)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def accumulation(recipe: TrainSettings) -> int:
    """Steps of accumulation for each of the processes, so that their number does not change the batch.

    Raises UsageError (`processes`).
    """
    processes = processes_here()
    each, rest = divmod(recipe.gradient_accumulation_steps, processes)
    if rest:
        raise UsageError(
            f"{recipe.gradient_accumulation_steps} accumulation steps cannot be shared by {processes} processes",
            code="processes",
            hint="make train.gradient_accumulation_steps a multiple of runtime.processes",
        )
    return each


def sequences_per_step(args: TrainingArguments, recipe: TrainSettings) -> int:
    """Examples of an optimizer step over all processes, as the Trainer counts them.

    Raises UsageError (`effective-batch`) when they are not those of the recipe: the result would be another protocol's.
    """
    found = int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)
    asked = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    if found != asked:
        raise UsageError(
            f"a step would take {found} examples, and the recipe says {asked}",
            code="effective-batch",
            hint="let runtime.processes start the processes, or launch as many as share the accumulation steps",
        )
    return found
