"""Axolotl's YAML. Key names were read in axolotl 0.19.0."""

from __future__ import annotations

from typing import Any

from gradience.check.dialects.dialect import Aim, Dialect, Values, loaded_bits, named_aim, precision, switched

KEYS = {
    "base_model": "base_model",
    "lora_r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_target_modules": "target_modules",
    "lora_target_parameters": "target_parameters",
    "lora_modules_to_save": "modules_to_save",
    "lora_rank_pattern": "rank_pattern",
    "lora_alpha_pattern": "alpha_pattern",
    "peft_layers_to_transform": "layers_to_transform",
    "peft_layers_pattern": "layers_pattern",
    "peft_use_dora": "use_dora",
    "peft_use_rslora": "use_rslora",
    "peft_init_lora_weights": "init",
    "learning_rate": "learning_rate",
    "optimizer": "optimizer",
    "lr_scheduler": "schedule",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "micro_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulation",
    "num_epochs": "epochs",
    "max_steps": "max_steps",
    "train_on_inputs": "prompt_loss",
}


def is_axolotl(values: Values) -> bool:
    """Whether some key is Axolotl's alone."""
    return any(key in values for key in ("adapter", "micro_batch_size", "lora_target_linear"))


def _more(values: Values, read: Values) -> dict[str, Any]:
    held_out = values.get("val_set_size") or values.get("test_datasets")
    known = {"evaluation": "steps" if held_out else "no"}
    if values.get("lora_target_linear") is True:  # lora_target_modules beside it only adds to them
        known["target_modules"] = "all-linear"
    bits = 4 if values.get("adapter") == "qlora" else loaded_bits(values)
    return {**precision(values), **known, "quantized_bits": bits}


def _aim(values: Values) -> Aim:
    if named := named_aim(values, "rl", otherwise="rl"):
        return named
    for key in ("reward_model", "process_reward_model"):
        if values.get(key) is True:
            return Aim("reward", None, key)
    key = "pretraining_dataset"
    return Aim("pretraining", None, key) if values.get(key) else Aim("sft")


AXOLOTL = Dialect(
    "axolotl",
    is_axolotl,
    KEYS,
    switched("adapter", lambda adapter: adapter in ("lora", "qlora")),
    "adapter: lora",
    {"target_modules": ()},
    _more,
    _aim,
    hold_out="val_set_size: 0.05",
    completions_only="train_on_inputs: false",
)
