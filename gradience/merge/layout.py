"""Parents -> what is written: merged modules, tensors beside the factors, and the config. Only headers are read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from gradience.adapters.adapter import (
    BASE_REASON,
    DORA_REASON,
    LORA_BIAS_REASON,
    Adapter,
    Factor,
    SkippedTensor,
)
from gradience.adapters.base_weights import BaseWeights, base_folder
from gradience.adapters.config import config_of
from gradience.adapters.keys import PREFIX, config_name, ends_with, factor_name, parse_key, peft_name
from gradience.adapters.locate import natural_key
from gradience.adapters.peft import fields_in_peft_order
from gradience.adapters.tensors import (
    DTYPES,
    DType,
    NewTensor,
    TensorEntry,
    TensorFile,
    WeightsWriter,
    decode,
    encode,
    pieces,
)
from gradience.audit.dominance import DoraUpdate
from gradience.compress.encodings import Target, encode_modules, merged_fields
from gradience.compress.layout import Layout, storage_type
from gradience.compress.module import Job
from gradience.errors import InputError, UsageError
from gradience.merge.module import MergedPair, Part, Recipe, is_dense
from gradience.merge.parents import Parent
from gradience.merge.settings import MergeSettings
from gradience.models.locate import EMBEDDED
from gradience.reports.compression import ModulePlan
from gradience.spectra import FloatArray

STARTS = ("loftq_config", "eva_config", "corda_config", "lora_ga_config")
"""Settings of an initialization, which a merge does not have."""
DENSITY = 0.5
"""Default share of entries that ties, dare and knots keep."""


class Plan(NamedTuple):
    """Contents of the merged adapter. opened: the first parent, with the merged modules and the tensors beside them."""

    opened: Adapter
    layout: Layout
    pairs: tuple[MergedPair, ...]
    rank: int
    """Largest rank."""


class Beside(NamedTuple):
    """A tensor that is written beside the factors. tensor: its name in a parent's file; name: the one written."""

    tensor: str
    name: str
    note: SkippedTensor


def plan_merge(
    parents: Sequence[Parent], settings: MergeSettings, rank: int | None, stack: ExitStack
) -> Plan:
    """Decide what is written. rank: of the merged adapter; None: the default of the method.

    Raises InputError (needs-base, saved-differ, other-tokens, and what DoRA raises), UsageError (dora-method,
    bad-dtype).
    """
    pairs = _pairs(parents, settings, stack)
    wanted = rank or max(pair.rank for parent in parents for pair in parent.opened.pairs)
    ranks: dict[str, int] = {}
    for pair in pairs:
        name, most = config_name(pair.module), min(pair.rows, pair.columns)
        most = most if is_dense(pair) else min(pair.rank, most)
        rank_here = pair.rank if settings.method == "linear" else min(wanted, most)
        ranks[name] = min(ranks.get(name, rank_here), rank_here)
    scales = {config_name(pair.module): pair.scale or 1.0 for pair in pairs}
    targets = [Target(name, ranks[name], scales[name]) for name in sorted(ranks, key=natural_key)]
    encoded = encode_modules(targets, None)
    jobs = [
        Job(
            pair,
            _planned(pair, ranks[name]),
            encoded.stored_rank[name],
            encoded.fold[name],
            encoded.scale[name],
            storage_type(settings.dtype, _common_type((part.pair.a for part in pair.parts), "F32")),
            storage_type(settings.dtype, _common_type((part.pair.b for part in pair.parts), "F32")),
            parameter=ends_with(pair.module, parents[0].config.target_parameters),
        )
        for pair in pairs
        for name in [config_name(pair.module)]
    ]
    beside, computed = _beside(parents, settings, jobs, stack)
    names = {
        factor.tensor: factor_name(factor.tensor, pair.module, pair.kind, side)
        for pair in pairs
        for side, factor in pair.factors.items()
    }
    names |= {tensor.tensor: tensor.name for tensor in beside}
    first = parents[0]
    fields = _fields(parents, encoded.fields, jobs)
    config = config_of(first.config.path, fields)
    opened = replace(
        first.opened,
        pairs=list(pairs),
        other=[tensor.note for tensor in beside],
        # Of tensors with one name the last file counts: the computed ones, then the first parent's.
        files=[*(file for parent in reversed(parents) for file in parent.opened.files), *computed],
        config=config,
        stack=ExitStack(),
    )
    carried = sorted(tensor.tensor for tensor in beside)
    layout = Layout(config, encoded, jobs, (), carried, (), names, first.config.fields, fields)
    return Plan(opened, layout, pairs, max(ranks.values()))


