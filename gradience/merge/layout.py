"""Parents -> what is written: merged modules, tensors beside the factors, and the config. Only headers are read."""

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
from gradience.adapters.keys import PREFIX, config_name, factor_name, parse_key, peft_name
from gradience.adapters.locate import natural_key
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
from gradience.compress.layout import Layout
from gradience.compress.module import Job
from gradience.errors import InputError, UsageError
from gradience.merge.module import MergedPair, Part, Recipe, is_dense
from gradience.merge.parents import Parent
from gradience.merge.settings import MergeSettings
from gradience.models.locate import EMBEDDED
from gradience.spectra import FloatArray

INITIAL = ("loftq_config", "eva_config", "corda_config", "lora_ga_config")
"""Settings of an initialization, which a merge does not have."""
CHOICES = ("exclude_modules", "layers_to_transform", "layers_pattern")
"""Settings that choose among modules; none is needed beside full names."""


class Computed(NamedTuple):
    """A tensor beside the factors that no parent holds, and its bytes."""

    tensor: NewTensor
    pieces: Iterable[bytes]


def plan_merge(
    parents: Sequence[Parent], settings: MergeSettings, rank: int | None, stack: ExitStack
) -> tuple[Adapter, Layout]:
    """Decide what is written: the first parent with the merged modules and the tensors beside them, and their layout.

    rank: of the merged adapter; None: the default of the method.

    Raises InputError (saved-differ, and what DoRA raises), UsageError (dora-method).
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
            ranks[name],
            encoded.stored_rank[name],
            encoded.fold[name],
            encoded.scale[name],
            _common_type((part.pair.a for part in pair.parts), "F32"),
            _common_type((part.pair.b for part in pair.parts), "F32"),
        )
        for pair in pairs
        for name in [config_name(pair.module)]
    ]
    beside, computed = _beside(parents, settings, jobs)
    names = {
        factor.tensor: factor_name(factor.tensor, pair.module, pair.kind, side)
        for pair in pairs
        for side, factor in pair.factors.items()
    }
    names |= {note.tensor: name for name, note in beside.items()}
    first = parents[0]
    fields = _fields(parents, encoded.fields, jobs)
    config = config_of(first.config.path, fields)
    opened = replace(
        first.opened,
        pairs=list(pairs),
        other=list(beside.values()),
        # Of tensors with one name the last file counts: the computed ones, then the first parent's.
        files=[
            *(file for parent in reversed(parents) for file in parent.opened.files),
            *_written(computed, stack),
        ],
        config=config,
        stack=ExitStack(),
    )
    carried = sorted(note.tensor for note in beside.values())
    return opened, Layout(config, encoded, jobs, (), carried, (), names, first.config.fields, fields)


def _common_type(factors: Iterable[Factor], otherwise: str) -> DType:
    types = {factor.entry.dtype for factor in factors}
    return types.pop() if len(types) == 1 else DTYPES[otherwise]


# ---------------------------------------------------------------- modules


def _pairs(parents: Sequence[Parent], settings: MergeSettings, stack: ExitStack) -> tuple[MergedPair, ...]:
    parts: dict[str, list[Part]] = {}
    base = None
    for place, parent in enumerate(parents):
        magnitudes, dora = parent.opened.magnitudes(), parent.dora
        if dora and base is None:
            base = _base_of(parent, settings, stack)
        for pair in parent.opened.pairs:
            update = None
            if dora and base is not None:
                magnitude, transposed = magnitudes.get(pair.module), parent.config.fan_in_fan_out
                update = partial(DoraUpdate, pair, magnitude, base, transposed=transposed)
            parts.setdefault(pair.module, []).append(Part(place, parent.weight, pair, update))
    everything = [part for group in parts.values() for part in group]
    scale = everything[0].weight * everything[0].scale
    joined = settings.method in ("linear", "svd") and all(part.dora is None for part in everything)
    same = joined and all(math.isclose(part.weight * part.scale, scale, rel_tol=1e-12) for part in everything)
    recipe = Recipe(settings.method, settings.density, settings.seed)
    return tuple(
        _merged_pair(group, recipe, scale if same and scale else 1.0, as_stored=bool(same and scale))
        for group in parts.values()
    )


def _base_of(parent: Parent, settings: MergeSettings, stack: ExitStack) -> BaseWeights:
    """Open the base weights that a DoRA update depends on. Raises UsageError (dora-method)."""
    if settings.method in ("linear", "knots"):
        raise UsageError(
            f"{parent.path}: a DoRA update has full rank, so --method {settings.method} has no factors for it",
            code="dora-method",
            hint="give --method svd --rank K, ties or dare",
        )
    assert settings.base_model is not None  # refused by `open_parents`
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
    shape_A = (rank, *first.a.entry.shape[1:])
    shape_B = (first.rows, rank, *first.b.entry.shape[2:])
    a, b = (
        factor._replace(entry=TensorEntry(dtype, shape, 0, math.prod(shape) * dtype.bits // 8), turn=None)
        for factor, shape in ((first.a, shape_A), (first.b, shape_B))
    )
    known = (first.module, first.kind, a, b, rank, first.rows, first.columns)
    return MergedPair(*known, scale=scale, parts=tuple(parts), recipe=recipe)


# ---------------------------------------------------------------- tensors beside the factors


def _beside(
    parents: Sequence[Parent], settings: MergeSettings, jobs: Sequence[Job]
) -> tuple[dict[str, SkippedTensor], dict[str, Computed]]:
    """Return the tensors beside the factors by the names that are written, and those that have to be computed."""
    holders: dict[str, list[tuple[Parent, SkippedTensor]]] = {}
    for parent in parents:
        for note in parent.opened.other:
            if note.reason not in (DORA_REASON, LORA_BIAS_REASON) and not parent.opened.is_foreign(note):
                name = peft_name(note.tensor, parent.opened.adapter_name)
                holders.setdefault(name, []).append((parent, note))
    beside = {name: group[0][1] for name, group in holders.items()}
    computed = {}
    for name, group in holders.items():
        stored = [_stored(parent, note) for parent, note in group]
        complete = len(group) == len(parents) or group[0][1].reason == BASE_REASON
        if complete and all(_equal(stored[0], one) for one in stored[1:]):
            continue
        entries = [file.entries[tensor] for file, tensor in stored]
        if settings.saved == "refuse" or not complete or len({(e.dtype, e.shape) for e in entries}) > 1:
            names = " and ".join(str(parent.path) for parent, _ in group)
            there = "differs in" if len(group) == len(parents) else "is trained only in"
            raise InputError(
                f"{name.removeprefix(PREFIX)} {there} {names}: full weights do not add up",
                code="saved-differ",
                hint="--saved average averages by weight what all adapters have",
            )
        weights = [parent.weight for parent, _ in group]
        averaged = NewTensor(entries[0].dtype.name, entries[0].shape)
        computed[group[0][1].tensor] = Computed(averaged, _averages(weights, stored, entries[0].dtype))
    for name, (bias, dtype) in _lora_biases(parents, jobs).items():
        beside[name] = SkippedTensor(name, LORA_BIAS_REASON, len(bias))
        computed[name] = Computed(NewTensor(dtype.name, bias.shape), [encode(bias, dtype).tobytes()])
    return beside, computed


def _written(computed: Mapping[str, Computed], stack: ExitStack) -> list[TensorFile]:
    """Return a file with the computed tensors, which lasts as long as `stack`."""
    if not computed:
        return []
    path = Path(stack.enter_context(TemporaryDirectory())) / "computed.safetensors"
    tensors = {name: one.tensor for name, one in computed.items()}
    with WeightsWriter(path, tensors, {}) as writer:
        for name in writer.names:
            for piece in computed[name].pieces:
                writer.put(piece)
    return [stack.enter_context(TensorFile.open(path))]


def _stored(parent: Parent, note: SkippedTensor) -> tuple[TensorFile, str]:
    return next(file for file in parent.opened.files if note.tensor in file.entries), note.tensor


def _equal(first: tuple[TensorFile, str], second: tuple[TensorFile, str]) -> bool:
    entries = [file.entries[tensor] for file, tensor in (first, second)]
    same = (entries[0].dtype, entries[0].shape) == (entries[1].dtype, entries[1].shape)
    return same and all(one == two for one, two in zip(pieces(*first), pieces(*second), strict=True))


def _averages(
    weights: Sequence[float], stored: Sequence[tuple[TensorFile, str]], dtype: DType
) -> Iterator[bytes]:
    """Yield the weighted average of one tensor in pieces. Raises UsageError (bad-weights) if weights add up to 0."""
    total = math.fsum(weights)
    if not total or dtype.numpy is None:
        raise UsageError(
            f"{stored[0][1]}: no average of {dtype.name} with weights that add up to {total:g}",
            code="bad-weights",
            hint="give other --weights",
        )
    for parts in zip(*(pieces(file, tensor) for file, tensor in stored), strict=True):
        values = [
            weight / total * decode(np.frombuffer(part, dtype.numpy))
            for part, weight in zip(parts, weights, strict=True)
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


# ---------------------------------------------------------------- config


def _fields(parents: Sequence[Parent], encoded: Mapping[str, Any], jobs: Sequence[Job]) -> dict[str, Any]:
    """Return the config of the merged adapter: the first parent's, with what the merge changes."""
    configs = [parent.config for parent in parents]
    old = configs[0].fields
    saved = list(dict.fromkeys(name for config in configs for name in config.modules_to_save))
    changes: dict[str, Any] = {
        **encoded,
        "base_model_name_or_path": next((config.base_model for config in configs if config.base_model), None),
        "use_dora": False,
        "init_lora_weights": True,
        "lora_bias": any(config.fields.get("lora_bias") for config in configs),
        "bias": max((config.bias for config in configs), key=("none", "lora_only", "all").index),
        "modules_to_save": saved or None,
        "inference_mode": True,
        **{name: None for name in INITIAL if old.get(name)},
    }
    targets = {
        (config.target_modules, frozenset(pair.module for pair in parent.opened.pairs))
        for config, parent in zip(configs, parents, strict=True)
    }
    if len(targets) > 1:
        # Each module by its full name, which hits nothing else.
        names = {config_name(job.pair.module) for job in jobs}
        changes["target_modules"] = sorted(names, key=natural_key)
        changes |= {name: None for name in CHOICES if old.get(name)}
    return merged_fields(old, changes)
