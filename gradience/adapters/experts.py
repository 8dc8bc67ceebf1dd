"""LoRA on parameters (`target_parameters`): which tensor of the file belongs to which parameter.

PEFT nests one wrapper per parameter of a module, in the order in which the model defines its parameters: the first
one is the innermost, and its key has the most `base_layer`. The parameter's name is not in the key, and the model is
not at hand: for the names below the order is known, for others the alphabet decides and a finding says so.
Source: PEFT 0.21, tuners/tuners_utils.py, `_inject_parameters`; tested in tests/audit/test_against_peft.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from gradience.adapters.config import PeftConfig
from gradience.adapters.keys import path_ends

_KNOWN_ORDER = (
    "gate_up_proj", "gate_up_proj_bias", "gate_proj", "up_proj", "down_proj", "down_proj_bias",
    "w1", "v1", "w2", "w3", "weight", "bias",
)  # fmt: skip
"""Every expert class of transformers 5.24 defines its parameters in this order."""


def wrapped_parameter(config: PeftConfig, module: str, depth: int, deepest: int, stacked: int) -> str | None:
    """`<module>.<parameter>` for a wrapper, or None for an ordinary module.

    depth: number of `base_layer` in the key.   deepest: the largest depth of the module.   stacked: rows of A.
    A target without an owner (`gate_up_proj`) fits every module: then `target_modules`, or a rank that leaves room
    for one expert only, say that the module is an ordinary one. PEFT allows no module to be both.
    """
    owners = config.parameters_by_owner
    ends = path_ends(module)
    names = [parameter for owner in ("", *ends) for parameter in owners.get(owner, ())]
    owned = any(owner in owners for owner in ends)
    modules = config.target_modules
    if isinstance(modules, tuple):
        if not config.target_names.isdisjoint(ends):
            return None
    elif modules is not None and not owned and stacked == config.rank_of(module):
        return None
    position = deepest - depth
    if position >= len(set(names)):
        return None
    return f"{module}.{_in_order(names)[position]}"


def _in_order(names: Iterable[str]) -> list[str]:
    order = {name: index for index, name in enumerate(_KNOWN_ORDER)}
    return sorted(set(names), key=lambda name: (order.get(name, len(order)), name))


def guessed_orders(config: PeftConfig) -> list[str]:
    """Targets whose order on their module is a guess: several on one module, and not all of them known."""
    groups: dict[str, list[str]] = defaultdict(list)
    for target in config.target_parameters:
        groups[target.rpartition(".")[0]].append(target)
    return [
        target
        for group in groups.values()
        if len(group) > 1 and not all(target.rpartition(".")[2] in _KNOWN_ORDER for target in group)
        for target in sorted(group)
    ]
