"""LoRA on parameters (`target_parameters`): which tensor of the file belongs to which parameter.

PEFT nests one wrapper per parameter of a module, in the order in which the model defines its parameters: the first
one is the innermost, and its key has the most `base_layer`. The parameter's name is not in the key, and the model is
not at hand: for the names below the order is known, for others the alphabet decides and a finding says so.
Source: PEFT 0.21, tuners/tuners_utils.py, `_inject_parameters`; tested in tests/audit/test_against_peft.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from gradience.adapters.config import PeftConfig
from gradience.adapters.keys import path_ends

Layout = Literal["rank_major", "grouped_by_expert"]
"""Order of the columns of a stacked lora_B, (m, r·E): expert fastest (PEFT), or expert slowest.

Unsloth trained the second until unsloth_zoo 2026.9.6, and names the order in adapter_config.json since then.
Source: unsloth_zoo 2026.10.9, temporary_patches/moe_utils.py.
"""
LAYOUTS: tuple[Layout, ...] = ("rank_major", "grouped_by_expert")
LAYOUT_FIELD = "lora_B_layout"
SAY_ORDER = (
    'add "lora_B_layout": "grouped_by_expert" to adapter_config.json if it was trained with unsloth_zoo before '
    '2026.9.6, else "lora_B_layout": "rank_major"'
)
_DETAIL = "unsloth_fused_expert_lora"
_GROUPED_BY_UNSLOTH = frozenset(("gate_up_proj", "down_proj"))
"""The only parameters of experts whose order Unsloth ever changed."""

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
    owned = [parameter for owner in ends for parameter in owners.get(owner, ())]
    # Targets without an owner are parameters of this module only where wrappers are left for them.
    names = owned if len(set(owned)) > deepest else [*owners.get("", ()), *owned]
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


def layout_of(config: PeftConfig, parameter: str) -> str | None:
    """Return the order of the columns of a stacked lora_B, by the marker that Unsloth writes.

    None: Unsloth wrote the adapter without a marker, so the order is not known. A marker that is not in `LAYOUTS` is
    returned unchanged. An adapter that Unsloth did not write has PEFT's order.
    """
    name = parameter.rpartition(".")[2]
    mapping = config.fields.get("auto_mapping")
    mapping = mapping if isinstance(mapping, dict) else {}
    for fields in (config.fields, mapping):
        declared = _declared(fields, name)
        if declared is not None:
            return str(declared)[:40]
    return None if mapping.get("unsloth_fixed") and name in _GROUPED_BY_UNSLOTH else "rank_major"


def _declared(fields: Mapping[str, Any], name: str) -> Any:
    detail = fields.get(_DETAIL)
    parameters = detail.get("parameters") if isinstance(detail, dict) else None
    entry = parameters.get(name) if isinstance(parameters, dict) else None
    exact = entry.get(LAYOUT_FIELD) if isinstance(entry, dict) else None
    return fields.get(LAYOUT_FIELD) if exact is None else exact


def fields_in_peft_order(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the config must say of an adapter whose stacked lora_B are written in PEFT's order.

    The marker stays, with PEFT's order: Unsloth takes an adapter of its own without one for the other order.
    """
    new: dict[str, Any] = {}
    if LAYOUT_FIELD in fields:
        new[LAYOUT_FIELD] = "rank_major"
    detail = fields.get(_DETAIL)
    if isinstance(detail, dict) and isinstance(detail.get("parameters"), dict):
        parameters = {
            name: {**entry, LAYOUT_FIELD: "rank_major"} if isinstance(entry, dict) else entry
            for name, entry in detail["parameters"].items()
        }
        new |= {
            LAYOUT_FIELD: "rank_major",
            _DETAIL: {**detail, LAYOUT_FIELD: "rank_major", "parameters": parameters},
        }
    mapping = fields.get("auto_mapping")
    if isinstance(mapping, dict) and (inner := fields_in_peft_order(mapping)):
        new["auto_mapping"] = {**mapping, **inner}
    return new
