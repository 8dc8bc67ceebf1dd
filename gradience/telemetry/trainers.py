"""Training method of a trainer, by the names of classes. Pure, no heavy imports.

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
    """The method of a trainer, by the names of classes of its own or of its arguments, else by what it logs.

    classes: nearest first, e.g. ("MyConfig", "GRPOConfig"); rewarded: one of REWARDS was logged.
    A class that says nothing (`Trainer`, one of your own) and logs a reward or a KL is reinforcement learning;
    without them its loss is taken for the loss of supervised training.

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
