"""Names of settings elsewhere (transformers, PEFT, the public predecessor): each is answered with ours."""

from __future__ import annotations

from collections.abc import Mapping

INSTEAD: Mapping[str, str] = {
    "model.torch_dtype": "model.dtype",
    "train.learning_rate": "train.lr",
    "train.num_train_epochs": "train.epochs",
    "train.gradient_checkpointing": "model.gradient_checkpointing",
    "train.seed": "seeds",
    "train.eval_samples": "task.eval_samples",
    "task.dataset": "task.profile",
    "task.eval_max_samples": "task.eval_samples",
    "task.subset": "task.options.subset",
    "lora.r": "lora.probe_r",
    "lora.lora_alpha": "lora.alpha",
    "lora.lora_dropout": "lora.dropout",
    "compression.acc_tolerance": "policy.tolerance",
    "compression.variants_to_test": "compression.variants",
    "compression.seeds": "seeds",
    "policy.pass_rate_min": "policy.pass_rate",
    "runtime.keep_adapter_weights": "runtime.keep_adapters",
    "runtime.smoke_max_steps": "runtime.smoke.max_steps",
    "runtime.smoke_train_samples": "runtime.smoke.train_samples",
    "runtime.smoke_eval_samples": "runtime.smoke.eval_samples",
}
"""Unknown key -> our name."""
