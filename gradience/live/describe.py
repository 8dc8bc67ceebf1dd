"""Fields of `run_start` that come from the arguments, the state and the model: names, numbers and switches.

An allow-list: no other argument is recorded. `callback.py` adds trainer, notes, evaluated_by and data;
docs/train_and_monitor.md lists all fields.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import TrainerState, TrainingArguments

from gradience.ranks import scale_of

LANGUAGE_TASKS = ("CAUSAL_LM", "SEQ_2_SEQ_LM")
LANGUAGE_CLASSES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForSeq2SeqLM")


def describe_run(args: TrainingArguments, state: TrainerState, model: nn.Module) -> dict[str, Any]:
    """Return the `config` of `run_start`."""
    base = _base(model)
    return {
        "model_name": base["name"],
        "task_profile": task_type(model),
        "optimizer": {
            "name": _name(args.optim),
            "lr": args.learning_rate,
            "weight_decay": args.weight_decay,
        },
        "lora": _lora(model),
        "training": {
            "seed": args.seed,
            "batch_size": args.per_device_train_batch_size,
            "gradient_accumulation": args.gradient_accumulation_steps,
            "world_size": args.world_size,
            "effective_batch_size": args.train_batch_size
            * args.gradient_accumulation_steps
            * args.world_size,
            "max_steps": state.max_steps,
            "epochs": args.num_train_epochs,
            "dtype": "bf16" if args.bf16 else "fp16" if args.fp16 else None,
            "schedule": _name(args.lr_scheduler_type),
            "warmup_steps": args.get_warmup_steps(state.max_steps),
            "max_grad_norm": args.max_grad_norm,
            "logging_steps": args.logging_steps,
            "evaluation": _name(args.eval_strategy),
            "logging_nan_inf_filter": args.logging_nan_inf_filter,
        },
        "base": base,
    }


def _name(value: Any) -> str:
    """Return the value of an enumeration, or a plain value, as text."""
    return str(getattr(value, "value", value))


def _lora(model: nn.Module) -> dict[str, Any] | None:
    """Return the LoRA config of the trained adapter; None for a model without PEFT."""
    configs: Mapping[str, Any] | None = getattr(model, "peft_config", None)
    if not configs:
        return None
    active = getattr(model, "active_adapter", None)
    name = active if isinstance(active, str) and active in configs else next(iter(configs))
    config = configs[name]
    r, alpha = getattr(config, "r", None), getattr(config, "lora_alpha", None)
    rslora = bool(getattr(config, "use_rslora", False))
    targets = getattr(config, "target_modules", None)
    return {
        "adapter": name,
        "peft_type": _name(config.peft_type),
        "r": r,
        "alpha": alpha,
        "scale": scale_of(alpha, r, use_rslora=rslora) if r and alpha is not None else None,
        "target_modules": sorted(targets) if isinstance(targets, (set, list, tuple)) else targets,
        "dropout": getattr(config, "lora_dropout", None),
        "bias": getattr(config, "bias", None),
        "use_rslora": rslora,
        "use_dora": bool(getattr(config, "use_dora", False)),
        "init": str(getattr(config, "init_lora_weights", True)),
        "rank_pattern": dict(getattr(config, "rank_pattern", None) or {}),
        "alpha_pattern": dict(getattr(config, "alpha_pattern", None) or {}),
        "modules_to_save": list(getattr(config, "modules_to_save", None) or []),
        "trainable_params": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _base(model: nn.Module) -> dict[str, Any]:
    """Return facts about the base model: name, size, storage type and quantization."""
    config = getattr(model, "config", None)
    read: Any = config.get if isinstance(config, dict) else lambda key: getattr(config, key, None)
    dtype, quantization = read("dtype"), read("quantization_config")
    if quantization is not None:
        values: Mapping[str, Any] = (
            quantization if isinstance(quantization, Mapping) else quantization.to_dict()
        )
        bits = 4 if values.get("load_in_4bit") else 8 if values.get("load_in_8bit") else values.get("bits")
        quantization = {
            "name": "QLoRA" if bits == 4 else "LoRA on a quantized base",
            "method": _name(values.get("quant_method")),
            "bits": bits,
        }
    return {
        "name": read("_name_or_path") or read("model_type"),
        "model_type": read("model_type"),
        "hidden_size": read("hidden_size"),
        "layers": read("num_hidden_layers"),
        "dtype": str(dtype).removeprefix("torch.") if dtype is not None else None,
        "params": sum(p.numel() for p in model.parameters()),
        "quantization": quantization,
    }


def task_type(model: nn.Module) -> str | None:
    """Return PEFT's task type, e.g. CAUSAL_LM; None if it is not set."""
    configs: Mapping[str, Any] = getattr(model, "peft_config", None) or {}
    return next((_name(config.task_type) for config in configs.values() if config.task_type), None)


def is_language_model(model: nn.Module) -> bool:
    """Return True if exp(loss) is a perplexity."""
    if (task := task_type(model)) is not None:
        return task in LANGUAGE_TASKS
    get_base = getattr(model, "get_base_model", None)
    return type(get_base() if get_base else model).__name__.endswith(LANGUAGE_CLASSES)


def class_names(args: TrainingArguments) -> list[str]:
    """Return the names of the arguments' class and its base classes.

    Callbacks do not receive their Trainer, but each of TRL's trainers has its own arguments class.
    """
    return [kind.__name__ for kind in type(args).__mro__ if issubclass(kind, TrainingArguments)]
