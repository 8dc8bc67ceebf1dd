"""What each tool calls a setting. A dialect is a table: their key -> our name and how to read the value.

Key names were read in the sources of peft 0.21.2, transformers 5.24, trl 1.16, axolotl 0.19.0,
llamafactory 0.9.5 and unsloth 2026.10.9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gradience.adapters.families import LINEAR
from gradience.check import values as v
from gradience.check.objectives import TRL_ONLY_KEYS, aim_of
from gradience.check.settings import Settings
from gradience.errors import InputError

Table = Mapping[str, tuple[str, Callable[[Any], Any]]]

PEFT: Table = {
    "base_model_name_or_path": ("base_model", v.text),
    "peft_type": ("peft_type", v.text),
    "task_type": ("task_type", v.text),
    "r": ("r", v.integer),
    "lora_alpha": ("alpha", v.number),
    "lora_dropout": ("dropout", v.number),
    "target_modules": ("target_modules", v.targets),
    "target_parameters": ("target_parameters", v.given),
    "use_rslora": ("use_rslora", v.flag),
    "use_dora": ("use_dora", v.flag),
    "init_lora_weights": ("init", v.init),
    "bias": ("bias", v.text),
    "lora_bias": ("lora_bias", v.flag),
    "modules_to_save": ("modules_to_save", v.names),
    "rank_pattern": ("rank_pattern", v.pattern),
    "alpha_pattern": ("alpha_pattern", v.pattern),
    "layers_to_transform": ("layers_to_transform", v.given),
    "layers_pattern": ("layers_pattern", v.given),
    "loftq_config": ("loftq_config", v.given),
    "megatron_config": ("megatron", v.given),
}

TRAINER: Table = {
    "learning_rate": ("learning_rate", v.number),
    "optim": ("optimizer", v.text),
    "lr_scheduler_type": ("schedule", v.text),
    "weight_decay": ("weight_decay", v.number),
    "max_grad_norm": ("max_grad_norm", v.number),
    "per_device_train_batch_size": ("batch_size", v.integer),
    "gradient_accumulation_steps": ("accumulation", v.integer),
    "num_train_epochs": ("epochs", v.number),
    "max_steps": ("max_steps", v.integer),
    "eval_strategy": ("evaluation", v.strategy),
    "save_strategy": ("saving", v.strategy),
    "eval_steps": ("eval_steps", v.number),
    "save_steps": ("save_steps", v.number),
    "load_best_model_at_end": ("load_best", v.flag),
}

TRL: Table = {
    **TRAINER,
    "model_name_or_path": ("base_model", v.text),
    "lora_r": ("r", v.integer),
    "lora_alpha": ("alpha", v.number),
    "lora_dropout": ("dropout", v.number),
    "lora_target_modules": ("target_modules", v.targets),
    "lora_target_parameters": ("target_parameters", v.given),
    "lora_modules_to_save": ("modules_to_save", v.names),
    "lora_task_type": ("task_type", v.text),
    "use_rslora": ("use_rslora", v.flag),
    "use_dora": ("use_dora", v.flag),
    "completion_only_loss": ("prompt_loss", v.negated),
    "assistant_only_loss": ("prompt_loss", v.off_if_on),
}

TRL_LORA_KEYS = ("use_peft", "use_rslora", "use_dora", *(key for key in TRL if key.startswith("lora_")))

AXOLOTL: Table = {
    "base_model": ("base_model", v.text),
    "lora_r": ("r", v.integer),
    "lora_alpha": ("alpha", v.number),
    "lora_dropout": ("dropout", v.number),
    "lora_target_modules": ("target_modules", v.targets),
    "lora_target_parameters": ("target_parameters", v.given),
    "lora_modules_to_save": ("modules_to_save", v.names),
    "lora_rank_pattern": ("rank_pattern", v.pattern),
    "lora_alpha_pattern": ("alpha_pattern", v.pattern),
    "peft_layers_to_transform": ("layers_to_transform", v.given),
    "peft_layers_pattern": ("layers_pattern", v.given),
    "peft_use_dora": ("use_dora", v.flag),
    "peft_use_rslora": ("use_rslora", v.flag),
    "peft_init_lora_weights": ("init", v.init),
    "learning_rate": ("learning_rate", v.number),
    "optimizer": ("optimizer", v.text),
    "lr_scheduler": ("schedule", v.text),
    "weight_decay": ("weight_decay", v.number),
    "max_grad_norm": ("max_grad_norm", v.number),
    "micro_batch_size": ("batch_size", v.integer),
    "gradient_accumulation_steps": ("accumulation", v.integer),
    "num_epochs": ("epochs", v.number),
    "max_steps": ("max_steps", v.integer),
    "train_on_inputs": ("prompt_loss", v.flag),
}

LLAMA_FACTORY: Table = {
    **TRAINER,
    "model_name_or_path": ("base_model", v.text),
    "lora_rank": ("r", v.integer),
    "lora_alpha": ("alpha", v.number),
    "lora_dropout": ("dropout", v.number),
    "lora_target": ("target_modules", v.targets_or_names),
    "additional_target": ("modules_to_save", v.names),
    "use_rslora": ("use_rslora", v.flag),
    "use_dora": ("use_dora", v.flag),
    "quantization_bit": ("quantized_bits", v.integer),
    "train_on_prompt": ("prompt_loss", v.flag),
}

LLAMA_FACTORY_V1: Table = {
    "model": ("base_model", v.text),
    "peft_config.r": ("r", v.integer),
    "peft_config.lora_alpha": ("alpha", v.number),
    "peft_config.lora_dropout": ("dropout", v.number),
    "peft_config.target_modules": ("target_modules", v.targets_or_names),
    "peft_config.modules_to_save": ("modules_to_save", v.names),
    "peft_config.use_rslora": ("use_rslora", v.flag),
    "peft_config.use_dora": ("use_dora", v.flag),
    "quant_config.quantization_bit": ("quantized_bits", v.integer),
    "learning_rate": ("learning_rate", v.number),
    "max_grad_norm": ("max_grad_norm", v.number),
    "micro_batch_size": ("batch_size", v.integer),
    "num_train_epochs": ("epochs", v.number),
    "max_steps": ("max_steps", v.integer),
}

UNSLOTH: Table = {
    "model": ("base_model", v.text),
    "lora.lora_r": ("r", v.integer),
    "lora.lora_alpha": ("alpha", v.number),
    "lora.lora_dropout": ("dropout", v.number),
    "lora.target_modules": ("target_modules", v.targets_or_names),
    "lora.use_rslora": ("use_rslora", v.flag),
    "lora.use_dora": ("use_dora", v.flag),
    "training.learning_rate": ("learning_rate", v.number),
    "training.weight_decay": ("weight_decay", v.number),
    "training.batch_size": ("batch_size", v.integer),
    "training.gradient_accumulation_steps": ("accumulation", v.integer),
    "training.num_epochs": ("epochs", v.number),
    "training.max_steps": ("max_steps", v.integer),
    # Unsloth Studio's files have these two; the command line's have not.
    "training.optim": ("optimizer", v.text),
    "training.lr_scheduler_type": ("schedule", v.text),
    "training.train_on_completions": ("prompt_loss", v.negated),
}

TABLES = {
    "peft": PEFT,
    "trainer": TRAINER,
    "trl": TRL,
    "axolotl": AXOLOTL,
    "llama-factory": LLAMA_FACTORY,
    "llama-factory-v1": LLAMA_FACTORY_V1,
    "unsloth": UNSLOTH,
}

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "trl": {"r": 16, "alpha": 32.0, "dropout": 0.05, "task_type": "CAUSAL_LM"},
    "axolotl": {"target_modules": ()},
    "llama-factory": {"r": 8, "target_modules": "all-linear"},
    "llama-factory-v1": {"r": 8, "alpha": 16.0, "dropout": 0.05, "target_modules": "all-linear"},
    "unsloth": {
        "r": 64,
        "alpha": 16.0,
        "target_modules": LINEAR,
        "learning_rate": 2e-4,
        "quantized_bits": 4,
        "prompt_loss": True,
    },
}
"""What a tool takes where nothing is written and it matters to a rule."""

ADAPTER_SETTINGS = frozenset(name for name, _ in PEFT.values()) - {"base_model", "task_type", "peft_type"}

REMOVED_IN_TRANSFORMERS_5 = (
    "evaluation_strategy",
    "no_cuda",
    "warmup_ratio",
    "overwrite_output_dir",
    "logging_dir",
    "save_safetensors",
    "group_by_length",
    "include_inputs_for_metrics",
)
"""Arguments that `TrainingArguments` of transformers 5 does not take any more (tested against 5.24)."""


def dialect_of(values: Mapping[str, Any], path: Path) -> str:
    """Which tool wrote this. Raises InputError (config-unknown)."""
    keys = values.keys()
    if "fine_tune_type" in keys or "lora_parameters" in keys:
        raise InputError(
            f"{path}: a configuration of MLX-LM",
            code="config-unknown",
            hint="check reads files of PEFT, the Trainer, TRL, Axolotl, LLaMA-Factory and Unsloth",
        )
    if "peft_type" in keys or {"r", "lora_alpha"} <= keys or {"r", "target_modules"} <= keys:
        return "peft"
    if isinstance(values.get("training"), Mapping) and ("lora" in keys or "data" in keys):
        return "unsloth"
    if "finetuning_type" in keys or "lora_rank" in keys or ("stage" in keys and "template" in keys):
        return "llama-factory"
    if "model" in keys and ("peft_config" in keys or "train_dataset" in keys):
        return "llama-factory-v1"
    if "adapter" in keys or "micro_batch_size" in keys or "lora_target_linear" in keys:
        return "axolotl"
    if any(key in TRL_ONLY_KEYS or key in TRL_LORA_KEYS for key in keys):
        return "trl"
    if any(key in TRAINER or key in REMOVED_IN_TRANSFORMERS_5 for key in keys):
        return "trainer"
    if {"model_name_or_path", "dataset_name"} <= keys:  # the shortest file of TRL's guide
        return "trl"
    raise InputError(
        f"{path}: not a configuration that check knows",
        code="config-unknown",
        hint="PEFT's adapter_config.json, Trainer arguments, or YAML of TRL, Axolotl, LLaMA-Factory or Unsloth",
    )


def read_settings(values: Mapping[str, Any], dialect: str, path: Path) -> Settings:
    """The settings of one file in our vocabulary; values of the wrong kind are kept as unreadable."""
    read: dict[str, Any] = {}
    where: dict[str, str] = {}
    unreadable: list[tuple[str, str, str]] = []
    for key, (name, reader) in TABLES[dialect].items():
        value = _at(values, key)
        if value is None:
            continue
        try:
            setting = reader(value)
        except v.Unreadable as error:
            unreadable.append((name, repr(value)[:80], str(error)))
        else:
            if setting is None:
                continue
            read[name] = setting
        where[name] = f"{path.name}: {key}"
    adapter, adapter_key = trains_adapter(values, dialect)
    broken = {name for name, _, _ in unreadable}
    defaults = DEFAULTS.get(dialect, {}) if adapter else {}
    read = {name: value for name, value in defaults.items() if name not in broken} | read
    read |= {name: value for name, value in _special(values, dialect).items() if value is not None}
    if dialect == "llama-factory" and "alpha" not in read and "alpha" not in broken and "r" in read:
        read["alpha"] = 2.0 * read["r"]
    if adapter is False:
        read = {name: value for name, value in read.items() if name not in ADAPTER_SETTINGS}
        where["adapter"] = f"{path.name}: {adapter_key}" if adapter_key else path.name
    aim = aim_of(values, dialect)
    if aim is not None:
        read["objective"] = aim.objective
        if aim.algorithm:
            read["algorithm"] = aim.algorithm
        if aim.key:
            where["objective"] = f"{path.name}: {aim.key}"
    removed = (
        tuple(key for key in REMOVED_IN_TRANSFORMERS_5 if key in values)
        if dialect in ("trainer", "trl")
        else ()
    )
    return Settings(**read, adapter=adapter, removed=removed, unreadable=tuple(unreadable), where=where)


def trains_adapter(values: Mapping[str, Any], dialect: str) -> tuple[bool | None, str | None]:
    """Whether LoRA is trained (None: the file does not tell), and the key that says no."""
    if dialect == "trl":
        if values.get("use_peft") is True:
            return True, None
        return (False, "use_peft") if any(key in TRL_LORA_KEYS for key in values) else (None, None)
    if dialect == "axolotl":
        return values.get("adapter") in ("lora", "qlora"), "adapter"
    if dialect == "llama-factory":
        return values.get("finetuning_type", "lora") == "lora", "finetuning_type"
    if dialect == "llama-factory-v1":
        return _at(values, "peft_config.name") == "lora", "peft_config.name"
    if dialect == "unsloth":
        return str(
            _at(values, "training.training_type") or "lora"
        ).lower() == "lora", "training.training_type"
    if dialect == "peft":
        return str(values.get("peft_type") or "LORA").upper() == "LORA", "peft_type"
    return None, None


def _at(values: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key."""
    value: Any = values
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _special(values: Mapping[str, Any], dialect: str) -> dict[str, Any]:
    """What takes more than one key to know."""
    return {
        "peft": _nothing,
        "trainer": _precision,
        "trl": _trl,
        "axolotl": _axolotl,
        "llama-factory": _llama_factory,
        "llama-factory-v1": _precision,
        "unsloth": _unsloth,
    }[dialect](values)


