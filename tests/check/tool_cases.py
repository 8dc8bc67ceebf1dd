"""For each tool and each rule: what to write over a sound file so that the rule speaks, and so that it must not.

Keys with a dot lie in a section; a value of None takes the key away. Options go to `check_config`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
QV = ["q_proj", "v_proj"]
RL: dict[str, Any] = {"task": "rl"}
SMALL = {"base": "llama", "completion_tokens": 1_000}
LARGE = {"base": "llama", "completion_tokens": 900_000_000}

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


class Case(NamedTuple):
    """Where a rule speaks and where it must not."""

    fires: dict[str, Any]
    silent: dict[str, Any]
    options: dict[str, Any] | None = None
    silent_options: dict[str, Any] | None = None


HIGH = {
    "trl": "lora_r",
    "axolotl": "lora_r",
    "llama-factory": "lora_rank",
    "llama-factory-v1": "peft_config.r",
    "unsloth": "lora.lora_r",
}
ALPHA = dict.fromkeys(SOUND, "lora_alpha") | {
    "llama-factory-v1": "peft_config.lora_alpha",
    "unsloth": "lora.lora_alpha",
}
RATE = {tool: "training.learning_rate" if tool == "unsloth" else "learning_rate" for tool in SOUND}
ACCUMULATION = {tool: RATE[tool].replace("learning_rate", "gradient_accumulation_steps") for tool in SOUND}
ACCUMULATION["llama-factory-v1"] = "micro_batch_size"
NOT_BELOW_ZERO = {tool: RATE[tool].replace("learning_rate", "weight_decay") for tool in SOUND}
NOT_BELOW_ZERO["llama-factory-v1"] = "peft_config.lora_dropout"
DORA = {
    "trl": "use_dora",
    "axolotl": "peft_use_dora",
    "llama-factory": "use_dora",
    "llama-factory-v1": "peft_config.use_dora",
    "unsloth": "lora.use_dora",
}
TARGETS = {"trl": "lora_target_modules", "llama-factory": "lora_target", "unsloth": "lora.target_modules"}
POLICY_GRADIENT: dict[str, dict[str, Any]] = {
    "trl": {"num_generations": 8, "beta": 0.04, "completion_only_loss": None},
    "axolotl": {"rl": "grpo", "trl": {"num_generations": 8}},
    "llama-factory": {"stage": "ppo", "reward_model": "x"},
    "llama-factory-v1": {},  # its command line says: llamafactory-cli sft, dpo or rm
    "unsloth": {},
}


def everywhere(tool: str) -> dict[str, Case]:
    """The rules about what every tool can say."""
    r, alpha, rate = HIGH[tool], ALPHA[tool], RATE[tool]
    rl = POLICY_GRADIENT[tool]
    task = None if rl else RL
    return {
        "unreadable-value": Case({r: "16"}, {r: 16}),
        "impossible-number": Case({NOT_BELOW_ZERO[tool]: -0.1}, {NOT_BELOW_ZERO[tool]: 0.0}),
        "serving-rank": Case({r: 24}, {r: 64}),
        "serving-features": Case({DORA[tool]: True}, {DORA[tool]: False}),
        "learning-rate": Case({rate: 1e-6}, {rate: 1e-6} | rl if rl else {rate: 2e-4}),
        "rl-learning-rate": Case({rate: 1e-3} | rl, {rate: 5e-5} | rl, task, task),
        "scale": Case({r: 8, alpha: 256}, {r: 256, alpha: 16}),
        "rslora-at-high-rank": Case({r: 256, alpha: 16}, {r: 256, alpha: 256}),
        "capacity": Case({r: 1}, {r: 1}, LARGE, SMALL),
        "rank-for-rl": Case({r: 128} | rl, {r: 8} | rl, task, task),
        "large-batch": Case({ACCUMULATION[tool]: 512}, {ACCUMULATION[tool]: 512} | rl if rl else {}),
    }


CASES: dict[str, dict[str, Case]] = {
    "trl": everywhere("trl") | {
        "no-targets": Case(
            {"lora_target_modules": None}, {"lora_target_modules": None}, {"base": "phi3"}, {"base": "qwen2"}
        ),
        "no-adapter": Case({"use_peft": None}, {"use_peft": True}),
        "removed-argument": Case({"warmup_ratio": 0.1}, {"warmup_steps": 0.1}),
        "best-model": Case(
            {"load_best_model_at_end": True, "save_strategy": "epoch"},
            {"load_best_model_at_end": True, "save_steps": 200},
        ),
        "task-type": Case(
            {"center_rewards_coefficient": 0.01}, {"center_rewards_coefficient": 0.01, "lora_task_type": "SEQ_CLS"}
        ),
        "attention-only": Case({"lora_target_modules": None}, {"lora_target_modules": SEVEN}),
        "many-epochs": Case({"num_train_epochs": 10, "eval_strategy": "no"}, {"num_train_epochs": 10}),
        "no-evaluation": Case({"eval_strategy": None}, {"eval_strategy": None} | POLICY_GRADIENT["trl"]),
        "prompt-loss": Case(
            {"completion_only_loss": False}, {"completion_only_loss": False, "assistant_only_loss": True}
        ),
        "precision": Case({"bf16": None, "fp16": True}, {}),
        "quantised-base": Case({"load_in_4bit": True}, {"load_in_4bit": False}),
    },
    "axolotl": everywhere("axolotl") | {
        "no-targets": Case({"lora_target_linear": None}, {"lora_target_linear": None, "lora_target_modules": QV}),
        "no-adapter": Case({"adapter": None}, {"adapter": "qlora"}),
        "layers-with-regex": Case(
            {"lora_target_linear": None, "lora_target_modules": ".*q_proj", "peft_layers_to_transform": [0, 1]},
            {"lora_target_linear": None, "lora_target_modules": QV, "peft_layers_to_transform": [0, 1]},
        ),
        "pattern-without-layers": Case(
            {"peft_layers_pattern": ["layers"]}, {"peft_layers_pattern": ["layers"], "peft_layers_to_transform": [0]}
        ),
        "initialisation": Case({"peft_init_lora_weights": "pisssa"}, {"peft_init_lora_weights": "pissa_niter_4"}),
        "attention-only": Case(
            {"lora_target_linear": None, "lora_target_modules": QV},
            {"lora_target_linear": True, "lora_target_modules": QV},
        ),
        "pattern-scale": Case(
            {"lora_rank_pattern": {"q_proj": 4}},
            {"lora_rank_pattern": {"q_proj": 4}, "lora_alpha_pattern": {"q_proj": 8}},
        ),
        "many-epochs": Case({"num_epochs": 10, "val_set_size": 0.0}, {"num_epochs": 10}),
        "no-evaluation": Case(
            {"val_set_size": 0.0}, {"val_set_size": 0.0, "test_datasets": [{"path": "x", "type": "alpaca"}]}
        ),
        "prompt-loss": Case({"train_on_inputs": True}, {"train_on_inputs": True, "rl": "dpo"}),
        "precision": Case({"bf16": False, "fp16": True}, {}),
        "quantised-base": Case({"adapter": "qlora", "load_in_4bit": True}, {}),
    },
    "llama-factory": everywhere("llama-factory") | {
        "no-adapter": Case({"finetuning_type": "full"}, {"finetuning_type": None}),
        "best-model": Case(
            {"load_best_model_at_end": True, "save_strategy": "epoch"},
            {"load_best_model_at_end": True, "save_strategy": "steps", "eval_steps": 100, "save_steps": 200},
        ),
        "attention-only": Case({"lora_target": "q_proj,v_proj"}, {"lora_target": None}),
        "many-epochs": Case({"num_train_epochs": 10, "eval_strategy": None}, {"num_train_epochs": 10}),
        "no-evaluation": Case({"eval_strategy": None}, {"eval_strategy": None} | POLICY_GRADIENT["llama-factory"]),
        "prompt-loss": Case({"train_on_prompt": True}, {"train_on_prompt": True, "stage": "pt"}),
        "precision": Case({"bf16": None, "fp16": True}, {}),
        "quantised-base": Case({"quantization_bit": 4}, {}),
    },
    "llama-factory-v1": everywhere("llama-factory-v1") | {
        "no-adapter": Case({"peft_config": {"name": "freeze"}}, {"peft_config": {"name": "lora"}}),
        "attention-only": Case({"peft_config.target_modules": QV}, {"peft_config.target_modules": None}),
        "learning-rate": Case({"learning_rate": 1e-6}, {"learning_rate": 1e-6}, {"task": "generation"}),
        "many-epochs": Case({"num_train_epochs": 10, "max_steps": None}, {"num_train_epochs": 10}),
        "quantised-base": Case({"quant_config.quantization_bit": 4}, {}),
    },
    "unsloth": everywhere("unsloth") | {
        "no-adapter": Case({"training.training_type": "full"}, {"training.training_type": None}),
        "attention-only": Case({"lora.target_modules": "q_proj,v_proj"}, {"lora.target_modules": None}),
        "many-epochs": Case({"training.num_epochs": 10}, {"training.num_epochs": 10, "training.max_steps": 50}),
        "prompt-loss": Case(
            {"training.train_on_completions": None},
            {"training.train_on_completions": None, "data.format_type": "raw"},
        ),
        "quantised-base": Case({"training.load_in_4bit": None}, {"training.load_in_4bit": False}),
    },
}  # fmt: skip
