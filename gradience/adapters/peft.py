"""A PEFT adapter: its LoRA modules with rank, α and scale as PEFT reads them, and what else the file holds.

Semantics: PEFT 0.21, tuners/lora/layer.py and model.py. The truth about a rank is the tensor's shape.
Shapes on disk: linear A (r, n), B (m, r); embedding A (r, vocabulary), B (dim, r); convolution A (r, in, k…),
B (m, r/groups, 1…); experts stacked by `target_parameters` A (E·r, n) with the expert first, B (m, r·E) with the
expert last. Factors are handed out as tall float64 blocks, see `spectra`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from gradience.adapters.adapter import Adapter, Factor, LoraPair
from gradience.adapters.config import PeftConfig, read_config
from gradience.adapters.experts import wrapped_parameter
from gradience.adapters.foreign import no_factors, refuse_foreign
from gradience.adapters.inventory import GHOST_REASON, SkippedTensor, describe_other
from gradience.adapters.keys import Ghost, Key, Kind, choose_adapter, config_name, parse_key
from gradience.adapters.locate import Location, locate
from gradience.adapters.tensors import TensorEntry, TensorFile
from gradience.errors import InputError
from gradience.words import counted


def open_peft(path: Path, adapter: str | None) -> Adapter:
    """Open the adapter at `path` and sort its tensors; weights without a config have no scale.

    Raises InputError (see `locate`, `config`, `tensors`, `inventory`), also for what is no adapter of PEFT.
    """
    location = locate(path, adapter=adapter)
    config = read_config(location.config, root=location.root) if location.config else None
    with ExitStack() as stack:
        files = [stack.enter_context(TensorFile.open(file, root=location.root)) for file in location.weights]
        _check_shards(location, files)
        tensors = {name: (file, entry) for file in files for name, entry in file.entries.items()}
        entries = {name: entry for name, (_, entry) in tensors.items()}
        refuse_foreign(location.path, entries, files[0].metadata, has_config=config is not None)
        keys = {name: parse_key(name) for name in tensors}
        name = choose_adapter(location.path, keys.values(), None if location.sub_folder else adapter)
        kind = "peft" if config else "safetensors"
        opened = Adapter(kind, location, config, files, name, stack=stack.pop_all())
        try:
            _sort_tensors(opened, tensors, keys)
            if not opened.pairs and not opened.unaudited:
                raise no_factors(location.path, entries)
        except BaseException:  # Ctrl-C as well: whatever ends this, the files are closed
            opened.close()
            raise
        return opened


def _check_shards(location: Location, files: Sequence[TensorFile]) -> None:
    if location.shard_of is None:
        return
    where = {name: file.path.name for file in files for name in file.entries}
    total = sum(len(file.entries) for file in files)
    wrong = [name for name, shard in location.shard_of.items() if where.get(name) != shard]
    extra = where.keys() - location.shard_of.keys()
    if wrong or extra or total != len(where):
        culprit = (wrong or sorted(extra) or ["?"])[0]
        raise InputError(
            f"{location.path}: the index and the shards disagree about tensor {culprit[:120]!r}",
            code="bad-index",
            hint="download the adapter again: every tensor must be in exactly the shard that the index names",
        )


Tensors = Mapping[str, tuple[TensorFile, TensorEntry]]
Slot = tuple[str, int, Ghost]
"""Module, nesting depth, and whether it is a copy: one pair of factors."""
_GHOSTS: tuple[Ghost, ...] = ("", "modules_to_save", "original_module")


def _sort_tensors(adapter: Adapter, tensors: Tensors, keys: Mapping[str, Key]) -> None:
    """Every tensor into pairs, other or unaudited: coverage adds up to the file."""
    slots: dict[Slot, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, key in keys.items():
        _, entry = tensors[name]
        if key.adapter is not None and key.adapter != adapter.adapter_name:
            adapter.other.append(SkippedTensor(name, f"another adapter ({key.adapter})", entry.params))
        elif key.role in ("A", "B", "embedding_A", "embedding_B"):
            slots[key.module, key.depth, key.ghost][key.role].append(name)
        else:
            note, known = describe_other(name, key, entry, adapter.config)
            (adapter.other if known else adapter.unaudited).append(note)
    depths = _parameter_depths(slots)
    for (module, depth, ghost), roles in slots.items():
        names = [name for group in roles.values() for name in group]
        # The module itself is read if it is there, else the copy that was trained, else the one that was not.
        better = _GHOSTS[: _GHOSTS.index(ghost)]
        if any((module, depth, other) in slots for other in better):
            adapter.ghosts.extend(names)
            adapter.other.extend(SkippedTensor(name, GHOST_REASON, tensors[name][1].params) for name in names)
            continue
        pair = _make_pair(adapter.config, module, depth, depths[module], roles, tensors)
        if isinstance(pair, str):
            adapter.unaudited.extend(SkippedTensor(name, pair, tensors[name][1].params) for name in names)
        else:
            adapter.pairs.append(pair)
    adapter.pairs.sort(key=lambda pair: (pair.a.file.path.name, min(pair.a.entry.start, pair.b.entry.start)))


def _parameter_depths(slots: Iterable[Slot]) -> dict[str, int]:
    """Module -> largest nesting depth of its wrappers (see `experts`)."""
    deepest: dict[str, int] = defaultdict(int)
    for module, depth, _ in slots:
        deepest[module] = max(deepest[module], depth)
    return deepest


def _make_pair(
    config: PeftConfig | None,
    module: str,
    depth: int,
    deepest: int,
    roles: Mapping[str, list[str]],
    tensors: Tensors,
) -> LoraPair | str:
    """The pair, or the reason why there is none."""
    embedding = "embedding_A" in roles or "embedding_B" in roles
    side_A, side_B = ("embedding_A", "embedding_B") if embedding else ("A", "B")
    names_A, names_B = roles.get(side_A, []), roles.get(side_B, [])
    if len(names_A) > 1 or len(names_B) > 1 or set(roles) - {side_A, side_B}:
        return "several tensors claim to be the same factor"
    if not names_B:
        return "A without B: half of a LoRA pair is missing"
    if not names_A:
        return "B without A: half of a LoRA pair is missing"
    a = Factor(names_A[0], *tensors[names_A[0]])
    b = Factor(names_B[0], *tensors[names_B[0]])
    if a.entry.shape[:1] == (0,) and len(a.entry.shape) > 1 and b.entry.shape[1:2] == (0,):
        return f"rank 0: A is {list(a.entry.shape)}, B is {list(b.entry.shape)}"
    for factor in (a, b):
        if 0 in factor.entry.shape:
            return (
                "empty tensor (0 elements): saved under DeepSpeed ZeRO-3 without gathering the weights "
                "(set stage3_gather_16bit_weights_on_model_save and save again)"
            )
        if factor.entry.dtype.numpy_name is None:
            return f"stored as {factor.entry.dtype.name}, which is not a type for LoRA factors"
        if len(factor.entry.shape) < 2:
            dimensions = counted(len(factor.entry.shape), "dimension")
            return f"a factor with {dimensions}: flattened or sharded, the shape is lost"
    if config is not None and config.fields.get("enable_lora") is not None:
        return "MergedLinear of PEFT before 0.4 (enable_lora): block-diagonal factors"
    if config is not None and config.target_parameters:
        parameter = wrapped_parameter(config, module, depth, deepest, a.entry.shape[0])
        if parameter is not None:
            return _expert_pair(config, parameter, a, b)
    if deepest:
        return "one of several wrappers of one module (base_layer), which only target_parameters tells apart"
    return _plain_pair(config, module, "embedding" if embedding else "linear", a, b)


def _plain_pair(config: PeftConfig | None, module: str, kind: Kind, a: Factor, b: Factor) -> LoraPair | str:
    rank, rows, groups = a.entry.shape[0], b.entry.shape[0], 1
    inner = math.prod(b.entry.shape[1:])
    if any(side != 1 for side in b.entry.shape[2:]):
        return f"B of shape {list(b.entry.shape)}: a B kernel larger than 1 is unknown"
    if len(a.entry.shape) > 2:
        kind = "conv"
        if inner and rank % inner == 0 and rows % (rank // inner) == 0:
            groups = rank // inner
    if inner * groups != rank:
        return f"inner dimensions differ: A is {list(a.entry.shape)}, B is {list(b.entry.shape)}"
    return _scaled(config, module, kind, a, b, rank, rows, math.prod(a.entry.shape[1:]), groups=groups)


def _expert_pair(config: PeftConfig, parameter: str, a: Factor, b: Factor) -> LoraPair | str:
    """E is not in the file: the rank must come from the config, and must divide both tensors."""
    rank = config.rank_of(parameter)
    stacked = a.entry.shape[0]
    if rank is None:
        return "stacked experts need the rank from the config, which has none"
    if len(a.entry.shape) != 2 or len(b.entry.shape) != 2 or b.entry.shape[1] != stacked:
        return f"inner dimensions differ: A is {list(a.entry.shape)}, B is {list(b.entry.shape)}"
    if stacked % rank:
        return f"stacked experts: {stacked} rows of A are not a multiple of the rank {rank} in the config"
    kind: Kind = "expert" if stacked > rank else "linear"
    rows, columns = b.entry.shape[0], a.entry.shape[1]
    return _scaled(config, parameter, kind, a, b, rank, rows, columns, experts=stacked // rank)


def _scaled(
    config: PeftConfig | None,
    module: str,
    kind: Kind,
    a: Factor,
    b: Factor,
    rank: int,
    rows: int,
    columns: int,
    *,
    experts: int = 1,
    groups: int = 1,
) -> LoraPair:
    declared = config.rank_of(config_name(module)) if config else None
    alpha = config.alpha_of(config_name(module)) if config else None
    scale = config.scale(alpha, rank) if config else None
    return LoraPair(module, kind, a, b, rank, rows, columns, experts, groups, declared, alpha, scale)
