"""A PEFT adapter: its LoRA modules with rank, α and scale as PEFT reads them, and what else the file holds.

Semantics: PEFT 0.21, tuners/lora/layer.py and model.py. The truth about a rank is the tensor's shape.
Shapes on disk: linear A (r, n), B (m, r); embedding A (r, vocabulary), B (dim, r); convolution A (r, in, k…),
B (m, r/groups, 1…); experts stacked by `target_parameters` A (E·r, n) with the expert first, B (m, r·E) with the
expert last. Factors are returned as tall float64 blocks, see `spectra`.

LoRA on parameters (`target_parameters`): PEFT nests one wrapper per parameter of a module, in the order in which the
model defines its parameters: the first one is the innermost, and its key has the most `base_layer`. The parameter's
name is not in the key, and the model is not available: for the names below the order is known. Factors of several other
parameters on one module are not read.
Source: PEFT 0.21, tuners/tuners_utils.py, `_inject_parameters`; tested in tests/audit/test_against_peft.py.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from gradience.adapters import adapter
from gradience.adapters.adapter import Adapter, Factor, LoraPair
from gradience.adapters.config import PeftConfig, read_config
from gradience.adapters.keys import Ghost, Key, Kind, choose_adapter, config_name, parse_key, path_ends
from gradience.adapters.locate import Location, locate, no_factors, refuse_foreign
from gradience.adapters.tensors import TensorFile
from gradience.errors import InputError

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
    """`<module>.<parameter>` for a wrapper, empty if the order of its parameters is not known; None for an ordinary
    module.

    depth: number of `base_layer` in the key.   deepest: the largest depth of the module.   stacked: rows of A.
    A target without an owner (`gate_up_proj`) fits every module: then `target_modules`, or a rank that leaves room
    for one expert only, say that the module is an ordinary one. PEFT allows no module to be both.
    """
    owners = config.parameters_by_owner
    ends = path_ends(module)
    owned = [parameter for owner in ends for parameter in owners.get(owner, ())]
    # Targets without an owner are parameters of this module only if wrappers remain for them.
    names = owned if len(set(owned)) > deepest else [*owners.get("", ()), *owned]
    modules = config.target_modules
    if isinstance(modules, tuple):
        if not config.target_names.isdisjoint(ends):
            return None
    elif modules is not None and not owned and stacked == config.rank_of(module):
        return None
    position, parameters = deepest - depth, set(names)
    if position >= len(parameters):
        return None
    if len(parameters) > 1 and not parameters.issubset(_KNOWN_ORDER):
        return ""
    return f"{module}.{sorted(parameters, key=[*_KNOWN_ORDER, *parameters].index)[position]}"


def layout_of(config: PeftConfig, parameter: str) -> str | None:
    """Return the order of the columns of a stacked lora_B, by the marker that Unsloth writes.

    None: Unsloth wrote the adapter without a marker, so the order is not known. A marker that is not in `LAYOUTS` is
    returned unchanged. An adapter that Unsloth did not write has PEFT's order.
    """
    name = parameter.rpartition(".")[2]
    mapping = config.fields.get("auto_mapping")
    mapping = mapping if isinstance(mapping, dict) else {}
    for fields in (config.fields, mapping):
        detail = fields.get(_DETAIL)
        parameters = detail.get("parameters") if isinstance(detail, dict) else None
        entry = parameters.get(name) if isinstance(parameters, dict) else None
        exact = entry.get(LAYOUT_FIELD) if isinstance(entry, dict) else None
        declared = fields.get(LAYOUT_FIELD) if exact is None else exact
        if declared is not None:
            return str(declared)[:40]
    return None if mapping.get("unsloth_fixed") and name in _GROUPED_BY_UNSLOTH else "rank_major"


def fields_in_peft_order(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config fields of an adapter whose stacked lora_B are written in PEFT's order.

    The layout marker is kept and set to PEFT's order: without it, Unsloth assumes its own order.
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


def open_peft(path: Path, name: str | None, stack: ExitStack) -> Adapter:
    """Open the adapter at `path` and sort its tensors; weights without a config have no scale.

    Raises InputError (see `locate`, `config`, `tensors`), also if it is not a PEFT adapter.
    """
    location = locate(path, adapter=name)
    config = read_config(location.config, root=location.root) if location.config else None
    files = [stack.enter_context(TensorFile.open(file, root=location.root)) for file in location.weights]
    _check_shards(location, files)
    tensors = adapter.tensors_of(files)
    entries = {name: tensor.entry for name, tensor in tensors.items()}
    refuse_foreign(location.path, entries, files[0].metadata, has_config=config is not None)
    keys = {name: parse_key(name) for name in tensors}
    chosen = choose_adapter(location.path, keys.values(), None if location.sub_folder else name)
    opened = Adapter("peft" if config else "safetensors", location, config, files, chosen, loads_in_peft=True)
    _sort_tensors(opened, tensors, keys)
    if not opened.pairs and not opened.unaudited:
        raise no_factors(location.path, entries)
    return opened


def _check_shards(location: Location, files: Sequence[TensorFile]) -> None:
    if location.shard_of is None:
        return
    shard_of = {name: file.path.name for file in files for name in file.entries}
    total = sum(len(file.entries) for file in files)
    wrong = [name for name, shard in location.shard_of.items() if shard_of.get(name) != shard]
    extra = shard_of.keys() - location.shard_of.keys()
    if wrong or extra or total != len(shard_of):
        culprit = (wrong or sorted(extra) or ["?"])[0]
        raise InputError(
            f"{location.path}: the index and the shards disagree about tensor {culprit[:120]!r}",
            code="bad-index",
            hint="download the adapter again: every tensor must be in exactly the shard that the index names",
        )


Slot = tuple[str, int, Ghost]
"""Module, nesting depth, and whether it is a copy: one pair of factors."""
_GHOSTS: tuple[Ghost, ...] = ("", "modules_to_save", "original_module")


def _sort_tensors(opened: Adapter, tensors: adapter.Tensors, keys: Mapping[str, Key]) -> None:
    """Sort every tensor into pairs, other or unaudited, so that coverage adds up to the whole file."""
    slots: dict[Slot, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, key in keys.items():
        if ".modules_to_save." in name and name.replace(".modules_to_save.", ".") in tensors:
            # In addition to the trained copy, PEFT saves the live model's embedding or head.
            opened.other += adapter.notes_of([name], adapter.GHOST_REASON, tensors)
        elif key.adapter is not None and key.adapter != opened.adapter_name:
            opened.other += adapter.notes_of([name], f"another adapter ({key.adapter})", tensors)
        elif key.role in ("A", "B", "embedding_A", "embedding_B"):
            slots[key.module, key.depth, key.ghost][key.role].append(name)
        elif reason := adapter.known_reason(key, opened.config):
            opened.other += adapter.notes_of([name], reason, tensors)
        else:
            opened.unaudited += adapter.notes_of([name], "unknown tensor", tensors)
    deepest: dict[str, int] = defaultdict(int)
    """Module -> largest nesting depth of its wrappers."""
    for module, depth, _ in slots:
        deepest[module] = max(deepest[module], depth)
    for (module, depth, ghost), roles in slots.items():
        names = [name for group in roles.values() for name in group]
        # The module itself is read if it is there, else the copy that was trained, else the one that was not.
        if any((module, depth, better) in slots for better in _GHOSTS[: _GHOSTS.index(ghost)]):
            opened.other += adapter.notes_of(names, adapter.GHOST_REASON, tensors)
            continue
        pair = _make_pair(opened.config, module, depth, deepest[module], roles, tensors)
        opened.add(pair, names, tensors)
    opened.in_order_of_data()


def _make_pair(
    config: PeftConfig | None,
    module: str,
    depth: int,
    deepest: int,
    roles: Mapping[str, list[str]],
    tensors: adapter.Tensors,
) -> LoraPair | str:
    """Return the pair, or the reason for its absence."""
    embedding = "embedding_A" in roles or "embedding_B" in roles
    side_A, side_B = ("embedding_A", "embedding_B") if embedding else ("A", "B")
    if set(roles) - {side_A, side_B}:
        return adapter.SEVERAL
    factors = adapter.factors_of(roles.get(side_A, []), roles.get(side_B, []), tensors)
    if isinstance(factors, str):
        return factors
    a, b = factors
    pair: LoraPair | str | None = None
    if config is not None and config.fields.get("enable_lora") is not None:
        return "MergedLinear of PEFT before 0.4 (enable_lora): block-diagonal factors"
    if config is not None and config.target_parameters:
        parameter = wrapped_parameter(config, module, depth, deepest, a.entry.shape[0])
        if parameter == "":
            return "one of several parameters of a module (target_parameters) whose order is not known"
        pair = None if parameter is None else _expert_pair(config, parameter, a, b)
    if pair is None and deepest:
        return "one of several wrappers of one module (base_layer), which only target_parameters tells apart"
    if pair is None:
        pair = adapter.paired(module, "embedding" if embedding else "linear", a, b)
    if isinstance(pair, str) or config is None:
        return pair
    return pair.configured(config, config_name(pair.module))


def _expert_pair(config: PeftConfig, parameter: str, a: Factor, b: Factor) -> LoraPair | str:
    """E is not in the file: the rank must come from the config, and must divide both tensors."""
    rank = config.rank_of(parameter)
    stacked = a.entry.shape[0]
    if rank is None:
        return "stacked experts need the rank from the config, which has none"
    if len(a.entry.shape) != 2 or len(b.entry.shape) != 2 or b.entry.shape[1] != stacked:
        return adapter.mismatch(a, b)
    if stacked % rank:
        return f"stacked experts: {stacked} rows of A are not a multiple of the rank {rank} in the config"
    kind: Kind = "expert" if stacked > rank else "linear"
    rows, columns, experts = b.entry.shape[0], a.entry.shape[1], stacked // rank
    # Of one expert or one direction, both orders are the same.
    layout = layout_of(config, parameter) if min(experts, rank) > 1 else LAYOUTS[0]
    if layout not in (*LAYOUTS, None):
        return f"stacked experts: {LAYOUT_FIELD} is {layout!r} in the config, not {' or '.join(LAYOUTS)}"
    if layout == "grouped_by_expert":
        b = b.with_axes(b.entry.shape, lambda words: words.reshape(rows, experts, rank).transpose(0, 2, 1))
    return LoraPair(parameter, kind, a, b, rank, rows, columns, experts, layout=layout)