def _planned(pair: MergedPair, rank: int) -> ModulePlan:
    """Return the plan of a module, of which a job takes only the rank."""
    return ModulePlan(
        name=pair.module, old_rank=pair.rank, new_rank=rank, old_params=pair.params, new_params=0,
        old_bytes=pair.bytes, new_bytes=0, kept_energy=None, predicted_error=None, norm=None,
    )  # fmt: skip


def _common_type(factors: Iterable[Factor], otherwise: str) -> DType:
    types = {factor.entry.dtype for factor in factors}
    return types.pop() if len(types) == 1 else DTYPES[otherwise]


# ---------------------------------------------------------------- modules


def _pairs(parents: Sequence[Parent], settings: MergeSettings, stack: ExitStack) -> tuple[MergedPair, ...]:
    parts: dict[str, list[Part]] = {}
    base = None
    for place, parent in enumerate(parents):
        magnitudes = parent.opened.magnitudes()
        if (magnitudes or parent.config.use_dora) and base is None:
            base = _base_of(parent, settings, stack)
        dora = base if magnitudes or parent.config.use_dora else None
        for pair in parent.opened.pairs:
            update = None
            if dora is not None:
                magnitude, transposed = magnitudes.get(pair.module), parent.config.fan_in_fan_out
                update = partial(DoraUpdate, pair, magnitude, dora, transposed=transposed)
            parts.setdefault(pair.module, []).append(Part(place, parent.weight, pair, update))
    everything = [part for group in parts.values() for part in group]
    scale = everything[0].weight * everything[0].scale
    joined = settings.method in ("linear", "svd") and all(part.dora is None for part in everything)
    same = joined and all(math.isclose(part.weight * part.scale, scale, rel_tol=1e-12) for part in everything)
    density = DENSITY if settings.density is None else settings.density
    recipe = Recipe(settings.method, density, settings.seed)
    return tuple(
        _merged_pair(group, recipe, scale if same and scale else 1.0, as_stored=bool(same and scale))
        for group in parts.values()
    )


def _base_of(parent: Parent, settings: MergeSettings, stack: ExitStack) -> BaseWeights:
    """Open the base weights that a DoRA update depends on. Raises UsageError (dora-method), InputError (needs-base)."""
    if settings.method in ("linear", "knots"):
        raise UsageError(
            f"{parent.path}: a DoRA update has full rank, so --method {settings.method} has no factors for it",
            code="dora-method",
            hint="give --method svd --rank K, ties or dare",
        )
    if settings.base_model is None:
        raise InputError(
            f"{parent.path}: a DoRA update depends on the base weights W: m·(W + s·B·A)/‖W + s·B·A‖ − W",
            code="needs-base",
            hint="give the folder of the base weights: --base-model DIR (Python: base_model=)",
        )
    folder = local_base(settings.base_model) or base_folder(settings.base_model, weights=True)
    return stack.enter_context(BaseWeights.open(folder))


