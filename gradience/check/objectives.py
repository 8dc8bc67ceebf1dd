"""What a configuration trains for. Advice on supervised fine-tuning is not for reinforcement learning.

Key and method names were read in trl 1.16, axolotl 0.19.0, llamafactory 0.9.5 and unsloth 2026.10.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

SUPERVISED = ("sft", "pretraining")
OBJECTIVES = (*SUPERVISED, "rl", "preference", "reward", "distillation")

OF_ALGORITHM = {
    "sft": "sft",
    "pt": "pretraining",
    **dict.fromkeys(("rm", "reward", "prm"), "reward"),
    **dict.fromkeys(("dpo", "ipo", "orpo", "kto", "simpo", "cpo", "bco"), "preference"),
    **dict.fromkeys(("grpo", "gdpo", "rloo", "ppo", "gspo", "ebft", "online_dpo"), "rl"),
}
"""What a tool calls a method -> what it trains for."""

TRL_KEYS: Mapping[str, tuple[str, ...]] = {
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

TRL_LOSSES: Mapping[str, tuple[str, ...]] = {
    "rl": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "preference": (
        "sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard",
        "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "kto", "apo_zero_unpaired", "simpo",
    ),
}  # fmt: skip

TRL_SFT_KEYS = ("completion_only_loss", "assistant_only_loss", "dataset_text_field", "packing_strategy")
TRL_ONLY_KEYS = (*TRL_SFT_KEYS, *(key for keys in TRL_KEYS.values() for key in keys))


MAY_NOT_TELL = ("trl", "llama-factory-v1")
"""Tools whose command line names the method (`trl dpo`, `llamafactory-cli dpo`), so that the file need not."""


class Aim(NamedTuple):
    """What is trained for, by which method where that is known, and the key that says so (None: a default)."""

    objective: str
    algorithm: str | None = None
    key: str | None = None


def aim_of(values: Mapping[str, Any], dialect: str) -> Aim | None:
    """What one file trains for; None where it does not tell.

    >>> aim_of({"stage": "dpo", "finetuning_type": "lora"}, "llama-factory")
    Aim(objective='preference', algorithm='dpo', key='stage')
    """
    if dialect == "trl":
        return _trl(values)
    if dialect == "axolotl":
        return _axolotl(values)
    if dialect == "llama-factory":
        return _named(values, "stage", otherwise="sft") or Aim("sft")
    if dialect == "unsloth":
        data = values.get("data")
        raw = isinstance(data, Mapping) and data.get("format_type") == "raw"
        return Aim("pretraining", None, "data.format_type") if raw else Aim("sft")
    return None


def _named(values: Mapping[str, Any], key: str, otherwise: str) -> Aim | None:
    """The method that a key names; one that we do not know counts as `otherwise`."""
    name = values.get(key)
    if not isinstance(name, str) or not name:
        return None
    return Aim(OF_ALGORITHM.get(name.lower(), otherwise), name.lower(), key)


def _axolotl(values: Mapping[str, Any]) -> Aim:
    named = _named(values, "rl", otherwise="rl")
    if named:
        return named
    for key in ("reward_model", "process_reward_model"):
        if values.get(key) is True:
            return Aim("reward", None, key)
    return (
        Aim("pretraining", None, "pretraining_dataset") if values.get("pretraining_dataset") else Aim("sft")
    )


def _trl(values: Mapping[str, Any]) -> Aim | None:
    losses = values.get("loss_type")
    first = losses[0] if isinstance(losses, list) and losses else losses
    for objective, names in TRL_LOSSES.items():
        if isinstance(first, str) and first in names:
            return Aim(objective, first, "loss_type")
    for objective, keys in TRL_KEYS.items():
        for key in keys:
            if key in values:  # null as well: a dump of the arguments has every key of its trainer
                return Aim(objective, None, key)
    written = next((key for key in TRL_SFT_KEYS if key in values), None)
    return Aim("sft", None, written) if written else None
