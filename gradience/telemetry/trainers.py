"""Training method of a trainer class, and the metrics of reinforcement learning. Pure, no heavy imports.

The callback uses it before it reports exp(loss) as a perplexity, and monitor before it judges a loss: in
reinforcement learning the loss does not measure progress.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

Method = Literal["supervised", "preference", "reinforcement"]

REINFORCEMENT = frozenset(
    {"A2PO", "AsyncGRPO", "GMPO", "GRPO", "NashMD", "OnlineDPO", "PPO", "PPOv2", "RLOO", "SDPO", "XPO"}
)
"""Trainers that sample completions and learn from their rewards, without `Trainer`."""

PREFERENCE = frozenset({"BCO", "CPO", "DPO", "KTO", "ORPO", "Reward", "TPO"})
"""Trainers that learn from pairs or labels of better and worse: a loss that falls, but no cross-entropy."""

SUPERVISED = frozenset({"SFT", "PRM"})

RL_KEYS = {
    "reward": ("reward", "objective/scores"),
    "reward_std": ("reward_std",),
    "zero_std": ("frac_reward_zero_std",),
    "kl_per_token": ("kl",),
    "kl_per_completion": ("objective/kl",),
    "entropy": ("entropy", "objective/entropy"),
    "length": ("completions/mean_length", "completion_length"),
    "clipped": ("completions/clipped_ratio",),
}
"""Our name -> what TRL's trainers log it as, the first that is there.

`kl` is a mean over tokens, `objective/kl` a sum over a completion, both in nats.
"""


def method_of(classes: Iterable[str], logged: Collection[str] = ()) -> Method:
    """The method of a trainer, by the names of its class and its bases, else by what it logs.

    classes: nearest first, e.g. ("MyTrainer", "GRPOTrainer"); logged: keys of RL_KEYS that were logged.
    A class that says nothing (`Trainer`, one of your own) and logs a reward or a KL is reinforcement learning;
    without them its loss is taken for the loss of supervised training.

        method_of(["GRPOTrainer"])         # "reinforcement"
        method_of(["Trainer"], {"reward"})  # "reinforcement"
    """
    for name in classes:
        short = name.lstrip("_").removeprefix("Unsloth").removesuffix("Trainer").removesuffix("Config")
        if short in REINFORCEMENT:
            return "reinforcement"
        if short in PREFERENCE:
            return "preference"
        if short in SUPERVISED:
            return "supervised"
    return "reinforcement" if {"reward", "kl_per_token", "kl_per_completion"} & set(logged) else "supervised"