def local_base(name: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder of a base model on this disk, or of one in a package; None for a name on the hub."""
    if str(name) in EMBEDDED:
        return EMBEDDED[str(name)][0]()
    return Path(name) if name is not None and os.path.isdir(name) else None


def _merged_pair(parts: Sequence[Part], recipe: Recipe, scale: float, *, as_stored: bool) -> MergedPair:
    """Return the pair of one module. scale: of the joined factors. as_stored: all have it, so no number changes."""
    pairs = [part.pair for part in parts]
    first, rank = pairs[0], sum(pair.rank for pair in pairs)
    factors = [factor for pair in pairs for factor in (pair.a, pair.b)]
    dtype = _common_type(factors, "F64") if as_stored else DTYPES["F64"]
    shape_A = (rank * first.experts, *first.a.entry.shape[1:])
    shape_B = (first.rows, rank * first.experts, *first.b.entry.shape[2:])
    a, b = (
        factor._replace(entry=TensorEntry(dtype, shape, 0, math.prod(shape) * dtype.bits // 8), turn=None)
        for factor, shape in ((first.a, shape_A), (first.b, shape_B))
    )
    known = (first.module, first.kind, a, b, rank, first.rows, first.columns, first.experts)
    return MergedPair(*known, scale=scale, parts=tuple(parts), recipe=recipe)


# ---------------------------------------------------------------- tensors beside the factors


def _beside(
    parents: Sequence[Parent], settings: MergeSettings, jobs: Sequence[Job], stack: ExitStack
) -> tuple[list[Beside], list[TensorFile]]:
    """Return the tensors beside the factors, and a file with those that were computed."""
    _refuse_tokens(parents)
    holders: dict[str, list[tuple[Parent, SkippedTensor]]] = {}
    for parent in parents:
        for note in parent.opened.other:
            if note.reason not in (DORA_REASON, LORA_BIAS_REASON) and not parent.opened.is_foreign(note):
                name = peft_name(note.tensor, parent.opened.adapter_name)
                holders.setdefault(name, []).append((parent, note))
    beside: list[Beside] = []
    averaged: dict[str, list[tuple[float, TensorFile, str]]] = {}
    for name, group in holders.items():
        stored = [_stored(parent, note) for parent, note in group]
        complete = len(group) == len(parents) or group[0][1].reason == BASE_REASON
        if not (complete and all(_equal(stored[0], one) for one in stored[1:])) and settings.saved != "first":
            types = {(file.entries[tensor].dtype, file.entries[tensor].shape) for file, tensor in stored}
            if settings.saved == "refuse" or not complete or len(types) > 1:
                raise _differ(name, [parent for parent, _ in group], parents)
            averaged[group[0][1].tensor] = [
                (parent.weight, *one) for (parent, _), one in zip(group, stored, strict=True)
            ]
        beside.append(Beside(group[0][1].tensor, name, group[0][1]))
    biases = _lora_biases(parents, jobs)
    beside += [
        Beside(name, name, SkippedTensor(name, LORA_BIAS_REASON, len(b))) for name, (b, _) in biases.items()
    ]
    if not averaged and not biases:
        return beside, []
    path = Path(stack.enter_context(TemporaryDirectory())) / "computed.safetensors"
    tensors = {name: NewTensor(dtype.name, values.shape) for name, (values, dtype) in biases.items()}
    for name, ((_, file, tensor), *_) in averaged.items():
        entry = file.entries[tensor]
        tensors[name] = NewTensor(entry.dtype.name, entry.shape)
    with WeightsWriter(path, tensors, {}) as writer:
        for name in writer.names:
            if name in biases:
                values, dtype = biases[name]
                writer.put(encode(values, dtype).tobytes())
            else:
                for piece in _averages(averaged[name]):
                    writer.put(piece)
    return beside, [stack.enter_context(TensorFile.open(path))]


def _stored(parent: Parent, note: SkippedTensor) -> tuple[TensorFile, str]:
    return next(file for file in parent.opened.files if note.tensor in file.entries), note.tensor


def _equal(first: tuple[TensorFile, str], second: tuple[TensorFile, str]) -> bool:
    entries = [file.entries[tensor] for file, tensor in (first, second)]
    same = (entries[0].dtype, entries[0].shape) == (entries[1].dtype, entries[1].shape)
    return same and all(one == two for one, two in zip(pieces(*first), pieces(*second), strict=True))


def _differ(name: str, holding: Sequence[Parent], parents: Sequence[Parent]) -> InputError:
    names = " and ".join(str(parent.path) for parent in holding)
    there = "differs in" if len(holding) == len(parents) else "is trained only in"
    return InputError(
        f"{name.removeprefix(PREFIX)} {there} {names}: full weights do not add up",
        code="saved-differ",
        hint="--saved average averages by weight what all adapters have; --saved first keeps the first one's",
    )


def _averages(group: Sequence[tuple[float, TensorFile, str]]) -> Iterator[bytes]:
    """Yield the weighted average of one tensor in pieces. Raises UsageError (bad-weights) if weights add up to 0."""
    total = math.fsum(weight for weight, _, _ in group)
    dtype = group[0][1].entries[group[0][2]].dtype
    if not total or dtype.numpy is None:
        raise UsageError(
            f"{group[0][2]}: no average of {dtype.name} with weights that add up to {total:g}",
            code="bad-weights",
            hint="use --saved first",
        )
    for parts in zip(*(pieces(file, tensor) for _, file, tensor in group), strict=True):
        values = [
            weight / total * decode(np.frombuffer(part, dtype.numpy))
            for part, (weight, _, _) in zip(parts, group, strict=True)
        ]
        yield encode(np.sum(values, axis=0), dtype).tobytes()


def _lora_biases(parents: Sequence[Parent], jobs: Sequence[Job]) -> dict[str, tuple[FloatArray, DType]]:
    """Return Σ w·s·b/s′ for every module if a parent trained biases of lora_B, which PEFT multiplies by the scale."""
    biases: dict[str, FloatArray] = {}
    by_module = {job.pair.module: job for job in jobs}
    for parent in parents:
        scales = {pair.module: pair.scale or 0.0 for pair in parent.opened.pairs}
        for note in parent.opened.other:
            module = parse_key(note.tensor).module
            if note.reason == LORA_BIAS_REASON and module in by_module and not parent.opened.is_foreign(note):
                file, tensor = _stored(parent, note)
                bias = decode(file.read_words(tensor)) * parent.weight * scales[module]
                biases[module] = biases.get(module, 0.0) + bias / by_module[module].written_scale
    if not biases:
        return {}
    return {
        f"{PREFIX}{module}.lora_B.bias": (biases.get(module, np.zeros(job.pair.rows)), job.dtype_B)
        for module, job in by_module.items()
        if job.pair.kind in ("linear", "conv")
    }


def _refuse_tokens(parents: Sequence[Parent]) -> None:
    indices = [parent.config.fields.get("trainable_token_indices") or None for parent in parents]
    if any(one != indices[0] for one in indices):
        raise InputError(
            f"{parents[0].path} and {parents[1].path} train different rows of an embedding (trainable_token_indices)",
            code="other-tokens",
            hint="merge adapters that train the same tokens",
        )


# ---------------------------------------------------------------- config


def _fields(parents: Sequence[Parent], encoded: Mapping[str, Any], jobs: Sequence[Job]) -> dict[str, Any]:
    """Return the config of the merged adapter: the first parent's, with what the merge changes."""
    first, old = parents[0].config, parents[0].config.fields
    configs = [parent.config for parent in parents]
    saved = list(dict.fromkeys(name for config in configs for name in config.modules_to_save))
    changes: dict[str, Any] = {
        **encoded,
        "use_dora": False,
        "init_lora_weights": True,
        "lora_bias": any(config.fields.get("lora_bias") for config in configs),
        "bias": max((config.bias for config in configs), key=("none", "lora_only", "all").index),
        "modules_to_save": saved or None,
        "inference_mode": True,
        **{name: None for name in STARTS if old.get(name)},
    }
    if len({config.base_model for config in configs}) > 1 and first.base_model is None:
        changes["base_model_name_or_path"] = next(
            config.base_model for config in configs if config.base_model
        )
    targets = [(config.target_modules, frozenset(pair.module for pair in parent.opened.pairs))
               for config, parent in zip(configs, parents, strict=True)]  # fmt: skip
    if any(target != targets[0] for target in targets):
        # Each module by its full name, which hits nothing else.
        names = {config_name(job.pair.module) for job in jobs if not job.parameter}
        changes |= {"target_modules": sorted(names, key=natural_key)}
        changes |= {
            name: None
            for name in ("exclude_modules", "layers_to_transform", "layers_pattern")
            if old.get(name)
        }
    if parents[0].opened.packed("grouped_by_expert"):
        changes |= fields_in_peft_order(old)
    return merged_fields(old, changes)
