"""TRL's YAML, and Unsloth's trainers, which take TRL's arguments. Key names were read in trl 1.16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradience.check.dialects import trainer
from gradience.check.dialects.dialect import Aim, Dialect, LoraSwitch, Values, loaded_bits, precision
from gradience.check.values import Reader, negated, off_if_on

KEYS: Mapping[str, str | tuple[str, Reader]] = {
    **trainer.KEYS,
    "model_name_or_path": "base_model",
    "lora_r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_target_modules": "target_modules",
    "lora_target_parameters": "target_parameters",
    "lora_modules_to_save": "modules_to_save",
    "lora_task_type": "task_type",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
    "completion_only_loss": ("prompt_loss", negated),
    "assistant_only_loss": ("prompt_loss", off_if_on),
}
LORA_KEYS = ("use_peft", "use_rslora", "use_dora", *(key for key in KEYS if key.startswith("lora_")))

AIM_KEYS: Mapping[str, tuple[str, ...]] = {
    "rl": (
        "num_generations",
        "reward_funcs",
        "reward_weights",
        "reward_model_name_or_path",
        "num_iterations",
        "epsilon",
        "epsilon_high",
        "scale_rewards",
        "normalize_advantages",
        "steps_per_generation",
        "generation_batch_size",
        "mask_truncated_completions",
        "num_ppo_epochs",  # PPO's, of earlier releases
        "reward_model_path",
    ),
    "distillation": ("teacher_model_name_or_path",),
    "reward": ("center_rewards_coefficient",),
    "preference": (
        "precompute_ref_log_probs",
        "ld_alpha",
        "f_divergence_type",
        "desirable_weight",
        "undesirable_weight",
        "cpo_alpha",
        "simpo_gamma",
        "beta",
    ),
}
"""Keys that give a trainer of TRL away, the telling ones first: its files do not name the trainer."""

LOSSES: Mapping[str, tuple[str, ...]] = {
    "rl": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "preference": (
        "sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard",
        "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "kto", "apo_zero_unpaired", "simpo",
    ),
}  # fmt: skip

SFT_KEYS = ("completion_only_loss", "assistant_only_loss", "dataset_text_field", "packing_strategy")
ONLY_KEYS = (*SFT_KEYS, *(key for keys in AIM_KEYS.values() for key in keys))


def is_trl(values: Values) -> bool:
    """Whether some key is TRL's alone, or this is the shortest file of its guide."""
    if any(key in ONLY_KEYS or key in LORA_KEYS for key in values):
        return True
    return {"model_name_or_path", "dataset_name"} <= values.keys() and not trainer.is_trainer(values)


def _lora(values: Values) -> LoraSwitch:
    if values.get("use_peft") is True:
        return LoraSwitch(True)
    return LoraSwitch(False, "use_peft") if any(key in LORA_KEYS for key in values) else LoraSwitch()


def _more(values: Values, read: Values) -> dict[str, Any]:
    return {**precision(values), "quantized_bits": loaded_bits(values)}


def _aim(values: Values) -> Aim | None:
    losses = values.get("loss_type")
    first = losses[0] if isinstance(losses, list) and losses else losses
    for objective, names in LOSSES.items():
        if isinstance(first, str) and first in names:
            return Aim(objective, first, "loss_type")
    for objective, keys in AIM_KEYS.items():
        for key in keys:
            if key in values:  # null as well: a dump of the arguments has every key of its trainer
                return Aim(objective, None, key)
    written = next((key for key in SFT_KEYS if key in values), None)
    return Aim("sft", None, written) if written else None


TRL = Dialect(
    "trl",
    is_trl,
    KEYS,
    _lora,
    "use_peft: true",
    {"r": 16, "alpha": 32.0, "dropout": 0.05, "task_type": "CAUSAL_LM"},
    _more,
    _aim,
    aim_on_command_line=True,
    removed=trainer.REMOVED_IN_TRANSFORMERS_5,
    completions_only="completion_only_loss: true, or assistant_only_loss: true for conversations",
)
