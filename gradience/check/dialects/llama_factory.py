"""LLaMA-Factory's YAML, of both versions. Key names were read in llamafactory 0.9.5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradience.check.dialects import trainer
from gradience.check.dialects.dialect import Aim, Dialect, LoraSwitch, Values, named_aim, precision, switched
from gradience.check.values import Reader, targets_or_names

KEYS: Mapping[str, str | tuple[str, Reader]] = {
    **trainer.KEYS,
    "model_name_or_path": "base_model",
    "lora_rank": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_target": ("target_modules", targets_or_names),
    "additional_target": "modules_to_save",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
    "quantization_bit": "quantized_bits",
    "train_on_prompt": "prompt_loss",
}
V1_KEYS: Mapping[str, str | tuple[str, Reader]] = {
    "model": "base_model",
    "peft_config.r": "r",
    "peft_config.lora_alpha": "alpha",
    "peft_config.lora_dropout": "dropout",
    "peft_config.target_modules": ("target_modules", targets_or_names),
    "peft_config.modules_to_save": "modules_to_save",
    "peft_config.use_rslora": "use_rslora",
    "peft_config.use_dora": "use_dora",
    "quant_config.quantization_bit": "quantized_bits",
    "learning_rate": "learning_rate",
    "max_grad_norm": "max_grad_norm",
    "micro_batch_size": "batch_size",
    "num_train_epochs": "epochs",
    "max_steps": "max_steps",
}


def is_llama_factory(values: Values) -> bool:
    """Whether some key is LLaMA-Factory's alone."""
    keys = values.keys()
    return "finetuning_type" in keys or "lora_rank" in keys or {"stage", "template"} <= keys


def is_v1(values: Values) -> bool:
    """Whether this is a file of its v1 (`USE_V1=1`)."""
    return "model" in values and ("peft_config" in values or "train_dataset" in values)


def _more(values: Values, read: Values) -> dict[str, Any]:
    alpha = 2.0 * read["r"] if "alpha" not in read and read.get("r") is not None else None
    init = "pissa" if values.get("pissa_init") is True else None
    return {**precision(values), "init": init, "alpha": alpha}


LLAMA_FACTORY = Dialect(
    "llama-factory",
    is_llama_factory,
    KEYS,
    lambda values: LoraSwitch(values.get("finetuning_type", "lora") == "lora", "finetuning_type"),
    "finetuning_type: lora",
    {"r": 8, "target_modules": "all-linear"},
    _more,
    lambda values: named_aim(values, "stage", otherwise="sft") or Aim("sft"),
    hold_out="val_size: 0.05 and eval_strategy: steps",
    completions_only="train_on_prompt: false",
)
LLAMA_FACTORY_V1 = Dialect(
    "llama-factory-v1",
    is_v1,
    V1_KEYS,
    switched("peft_config.name", lambda name: bool(name == "lora")),
    "peft_config with name: lora",
    {"r": 8, "alpha": 16.0, "dropout": 0.05, "target_modules": "all-linear"},
    aim_on_command_line=True,
    hold_out=None,
)
