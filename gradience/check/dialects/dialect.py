"""What a tool's configuration files are: the names of its keys, and what its files leave unsaid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gradience.check.values import Reader
from gradience.config_errors import value_at

Values = Mapping[str, Any]

SUPERVISED = ("sft", "pretraining")
"""Objectives that the advice on supervised fine-tuning is for; it says nothing about reinforcement learning."""
OF_ALGORITHM = {
    "sft": "sft",
    "pt": "pretraining",
    **dict.fromkeys(("rm", "reward", "prm"), "reward"),
    **dict.fromkeys(("dpo", "ipo", "orpo", "kto", "simpo", "cpo", "bco"), "preference"),
    **dict.fromkeys(("grpo", "gdpo", "rloo", "ppo", "gspo", "ebft", "online_dpo"), "rl"),
}
"""What a tool calls a method -> what it trains for."""


class Aim(NamedTuple):
    """What is trained for, by which method where that is known, and the key that says so (None: a default)."""

    objective: str
    algorithm: str | None = None
    key: str | None = None


def named_aim(values: Values, key: str, otherwise: str) -> Aim | None:
    """Return the method that a key names; one that we do not know counts as `otherwise`."""
    name = values.get(key)
    if not isinstance(name, str) or not name:
        return None
    return Aim(OF_ALGORITHM.get(name.lower(), otherwise), name.lower(), key)


class LoraSwitch(NamedTuple):
    """Whether LoRA is trained (None: the file does not tell), and the key that says no."""

    on: bool | None = None
    key: str | None = None


def switched(key: str, on: Callable[[Any], bool]) -> Callable[[Values], LoraSwitch]:
    """Return what reads a key that always says whether LoRA is trained: by its value, None where it is not set."""
    return lambda values: LoraSwitch(on(value_at(values, key)), key)


def precision(values: Values) -> dict[str, Any]:
    """Return the precision of training, as most tools write it."""
    return {
        "precision": "bf16" if values.get("bf16") is True else "fp16" if values.get("fp16") is True else None
    }


def loaded_bits(values: Values) -> int | None:
    """Return the bits in which the base is loaded, as bitsandbytes' users write it."""
    return 4 if values.get("load_in_4bit") is True else 8 if values.get("load_in_8bit") is True else None


@dataclass(frozen=True, slots=True)
class Dialect:
    """One tool."""

    name: str
    is_written_in: Callable[[Values], bool]
    keys: Mapping[str, str | tuple[str, Reader]]
    """Its key, dotted -> our setting; with a reader where the tool means other values than `READERS` takes."""
    lora: Callable[[Values], LoraSwitch] = lambda values: LoraSwitch()
    switch: str = "peft_type: LORA"
    """What switches LoRA on."""
    defaults: Values = field(default_factory=dict)
    """What the tool takes where nothing is written and it matters to a rule."""
    more: Callable[[Values, Values], dict[str, Any]] = lambda values, read: precision(values)
    """(values of the file, settings that were read) -> settings that take more than one key to know."""
    aim: Callable[[Values], Aim | None] = lambda values: None
    """What is trained for, where the file tells."""
    aim_on_command_line: bool = False
    """The command line names the method (`trl dpo`, `llamafactory-cli dpo`), so that the file need not."""
    removed: tuple[str, ...] = ()
    """Keys that the tool no longer takes."""
    hold_out: str | None = "eval_strategy: steps, on data that are held out"
    """What asks for an evaluation; None where no key can."""
    completions_only: str = "train on completions only"
    """What leaves the prompt out of the loss."""
