"""For each tool: what to write over a sound file so that a rule speaks.

Keys with a dot lie in a section; a value of None takes the key away.
"""

from typing import Any

QV = ["q_proj", "v_proj"]

SOUND: dict[str, dict[str, Any]] = {
    "trl": {
        "model_name_or_path": "Qwen/Qwen2.5-0.5B", "dataset_name": "trl-lib/Capybara", "use_peft": True,
        "lora_r": 16, "lora_alpha": 32, "lora_target_modules": "all-linear", "learning_rate": 2.0e-4,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, "num_train_epochs": 1,
        "eval_strategy": "steps", "eval_steps": 100, "bf16": True, "completion_only_loss": True,
    },
    "axolotl": {
        "base_model": "NousResearch/Llama-3.2-1B", "adapter": "lora", "lora_r": 16, "lora_alpha": 32,
        "lora_target_linear": True, "lora_dropout": 0.05, "datasets": [{"path": "x", "type": "alpaca"}],
        "val_set_size": 0.05, "micro_batch_size": 2, "gradient_accumulation_steps": 4, "num_epochs": 1,
        "optimizer": "adamw_bnb_8bit", "learning_rate": 0.0002, "bf16": "auto", "train_on_inputs": False,
    },
    "llama-factory": {
        "model_name_or_path": "Qwen/Qwen3-4B-Instruct-2507", "stage": "sft", "do_train": True, "template": "qwen3",
        "finetuning_type": "lora", "lora_rank": 8, "lora_target": "all", "dataset": "identity",
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "learning_rate": 1.0e-4,
        "num_train_epochs": 3.0, "bf16": True, "val_size": 0.1, "eval_strategy": "steps", "train_on_prompt": False,
    },
}  # fmt: skip


SPEAKS: dict[str, dict[str, dict[str, Any]]] = {
    "trl": {
        "no-adapter": {"use_peft": None},
        "task-type": {"center_rewards_coefficient": 0.01},
        "attention-only": {"lora_target_modules": None},
        "no-evaluation": {"eval_strategy": None},
    },
    "axolotl": {
        "attention-only": {"lora_target_linear": None, "lora_target_modules": QV},
        "pattern-scale": {"lora_rank_pattern": {"q_proj": 4}},
        "many-epochs": {"num_epochs": 10, "val_set_size": 0.0},
    },
    "llama-factory": {
        "attention-only": {"lora_target": "q_proj,v_proj"},
        "no-evaluation": {"eval_strategy": None},
        "serving-rank": {"lora_rank": 24},
        "serving-features": {"use_dora": True},
        "scale": {"lora_rank": 8, "lora_alpha": 256},
    },
}  # fmt: skip
"""Tool -> rule -> what to write over its sound file so that the rule speaks: the rules are silent on the sound file."""
