"""For each tool: what to write over a sound file so that a rule speaks.

Keys with a dot lie in a section; a value of None takes the key away.
"""

from __future__ import annotations

from typing import Any

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
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
    "llama-factory-v1": {
        "model": "Qwen/Qwen3-4B", "model_class": "llm", "train_dataset": "data/v1_sft_demo.yaml",
        "peft_config": {"name": "lora", "r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all"},
        "quant_config": {"name": "bnb"}, "dist_config": {"name": "fsdp2", "dcp_path": None},
        "micro_batch_size": 1, "cutoff_len": 2048, "learning_rate": 1.0e-4, "max_steps": 10, "bf16": True,
    },
    "unsloth": {
        "model": "unsloth/Qwen2.5-0.5B", "data": {"dataset": "tatsu-lab/alpaca", "format_type": "auto"},
        "training": {
            "training_type": "lora", "load_in_4bit": False, "num_epochs": 1, "learning_rate": 0.0002,
            "batch_size": 2, "gradient_accumulation_steps": 4, "weight_decay": 0.001, "train_on_completions": True,
        },
        "lora": {"lora_r": 16, "lora_alpha": 16, "target_modules": ",".join(SEVEN), "use_rslora": False},
    },
}  # fmt: skip


SPEAKS: dict[str, dict[str, dict[str, Any]]] = {
    "trl": {
        "no-adapter": {"use_peft": None},
        "removed-argument": {"warmup_ratio": 0.1},
        "task-type": {"center_rewards_coefficient": 0.01},
        "attention-only": {"lora_target_modules": None},
        "no-evaluation": {"eval_strategy": None},
        "prompt-loss": {"completion_only_loss": False},
        "precision": {"bf16": None, "fp16": True},
        "quantized-base": {"load_in_4bit": True},
        "rl-learning-rate": {"learning_rate": 1e-3, "num_generations": 8},
    },
    "axolotl": {
        "no-targets": {"lora_target_linear": None},
        "layers-with-regex": {
            "lora_target_linear": None, "lora_target_modules": ".*q_proj", "peft_layers_to_transform": [0, 1],
        },
        "pattern-without-layers": {"peft_layers_pattern": ["layers"]},
        "initialization": {"peft_init_lora_weights": "pisssa"},
        "attention-only": {"lora_target_linear": None, "lora_target_modules": QV},
        "pattern-scale": {"lora_rank_pattern": {"q_proj": 4}},
        "many-epochs": {"num_epochs": 10, "val_set_size": 0.0},
        "prompt-loss": {"train_on_inputs": True},
        "quantized-base": {"adapter": "qlora", "load_in_4bit": True},
        "rank-for-rl": {"rl": "grpo", "lora_r": 128},
    },
    "llama-factory": {
        "best-model": {"load_best_model_at_end": True, "save_strategy": "epoch"},
        "attention-only": {"lora_target": "q_proj,v_proj"},
        "no-evaluation": {"eval_strategy": None},
        "prompt-loss": {"train_on_prompt": True},
        "quantized-base": {"quantization_bit": 4},
        "serving-rank": {"lora_rank": 24},
        "serving-features": {"use_dora": True},
        "scale": {"lora_rank": 8, "lora_alpha": 256},
    },
    "llama-factory-v1": {
        "attention-only": {"peft_config.target_modules": QV},
        "many-epochs": {"num_train_epochs": 10, "max_steps": None},
        "quantized-base": {"quant_config.quantization_bit": 4},
        "impossible-number": {"peft_config.lora_dropout": -0.1},
        "unreadable-value": {"peft_config.r": "16"},
        "large-batch": {"micro_batch_size": 512},
    },
    "unsloth": {
        "attention-only": {"lora.target_modules": "q_proj,v_proj"},
        "many-epochs": {"training.num_epochs": 10},
        "prompt-loss": {"training.train_on_completions": None},
        "quantized-base": {"training.load_in_4bit": None},
        "learning-rate": {"training.learning_rate": 1e-6},
        "large-batch": {"training.gradient_accumulation_steps": 512},
        "rslora-at-high-rank": {"lora.lora_r": 256},
    },
}  # fmt: skip
"""Tool -> rule -> what to write over its sound file so that the rule speaks: the rules are silent on the sound file."""
