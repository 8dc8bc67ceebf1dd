"""The Trainer as it is used here: on the chosen device, with the batch that the recipe says, in a seeded order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from gradience.errors import UsageError
from gradience.models.devices import make_current, processes_here
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
        super().device  # noqa: B018  (joins the other processes on first use)
        return torch.device(self.place)

    @property
    def n_gpu(self) -> int:
        """At most one: several would share each batch through DataParallel, and so multiply it."""
        return min(1, int(super().n_gpu))


BY_LENGTH = "group_by_length"
"""transformers' name for the option."""


class ByLength(Sampler[int]):
    """Batches of similar length, in an order that depends on the seed and the epoch number.

    transformers' own sampler draws from torch's global state, so a resumed training would see other examples
    than an uninterrupted one.
    """

    def __init__(self, lengths: Sequence[int], together: int, seed: int) -> None:
        """lengths: tokens of each example. together: examples of a step."""
        self.lengths, self.together, self.seed = list(lengths), together, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        places: list[int] = get_length_grouped_indices(  # type: ignore[no-untyped-call]
            self.lengths, self.together, generator=generator
        )
        return iter(places)

    def __len__(self) -> int:
        return len(self.lengths)


class OrderedTrainer(Trainer):
    """The Trainer, with `ByLength` if its arguments group by length."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != BY_LENGTH:
            return super()._get_train_sampler(train_dataset)
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        args = self.args
        step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return ByLength([len(row["input_ids"]) for row in rows], step, int(args.data_seed or 0))


@contextmanager
def products_in_tf32(wanted: bool) -> Iterator[None]:
    """Compute products of float32 matrices in TF32, or exactly, while this lasts, whatever the process did before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if wanted else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def accelerate_on(device: torch.device) -> Iterator[None]:
    """Let accelerate take `device` while this lasts; of several processes each takes that of its local rank anyway."""
    name, before = "ACCELERATE_TORCH_DEVICE", os.environ.get("ACCELERATE_TORCH_DEVICE")
    if processes_here() == 1:
        os.environ[name] = str(device)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def sequences_per_step(args: TrainingArguments, recipe: TrainSettings) -> int:
    """Return the examples of an optimizer step over all processes, as the Trainer counts them.

    Raises UsageError (`effective-batch`) when they are not those of the recipe: the result would be another protocol's.
    """
    counted = int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)
    planned = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    if counted != planned:
        raise UsageError(
            f"a step would train on {counted} examples, but the recipe says {planned}",
            code="effective-batch",
            hint="set runtime.processes and launch one process, or a number that divides the accumulation steps",
        )
    return counted


def trainer_arguments(
    recipe: TrainSettings, folder: Path, seed: int, base: Base, checkpointing: bool
) -> OneDevice:
    """Return the recipe as the Trainer's arguments, and make the base's device the current one.

    folder: for checkpoints. checkpointing: gradient checkpointing. Raises UsageError (`processes`).
    """
    processes = processes_here()
    accumulation, rest = divmod(
        recipe.gradient_accumulation_steps, processes
    )  # so that the batch stays what it is
    if rest:
        raise UsageError(
            f"{recipe.gradient_accumulation_steps} accumulation steps cannot be shared by {processes} processes",
            code="processes",
            hint="set train.gradient_accumulation_steps to a multiple of runtime.processes",
        )
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
        "gradient_accumulation_steps": accumulation,
        "bf16": recipe.bf16,
        "train_sampling_strategy": BY_LENGTH if recipe.group_by_length else "random",
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
