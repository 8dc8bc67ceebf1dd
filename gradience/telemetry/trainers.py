"""Training method of a trainer, from class names. Pure, no heavy imports.

The callback uses it before it reports exp(loss) as a perplexity, and monitor before it judges a loss: in
reinforcement learning the loss does not measure progress.
"""

from collections.abc import Iterable
from typing import Literal

Method = Literal["supervised", "preference", "reinforcement"]

REINFORCEMENT = frozenset(
    {"A2PO", "AsyncGRPO", "GMPO", "GRPO", "NashMD", "OnlineDPO", "PPO", "PPOv2", "RLOO", "SDPO", "XPO"}
)
"""Trainers that sample completions and learn from their rewards, without `Trainer`."""

PREFERENCE = frozenset({"BCO", "CPO", "DPO", "KTO", "ORPO", "Reward", "TPO"})
"""Trainers that learn from pairs or labels of better and worse: a loss that falls, but no cross-entropy."""

SUPERVISED = frozenset({"SFT", "PRM"})

REWARDS = frozenset({"reward", "objective/scores", "kl", "objective/kl"})
"""Names under which TRL's trainers log a reward, or the distance from the reference model."""


def method_of(classes: Iterable[str], *, rewarded: bool = False) -> Method:
    """Return a trainer's method from the class names of the trainer or its arguments, or else from its logs.

    classes: nearest first, e.g. ("MyConfig", "GRPOConfig"). rewarded: one of REWARDS was logged.
    An unknown class (`Trainer`, a custom class) that logs a reward or a KL is reinforcement learning.
    Without them, it is supervised.

        method_of(["GRPOTrainer"])         # "reinforcement"
        method_of(["Trainer"], rewarded=True)  # "reinforcement"
    """
    for name in classes:
        short = name.lstrip("_").removeprefix("Unsloth").removesuffix("Trainer").removesuffix("Config")
        if short in REINFORCEMENT:
            return "reinforcement"
        if short in PREFERENCE:
            return "preference"
        if short in SUPERVISED:
            return "supervised"
    return "reinforcement" if rewarded else "supervised"
