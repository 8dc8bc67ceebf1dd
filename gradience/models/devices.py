"""On which device this process computes: one process, one device, in training and in evaluation alike.

transformers would take every visible GPU of a process (`DataParallel`, which multiplies the batch) and put the model on
the first one; under torchrun each process has a local rank, which is the number of its GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import TrainingArguments

from gradience.bench.config.sections import RuntimeSettings
from gradience.training.settings import TrainSettings
from gradience.errors import UsageError

SEEN = "`gradience env` says what torch sees"


def processes_here() -> int:
    """Processes of the training that this process belongs to, as torchrun or `accelerate launch` says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def choose_device(device: str = "auto") -> torch.device:
    """The one device of this process. `auto`: a GPU where there is one, that of the local rank under torchrun.

    Raises UsageError: `no-device` for a device that this machine lacks, `processes` when several processes would
    share one device.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        device = "cuda" if cuda else "mps" if mps else "cpu"
    chosen = torch.device(device)
    if not {"cpu": True, "cuda": cuda, "mps": mps}.get(chosen.type, False):
        raise UsageError(
            f"runtime.device is {device}, and this machine has none",
            code="no-device",
            hint=f"use cpu or auto; {SEEN}",
        )
    named = ":" in device
    if processes_here() > 1 and (named or chosen.type == "mps"):
        raise _shared(device, processes_here())
    if chosen.type != "cuda":
        return chosen
    index = chosen.index if named else int(os.environ.get("LOCAL_RANK", "0"))
    if index >= torch.cuda.device_count():
        raise UsageError(
            f"there is no cuda:{index}: this machine has {_gpus(torch.cuda.device_count())}",
            code="no-device",
            hint=f"name another runtime.device, or fewer runtime.processes; {SEEN}",
        )
    return torch.device("cuda", index)


def check_devices(runtime: RuntimeSettings) -> None:
    """Refuse, before anything is run, what `choose_device` would refuse in a training process.

    Raises UsageError (`no-device`, `processes`).
    """
    device = choose_device(runtime.device)
    if runtime.processes == 1 or device.type == "cpu":
        return
    if device.type == "mps":
        raise _shared(runtime.device, runtime.processes)
    if runtime.processes > torch.cuda.device_count():
        raise UsageError(
            f"runtime.processes is {runtime.processes}, and this machine has {_gpus(torch.cuda.device_count())}",
            code="processes",
            hint=f"one process for each GPU; {SEEN}",
        )


def make_current(device: torch.device) -> None:
    """Let what asks torch for "the" GPU get this one: bitsandbytes, accelerate, the state of the random numbers."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


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


def _shared(device: str, processes: int) -> UsageError:
    return UsageError(
        f"runtime.device {device} is one device, and there are {processes} processes",
        code="processes",
        hint="runtime.device: cuda gives each process a GPU of its own",
    )


def _gpus(count: int) -> str:
    return f"{count} GPU" if count == 1 else f"{count} GPUs"
