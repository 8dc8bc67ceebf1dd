"""Options of the original's command line that are answered with what to type instead."""

from __future__ import annotations

IN_THE_FILE = "it is read from the configuration: gradience check config.yaml"
NO_BASE = "leave it out: an audit never opens the base model; norms of every module's update are in --json"

INSTEAD = {
    ("audit", "--adapter-config"): "name the folder that holds both files: gradience audit ./my_adapter",
    ("audit", "--weights"): "gradience audit ./my_adapter, or the path of the .safetensors file",
    ("audit", "--top-singular-values"): "--json has the singular values of every module",
    ("audit", "--base-model"): NO_BASE,
    ("audit", "--base-norms-cache"): NO_BASE,
    ("audit", "--no-udr"): NO_BASE,
    ("check", "--task-profile"): "--task classification, generation, reasoning or rl",
    ("check", "--model"): f"{IN_THE_FILE}; --base-config takes the base model's config.json",
    ("check", "--optimizer"): IN_THE_FILE,
    ("check", "--weight-decay"): IN_THE_FILE,
    ("check", "--targets"): IN_THE_FILE,
    ("check", "--notes"): "leave it out: check writes no run",
}
"""(verb, option) -> what to type."""


def instead_of(verb: str | None, option: str | None) -> str | None:
    """What to type instead of an option that we do not have, where the original had it."""
    return INSTEAD.get((verb or "", option or ""))
