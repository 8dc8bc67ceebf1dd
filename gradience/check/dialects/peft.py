"""PEFT's adapter_config.json. Key names were read in peft 0.21.2."""

from __future__ import annotations

from gradience.check.dialects.dialect import Dialect, Values, switched

KEYS = {
    "base_model_name_or_path": "base_model",
    "peft_type": "peft_type",
    "task_type": "task_type",
    "r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "target_modules",
    "target_parameters": "target_parameters",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
    "init_lora_weights": "init",
    "bias": "bias",
    "lora_bias": "lora_bias",
    "modules_to_save": "modules_to_save",
    "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern",
    "layers_to_transform": "layers_to_transform",
    "layers_pattern": "layers_pattern",
    "loftq_config": "loftq_config",
    "megatron_config": "megatron",
}
ADAPTER_SETTINGS = frozenset(KEYS.values()) - {"base_model", "task_type", "peft_type"}


def is_peft(values: Values) -> bool:
    """Whether this looks like an adapter_config.json."""
    keys = values.keys()
    return "peft_type" in keys or {"r", "lora_alpha"} <= keys or {"r", "target_modules"} <= keys


PEFT = Dialect(
    "peft",
    is_peft,
    KEYS,
    lora=switched("peft_type", lambda kind: str(kind or "LORA").upper() == "LORA"),
    more=lambda values, read: {},
    hold_out=None,
)
