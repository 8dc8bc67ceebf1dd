"""Open the adapters to merge, refuse those whose updates cannot be added on one base, and lay out the result.

Only headers are read, except for tensors that are not factors.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from string import ascii_uppercase
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from gradience.adapters.adapter import (
    BASE_REASON,
    DORA_REASON,
    LORA_BIAS_REASON,
    Adapter,
    LoraPair,
    SkippedTensor,
)
from gradience.adapters.base_weights import BaseWeights, base_folder
from gradience.adapters.config import PeftConfig, config_of
from gradience.adapters.formats import open_adapter, require_order
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
from gradience.blas import processors
from gradience.compress.encodings import Target, encode_modules, merged_fields, require_config
from gradience.compress.layout import Layout, refuse_adapter, refuse_meaning
from gradience.compress.module import Job
from gradience.digests import sha256_file
from gradience.errors import InputError, UsageError
from gradience.merge.module import MergedPair, Part, is_dense
from gradience.merge.settings import MergeSettings
from gradience.models.locate import EMBEDDED
from gradience.settings import paths_of
from gradience.spectra import FloatArray

RESET = ("loftq_config", "eva_config", "corda_config", "lora_ga_config")
"""Config fields of an initialization, which do not apply to a merge."""
CHOICES = ("exclude_modules", "layers_to_transform", "layers_pattern")
"""Config fields that select modules; a merge lists full names instead."""


class Parent(NamedTuple):
    """One adapter to merge. name: its folder's, or its letter if two folders have the same name."""

    name: str
    letter: str
    opened: Adapter
    config: PeftConfig
    weight: float
    sha256: str

    @property
    def path(self) -> Path:
        """Path that it was read from."""
        return self.opened.location.path

    @property
    def dora(self) -> bool:
        """True for DoRA."""
        return self.config.use_dora or bool(self.opened.magnitudes())

    def beside(self) -> Iterator[tuple[SkippedTensor, TensorFile]]:
        """Yield the adapter's tensors that are not factors or magnitudes, each with its file."""
        for note in self.opened.other:
            if note.reason != DORA_REASON and not self.opened.is_foreign(note):
                yield note, next(file for file in self.opened.files if note.tensor in file.entries)


def open_parents(settings: MergeSettings, stack: ExitStack) -> list[Parent]:
    """Open the adapters, and return them if they can be merged.

    Raises UsageError for settings that contradict each other (one-parent, bad-weights, linear-rank, max-kl, no-data,
    same-adapter); InputError if an adapter cannot be read or is not a plain LoRA or DoRA, or two do not belong to one
    base (other-base, other-config, shapes-differ).
    """
    paths = paths_of(settings.adapters)
    weights = settings.weights or [1.0] * len(paths)
    _refuse_settings(settings, len(paths), weights)
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = list(ascii_uppercase[: len(paths)])
    adapters = [stack.enter_context(open_adapter(path, allow_pickle=settings.allow_pickle)) for path in paths]
    with ThreadPoolExecutor(settings.workers or processors()) as pool:
        digests = list(pool.map(Adapter.sha256, adapters))
    configs = [require_config(opened) for opened in adapters]
    rows = zip(names, ascii_uppercase, adapters, configs, weights, digests, strict=False)
    parents = [Parent(*row) for row in rows]
    for parent in parents:
        _refuse(parent, settings)
    for first, other in combinations(parents, 2):
        if first.sha256 == other.sha256:
            raise UsageError(
                f"{first.path} and {other.path} hold the same weights",
                code="same-adapter",
                hint="give different adapters",
            )
    for other in parents[1:]:
        _refuse_together(parents[0], other)
    shapes: dict[str, tuple[Parent, str]] = {}
    for parent in parents:
        for pair in parent.opened.pairs:
            owner, known = shapes.setdefault(pair.module, (parent, _shape(pair)))
            if known != _shape(pair):
                raise InputError(
                    f"{pair.module} is {known} in {owner.path}, and {_shape(pair)} in {parent.path}",
                    code="shapes-differ",
                    hint="merge adapters of one base model",
                )
    return parents


