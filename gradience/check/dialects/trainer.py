"""Arguments of the Trainer, of transformers. Key names were read in transformers 5.24."""

from __future__ import annotations

from gradience.check.dialects.dialect import Dialect, Values

KEYS = {
    "learning_rate": "learning_rate",
    "optim": "optimizer",
    "lr_scheduler_type": "schedule",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulation",
    "num_train_epochs": "epochs",
    "max_steps": "max_steps",
    "eval_strategy": "evaluation",
    "save_strategy": "saving",
    "eval_steps": "eval_steps",
    "save_steps": "save_steps",
    "load_best_model_at_end": "load_best",
}

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


def is_trainer(values: Values) -> bool:
    """Whether some argument of the Trainer is among the keys."""
    return any(key in KEYS or key in REMOVED_IN_TRANSFORMERS_5 for key in values)


TRAINER = Dialect("trainer", is_trainer, KEYS, removed=REMOVED_IN_TRANSFORMERS_5)
