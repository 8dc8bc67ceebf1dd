"""YAML of Unsloth's command line, and of Unsloth Studio. Key names were read in unsloth 2026.10.9."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradience.adapters.families import LINEAR
from gradience.check.dialects.dialect import Aim, Dialect, Values, switched
from gradience.check.values import Reader, negated, targets_or_names
from gradience.config_errors import value_at

KEYS: Mapping[str, str | tuple[str, Reader]] = {
    "model": "base_model",
    "lora.lora_r": "r",
    "lora.lora_alpha": "alpha",
    "lora.lora_dropout": "dropout",
    "lora.target_modules": ("target_modules", targets_or_names),
    "lora.use_rslora": "use_rslora",
    "lora.use_dora": "use_dora",
    "training.learning_rate": "learning_rate",
    "training.weight_decay": "weight_decay",
    "training.batch_size": "batch_size",
    "training.gradient_accumulation_steps": "accumulation",
    "training.num_epochs": "epochs",
    "training.max_steps": "max_steps",
    # Unsloth Studio's files have these two; the command line's have not.
    "training.optim": "optimizer",
    "training.lr_scheduler_type": "schedule",
    "training.train_on_completions": ("prompt_loss", negated),
}


def is_unsloth(values: Values) -> bool:
    """Whether the sections are those of its command line."""
    return isinstance(values.get("training"), Mapping) and ("lora" in values or "data" in values)


def _more(values: Values, read: Values) -> dict[str, Any]:
    loftq = value_at(values, "lora.use_loftq") is True
    # Unnamed, its trainer chooses; for vision, every linear layer.
    unnamed = value_at(values, "lora.target_modules") == ""
    return {
        "target_modules": "all-linear" if unnamed else None,
        "quantized_bits": 16 if value_at(values, "training.load_in_4bit") is False else None,
        "init": "loftq" if loftq else None,
        "loftq_config": True if loftq else None,
    }


def _aim(values: Values) -> Aim:
    raw = value_at(values, "data.format_type") == "raw"
    return Aim("pretraining", None, "data.format_type") if raw else Aim("sft")


UNSLOTH = Dialect(
    "unsloth",
    is_unsloth,
    KEYS,
    switched("training.training_type", lambda kind: str(kind or "lora").lower() == "lora"),
    "training_type: lora",
    {
        "r": 64,
        "alpha": 16.0,
        "target_modules": LINEAR,
        "learning_rate": 2e-4,
        "quantized_bits": 4,
        "prompt_loss": True,
    },
    _more,
    _aim,
    hold_out=None,
    completions_only="train_on_completions: true",
)
