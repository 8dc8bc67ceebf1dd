"""What an adapter may bring beside LoRA where others stand on the same base, and what it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradience.adapters.config import HEADS_OF_TASK, initialisation_of
from gradience.errors import InputError

_WRAPPERS = ("base_layer", "original_module", "token_adapter")
"""Attributes in which PEFT keeps a wrapped module."""


def refuse_what_cannot_share(config: Any, folder: Path) -> None:
    if config.bias != "none":
        raise changes_the_base(folder, f"bias={config.bias!r}")
    if config.alora_invocation_tokens:
        raise InputError(
            f"{folder}: an activated LoRA (alora_invocation_tokens), which applies only after certain tokens",
            code="other-method",
            hint="evaluate it with PEFT's own generate: here its LoRA would apply to other tokens",
        )
    if getattr(config, "kasa_config", None):  # since PEFT 0.21
        raise changes_the_base(folder, "kasa_config")
    if config.layer_replication:
        raise changes_the_base(folder, "layer_replication")
    start = initialisation_of(config.init_lora_weights)
    if start is not None and not start.keeps_base:
        raise changes_the_base(folder, f"init_lora_weights={config.init_lora_weights!r}")


def changes_the_base(folder: Path, what: str) -> InputError:
    return InputError(
        f"{folder}: {what} changes the base's weights, on which the other adapters stand",
        code="adapter-changes-base",
        hint="retrain with bias='none'; of PiSSA and its like, write plain LoRA: gradience compress ADAPTER"
        " --initial-adapter DIR --energy 1 --output NEW",
    )


def trained_whole(config: Any) -> set[str]:
    """Names of the modules that the adapter brings besides LoRA; PEFT adds the head of a classifier by itself."""
    return {*(config.modules_to_save or ()), *HEADS_OF_TASK.get(config.task_type or "", ())}


def original_name(name: str) -> str:
    """Return the name of a parameter of the base before PEFT wrapped its module, however often.

    >>> original_name("mlp.experts.base_layer.base_layer.down_proj")
    'mlp.experts.down_proj'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