def local_base(name: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder of a base model on this disk, or of one in a package; None for a name on the hub."""
    if str(name) in EMBEDDED:
        return EMBEDDED[str(name)][0]()
    return Path(name) if name is not None and os.path.isdir(name) else None


def plan_merge(
    parents: Sequence[Parent], settings: MergeSettings, rank: int | None, stack: ExitStack
) -> tuple[Adapter, Layout]:
    """Decide what is written: the first parent with the merged modules and the tensors beside them, and their layout.

    rank: of the merged adapter; None: the default of the method.

    Raises InputError (saved-differ, and what DoRA raises), UsageError (dora-method).
    """
    pairs = _pairs(parents, settings, stack)
    wanted = rank or max(pair.rank for parent in parents for pair in parent.opened.pairs)
    targets: dict[str, Target] = {}
    for pair in pairs:
        name, most = config_name(pair.module), min(pair.rows, pair.columns)
        largest = pair.rank if settings.method == "linear" else min(wanted, most)
        kept = largest if is_dense(pair) else min(pair.rank, largest)
        known = targets.setdefault(name, Target(name, kept, pair.scale or 1.0))
        targets[name] = known._replace(rank=min(known.rank, kept))
    encoded = encode_modules(sorted(targets.values(), key=lambda target: natural_key(target.name)), None)
    jobs = []
    for pair in pairs:
        name = config_name(pair.module)
        written = encoded.stored_rank[name], encoded.fold[name], encoded.scale[name]
        type_A = _common_type([part.pair.a.entry.dtype for part in pair.parts])
        type_B = _common_type([part.pair.b.entry.dtype for part in pair.parts])
        jobs.append(Job(pair, targets[name].rank, *written, type_A, type_B))
    beside, computed = _beside(parents, settings, jobs, stack)
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
        # If several files have a tensor, the last one wins: the computed ones, then the first parent's.
        files=[*(file for parent in reversed(parents) for file in parent.opened.files), *computed],
        config=config,
        stack=ExitStack(),
    )
    carried = sorted(note.tensor for note in beside.values())
    return opened, Layout(config, encoded, jobs, (), carried, (), names, fields)


def _common_type(types: Sequence[DType], otherwise: str = "F32") -> DType:
    return types[0] if len(set(types)) == 1 else DTYPES[otherwise]


# ---------------------------------------------------------------- refusals


def _refuse_settings(settings: MergeSettings, parents: int, weights: Sequence[float]) -> None:
    calibrated, method = settings.max_kl_per_token is not None, settings.method
    if not 2 <= parents <= len(ascii_uppercase):
        first = next(iter(paths_of(settings.adapters)), "./my_adapter")
        raise UsageError(
            "a merge takes 2 to 26 adapters",
            code="one-parent",
            hint=f"for example: gradience merge {first} ./other_adapter -o merged",
        )
    if len(weights) != parents or not all(math.isfinite(weight) and weight for weight in weights):
        raise UsageError(
            f"--weights: {parents} adapters need one nonzero number each",
            code="bad-weights",
            hint="give one number per adapter, such as --weights 1,0.5",
        )
    if settings.rank is not None and method == "linear":
        raise UsageError(
            "--method linear is the exact sum and takes no --rank",
            code="linear-rank",
            hint=f"truncate it: --method svd --rank {settings.rank}",
        )
    wrong = method != "svd" or settings.rank is not None
    if calibrated != bool(settings.calibration) or (calibrated and wrong):
        raise UsageError(
            "--max-kl-per-token and --calibration belong together, and to --method svd",
            code="max-kl",
            hint="give --method svd --max-kl-per-token X --calibration FILE, and no --rank",
        )
    if settings.search and not settings.data:
        raise UsageError(
            "--search needs the examples of each parent",
            code="no-data",
            hint="name a file for each parent: --data A=rows_a.jsonl --data B=rows_b.jsonl",
        )


def _refuse(parent: Parent, settings: MergeSettings) -> None:
    """Raise InputError for an adapter whose update is not s·B·A (or DoRA's) on the unchanged base."""
    opened = parent.opened
    refuse_adapter(opened, parent.config, dora=parent.dora, has_base=settings.base_model is not None)
    refuse_meaning(opened, "a merged adapter", dora=True)
    require_order(opened)
    for pair in opened.pairs:
        opened.scale_of(pair)
        if pair.groups > 1 or pair.experts > 1:
            what = "a grouped convolution" if pair.groups > 1 else "a stack of experts"
            raise InputError(
                f"{parent.path}: cannot be merged: {pair.module} is {what}",
                code="not-in-format",
                hint="apply this adapter to its base instead",
            )


def _refuse_together(first: Parent, other: Parent) -> None:
    """Raise InputError (other-base, other-config) for different bases, task types or trained tokens.

    Bases with different names count as equal if both are folders with the same files.
    """
    configs = first.config, other.config
    names = [config.base_model for config in configs]
    bases = {name: _base_digests(name) for name in names if name}
    revisions = sorted({config.fields["revision"] for config in configs if config.fields.get("revision")})
    if len(bases) > 1 and (None in bases.values() or len(set(map(str, bases.values()))) > 1):
        problem = f"trained on different base models ({names[0]}, {names[1]})"
    elif len(revisions) > 1:
        problem = f"trained on different revisions of {names[0]} ({', '.join(revisions)})"
    else:
        tokens = "trainable_token_indices"
        types = {config.task_type for config in configs if config.task_type}
        if len(types) < 2 and (configs[0].fields.get(tokens) or None) == (
            configs[1].fields.get(tokens) or None
        ):
            return
        name = "task_type" if len(types) > 1 else tokens
        here, there = (config.fields.get(name) or "empty" for config in configs)
        raise InputError(
            f"{first.path} and {other.path}: {name} is {here} in the first and {there} in the second",
            code="other-config",
            hint="merge adapters of one task type, with the same trained tokens",
        )
    raise InputError(
        f"{first.path} and {other.path}: {problem}",
        code="other-base",
        hint="if both names mean the same weights, write one base_model_name_or_path (and revision) into both configs",
    )


def _base_digests(name: str) -> dict[str, str] | None:
    """Return the digest of each weights file of a base model; None if `name` is not a folder."""
    folder = Path(name)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else None
    return None if files is None else {path.name: sha256_file(path) for path in files}


def _shape(pair: LoraPair) -> str:
    return f"{' x '.join(map(str, (pair.rows, *pair.a.entry.shape[1:])))} ({pair.kind})"


# ---------------------------------------------------------------- modules


def _pairs(parents: Sequence[Parent], settings: MergeSettings, stack: ExitStack) -> list[MergedPair]:
    parts: dict[str, list[Part]] = {}
    base = _base_of(parents, settings, stack)
    for place, parent in enumerate(parents):
        magnitudes = parent.opened.magnitudes()
        for pair in parent.opened.pairs:
            update = None
            if parent.dora and base is not None:
                magnitude, transposed = magnitudes.get(pair.module), parent.config.fan_in_fan_out
                update = partial(DoraUpdate, pair, magnitude, base, transposed=transposed)
            parts.setdefault(pair.module, []).append(Part(place, parent.weight, pair, update))
    scales = [part.weight * part.scale for group in parts.values() for part in group]
    same = settings.method in ("linear", "svd") and base is None and scales[0] != 0
    same = same and all(math.isclose(scale, scales[0], rel_tol=1e-12) for scale in scales)
    return [_merged_pair(group, settings, scales[0] if same else None) for group in parts.values()]


def _base_of(parents: Sequence[Parent], settings: MergeSettings, stack: ExitStack) -> BaseWeights | None:
    """Open the base weights if a DoRA update depends on them. Raises UsageError (dora-method)."""
    parent = next((parent for parent in parents if parent.dora), None)
    if parent is None:
        return None
    if settings.method in ("linear", "knots"):
        raise UsageError(
            f"{parent.path}: a DoRA update has full rank, so --method {settings.method} has no factors for it",
            code="dora-method",
            hint="give --method svd --rank K, ties or dare",
        )
    assert settings.base_model is not None  # refused by `open_parents`
    folder = local_base(settings.base_model) or base_folder(settings.base_model, weights=True)
    return stack.enter_context(BaseWeights.open(folder))


def _merged_pair(parts: Sequence[Part], settings: MergeSettings, scale: float | None) -> MergedPair:
    """Return the pair of one module. scale: common scale of all parts, whose values then stay exact; None if scales
    differ."""
    first, rank = parts[0].pair, sum(part.pair.rank for part in parts)
    types = [factor.entry.dtype for part in parts for factor in part.pair.factors.values()]
    dtype = DTYPES["F64"] if scale is None else _common_type(types, "F64")
    shapes = (rank, *first.a.entry.shape[1:]), (first.rows, rank, *first.b.entry.shape[2:])
    a, b = (
        factor._replace(entry=TensorEntry(dtype, shape, 0, math.prod(shape) * dtype.bits // 8), turn=None)
        for factor, shape in zip((first.a, first.b), shapes, strict=True)
    )
    known = (first.module, first.kind, a, b, rank, first.rows, first.columns)
    return MergedPair(*known, scale=1.0 if scale is None else scale, parts=tuple(parts), recipe=settings)


# ---------------------------------------------------------------- tensors beside the factors


def _beside(
    parents: Sequence[Parent], settings: MergeSettings, jobs: Sequence[Job], stack: ExitStack
) -> tuple[dict[str, SkippedTensor], list[TensorFile]]:
    """Return written name -> tensor for tensors that are not factors, and the files with computed tensors."""
    holders: dict[str, list[tuple[Parent, SkippedTensor, TensorFile]]] = {}
    for parent in parents:
        for note, file in parent.beside():
            if note.reason != LORA_BIAS_REASON:
                name = peft_name(note.tensor, parent.opened.adapter_name)
                holders.setdefault(name, []).append((parent, note, file))
    beside = {name: group[0][1] for name, group in holders.items()}
    computed: dict[str, tuple[NewTensor, Iterable[bytes]]] = {}
    for name, group in holders.items():
        entries = [file.entries[note.tensor] for _, note, file in group]
        streams = [pieces(file, note.tensor) for _, note, file in group]
        complete = len(group) == len(parents) or group[0][1].reason == BASE_REASON
        alike = len({(entry.dtype, entry.shape) for entry in entries}) == 1
        if complete and alike and all(len(set(parts)) == 1 for parts in zip(*streams, strict=True)):
            continue
        if settings.saved == "refuse" or not (complete and alike):
            names = " and ".join(str(parent.path) for parent, _, _ in group)
            there = "differs in" if len(group) == len(parents) else "is trained only in"
            raise InputError(
                f"{name.removeprefix(PREFIX)} {there} {names}: full weights do not add up",
                code="saved-differ",
                hint="use --saved average to average them, weighted by --weights",
            )
        streams = [pieces(file, note.tensor) for _, note, file in group]
        averages = _averages(name, [parent.weight for parent, _, _ in group], streams, entries[0].dtype)
        computed[group[0][1].tensor] = NewTensor(entries[0].dtype.name, entries[0].shape), averages
    for name, (bias, dtype) in _lora_biases(parents, jobs).items():
        beside[name] = SkippedTensor(name, LORA_BIAS_REASON, len(bias))
        computed[name] = NewTensor(dtype.name, bias.shape), [encode(bias, dtype).tobytes()]
    if not computed:
        return beside, []
    path = Path(stack.enter_context(TemporaryDirectory())) / "computed.safetensors"
    with WeightsWriter(path, {name: tensor for name, (tensor, _) in computed.items()}, {}) as writer:
        for name in writer.names:
            for piece in computed[name][1]:
                writer.put(piece)
    return beside, [stack.enter_context(TensorFile.open(path))]


def _averages(
    name: str, weights: Sequence[float], streams: Sequence[Iterable[bytes]], dtype: DType
) -> Iterator[bytes]:
    """Yield the weighted average of one tensor in pieces. Raises UsageError (bad-weights) if weights add up to 0."""
    total = math.fsum(weights)
    if not total or dtype.numpy is None:
        raise UsageError(
            f"{name}: {dtype.name} tensors cannot be averaged with weights that add up to {total:g}",
            code="bad-weights",
            hint="give --weights with a nonzero sum",
        )
    for parts in zip(*streams, strict=True):
        values = [decode(np.frombuffer(part, dtype.numpy)) for part in parts]
        yield encode(np.average(values, axis=0, weights=weights), dtype).tobytes()


def _lora_biases(parents: Sequence[Parent], jobs: Sequence[Job]) -> dict[str, tuple[FloatArray, DType]]:
    """Return Σ w·s·b/s′ for every module if a parent trained biases of lora_B, which PEFT multiplies by the scale."""
    by_module = {job.pair.module: job for job in jobs if job.pair.kind in ("linear", "conv")}
    biases = {module: np.zeros(job.pair.rows) for module, job in by_module.items()}
    trained = False
    for parent in parents:
        scales = {pair.module: parent.weight * (pair.scale or 0.0) for pair in parent.opened.pairs}
        for note, file in parent.beside():
            module = parse_key(note.tensor).module
            if note.reason == LORA_BIAS_REASON and module in biases:
                bias = decode(file.read_words(note.tensor)) * scales[module]
                biases[module] += bias / by_module[module].written_scale
                trained = True
    return {
        f"{PREFIX}{module}.lora_B.bias": (bias, by_module[module].dtype_B)
        for module, bias in biases.items()
        if trained
    }


# ---------------------------------------------------------------- config


def _fields(parents: Sequence[Parent], encoded: Mapping[str, Any], jobs: Sequence[Job]) -> dict[str, Any]:
    """Return the config of the merged adapter: the first parent's, with the changes of the merge."""
    configs = [parent.config for parent in parents]
    changes: dict[str, Any] = {
        **encoded,
        "base_model_name_or_path": next((config.base_model for config in configs if config.base_model), None),
        "use_dora": False,
        "init_lora_weights": True,
        "lora_bias": any(config.fields.get("lora_bias") for config in configs),
        "bias": max((config.bias for config in configs), key=("none", "lora_only", "all").index),
        "modules_to_save": list(dict.fromkeys(name for one in configs for name in one.modules_to_save))
        or None,
        "inference_mode": True,
        **dict.fromkeys(RESET),
    }
    targets = {
        (parent.config.target_modules, frozenset(pair.module for pair in parent.opened.pairs))
        for parent in parents
    }
    if len(targets) > 1:
        # Each module by its full name, which matches no other module.
        names = {config_name(job.pair.module) for job in jobs}
        changes |= {"target_modules": sorted(names, key=natural_key), **dict.fromkeys(CHOICES)}
    return merged_fields(configs[0].fields, changes)
