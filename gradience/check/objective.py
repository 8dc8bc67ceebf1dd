"""What a configuration trains for. Advice on supervised fine-tuning is not for reinforcement learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

SUPERVISED = ("sft", "pretraining")

OF_ALGORITHM = {
    "sft": "sft",
    "pt": "pretraining",
    **dict.fromkeys(("rm", "reward", "prm"), "reward"),
    **dict.fromkeys(("dpo", "ipo", "orpo", "kto", "simpo", "cpo", "bco"), "preference"),
    **dict.fromkeys(("grpo", "gdpo", "rloo", "ppo", "gspo", "ebft", "online_dpo"), "rl"),
}
"""What a tool calls a method -> what it trains for."""


class Aim(NamedTuple):
    """What is trained for, by which method where that is known, and the key that says so (None: a default)."""

    objective: str
    algorithm: str | None = None
    key: str | None = None


def named_aim(values: Mapping[str, Any], key: str, otherwise: str) -> Aim | None:
    """Return the method that a key names; one that we do not know counts as `otherwise`."""
    name = values.get(key)
    if not isinstance(name, str) or not name:
        return None
    return Aim(OF_ALGORITHM.get(name.lower(), otherwise), name.lower(), key)
