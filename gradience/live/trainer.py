"""Which Trainer runs the callback: its class, the classes that it extends, and a few settings of its method."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from transformers import Trainer, TrainerState, TrainingArguments

SETTINGS = ("beta", "loss_type", "num_generations", "max_completion_length", "scale_rewards")
"""Settings of preference and reinforcement learning that a reader of the log needs."""


def describe_trainer(args: TrainingArguments, state: TrainerState) -> dict[str, Any]:
    """The `trainer` block of `run_start`'s config: `class`, `bases` (nearest first), `arguments`, settings.

    `class` is None where the hook was called without a Trainer.
    """
    names = class_names(state)
    known = {key: getattr(args, key) for key in SETTINGS if hasattr(args, key)}
    return {
        "class": names[0] if names else None,
        "bases": list(names[1:]),
        "arguments": type(args).__name__,
        **known,
    }


def class_names(state: TrainerState) -> tuple[str, ...]:
    """Names of the calling Trainer's class and of those it extends, up to `Trainer`; empty without one."""
    trainer = calling_trainer(state)
    if trainer is None:
        return ()
    return tuple(kind.__name__ for kind in type(trainer).__mro__ if issubclass(kind, Trainer))


def calling_trainer(state: TrainerState) -> Trainer | None:
    """The Trainer on the call stack whose state this is: no hook is told its Trainer, but each is called by it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, Trainer) and owner.state is state:
            return owner
        frame = frame.f_back
    return None