def _nothing(values: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _precision(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "precision": "bf16" if values.get("bf16") is True else "fp16" if values.get("fp16") is True else None
    }


def _bits(values: Mapping[str, Any]) -> int | None:
    return 4 if values.get("load_in_4bit") is True else 8 if values.get("load_in_8bit") is True else None


def _trl(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**_precision(values), "quantized_bits": _bits(values)}


def _axolotl(values: Mapping[str, Any]) -> dict[str, Any]:
    linear = values.get("lora_target_linear") is True
    held_out = values.get("val_set_size") or values.get("test_datasets")
    known = {"evaluation": "steps" if held_out else "no"}
    if linear:  # lora_target_modules beside it only adds to them
        known["target_modules"] = "all-linear"
    bits = 4 if values.get("adapter") == "qlora" else _bits(values)
    return {**_precision(values), **known, "quantized_bits": bits}


def _llama_factory(values: Mapping[str, Any]) -> dict[str, Any]:
    init = "pissa" if values.get("pissa_init") is True else None
    return {**_precision(values), "init": init}


def _unsloth(values: Mapping[str, Any]) -> dict[str, Any]:
    loftq = _at(values, "lora.use_loftq") is True
    unnamed = (
        _at(values, "lora.target_modules") == ""
    )  # then its trainer chooses; for vision, every linear layer
    return {
        "target_modules": "all-linear" if unnamed else None,
        "quantized_bits": 16 if _at(values, "training.load_in_4bit") is False else None,
        "init": "loftq" if loftq else None,
        "loftq_config": True if loftq else None,
    }
