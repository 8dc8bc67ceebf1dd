"""Open the adapters to merge, refuse those whose updates cannot be added on one base, and lay out the result.

Only headers are read, except for tensors that are not factors.
"""

import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

import numpy as np

from gradience.adapters.adapter import BASE_REASON, DORA_REASON, LORA_BIAS_REASON, Adapter, Factor
from gradience.adapters.base_weights import BaseWeights, base_folder
from gradience.adapters.config import PeftConfig, config_of
from gradience.adapters.formats import open_adapter
from gradience.adapters.keys import PREFIX, config_name, peft_name
from gradience.adapters.locate import natural_key
from gradience.adapters.tensors import DTYPES, NewTensor, decode, encode
from gradience.audit.dominance import DoraUpdate
from gradience.compress.encodings import merged_fields, require_config
from gradience.compress.layout import Layout, encoded_jobs, peft_names, refuse_adapter, refuse_meaning
from gradience.compress.module import Job
from gradience.digests import sha256_file, sha256_parts
from gradience.errors import InputError, UsageError
from gradience.evaluate.adapters import short_names
from gradience.files.whole import check_output
from gradience.merge.module import MergedPair, Part
from gradience.merge.settings import MergeSettings
from gradience.models.locate import local_base
from gradience.settings import paths_of

RESET = ("loftq_config", "eva_config", "corda_config", "lora_ga_config")
"""Config fields of an initialization, which do not apply to a merge."""
CHOICES = ("exclude_modules", "layers_to_transform", "layers_pattern")
"""Config fields that select modules; a merge lists full names instead."""
BASE, TOKENS = "base_model_name_or_path", "trainable_token_indices"
BASES = (BASE, "revision")
"""Config fields that name the base model."""


class Parent(NamedTuple):
    """One adapter to merge."""

    name: str
    path: Path
    opened: Adapter
    config: PeftConfig
    weight: float
    sha256: str


def open_parents(settings: MergeSettings, output: Path, stack: ExitStack) -> list[Parent]:
    """Open the adapters, and return them if they can be merged.

    Raises UsageError for settings that contradict each other (one-parent, bad-weights, linear-rank, max-kl);
    InputError if an adapter cannot be read or is not a plain LoRA or DoRA, or two do not belong to one
    base (other-base, other-config, shapes-differ).
    """
    paths = paths_of(settings.adapters)
    weights = settings.weights or [1.0] * len(paths)
    _refuse_settings(settings, paths, weights)
    names = short_names([path.resolve() for path in paths])
    adapters = [stack.enter_context(open_adapter(path, allow_pickle=settings.allow_pickle)) for path in paths]
    digests = map(Adapter.sha256, adapters)
    parents = list(map(Parent, names, paths, adapters, map(require_config, adapters), weights, digests))
    for parent in parents:
        _refuse(parent, settings)
        # With `data`, a merge that is there may be resumed.
        check_output(output, parent.path, force=settings.force or bool(settings.data))
    _refuse_together(parents)
    return parents


def plan_merge(parents: Sequence[Parent], settings: MergeSettings, rank: int | None) -> Layout:
    """Return the layout of the merged adapter.

    rank: of the merged adapter; None: the default of the method. The weights of a base that a DoRA needs stay open as
    long as its adapter.

    Raises InputError (saved-differ, and what DoRA raises), UsageError (dora-method).
    """
    pairs = _pairs(parents, settings)
    wanted = rank or max(pair.rank for parent in parents for pair in parent.opened.pairs)
    exact = settings.method == "linear"
    ranks = {pair.module: pair.rank if exact else min(wanted, pair.largest_rank) for pair in pairs}
    types = {pair.module: (pair.stored, pair.stored) for pair in pairs}
    encoded, jobs = encoded_jobs(parents[0].opened, pairs, ranks, types)
    fields = _fields(parents, encoded.fields, jobs)
    config = config_of(parents[0].config.path, fields)
    beside = _beside(parents, settings) | _lora_biases(parents, jobs)
    names = peft_names(parents[0].opened, jobs, ()) | {name: name for name in beside}
    return Layout(config, encoded, jobs, (), beside, (), names, fields)


# ---------------------------------------------------------------- refusals


def _refuse_settings(settings: MergeSettings, paths: Sequence[Path], weights: Sequence[float]) -> None:
    calibrated, method = settings.max_kl_per_token is not None, settings.method
    if not 2 <= len(paths) <= len(ascii_uppercase):
        raise UsageError(
            "a merge takes 2 to 26 adapters",
            code="one-parent",
            hint=f"for example: gradience merge {[*paths, './my_adapter'][0]} ./other_adapter -o merged",
        )
    if len(weights) != len(paths) or not all(math.isfinite(weight) and weight for weight in weights):
        raise UsageError(
            f"--weights: {len(paths)} adapters need one nonzero number each",
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


def _refuse(parent: Parent, settings: MergeSettings) -> None:
    """Raise InputError for an adapter whose update is not s·B·A (or DoRA's) on the unchanged base."""
    refuse_adapter(parent.opened, parent.config, has_base=settings.base_model is not None)
    refuse_meaning(parent.opened, "a merged adapter", dora=True)
    for pair in parent.opened.pairs:
        parent.opened.scale_of(pair)
        if pair.groups > 1 or pair.experts > 1:
            raise InputError(
                f"{parent.path}: {pair.module} is a grouped convolution or a stack of experts, which cannot be merged",
                code="not-in-format",
                hint="apply this adapter to its base instead",
            )


def _refuse_together(parents: Sequence[Parent]) -> None:
    """Raise InputError (other-base, other-config, shapes-differ) for adapters whose updates do not add up."""
    known: dict[str, tuple[Any, Path]] = {}
    for parent in parents:
        fields = {name: parent.config.fields.get(name) or "" for name in (*BASES, "task_type", TOKENS)}
        sizes = {
            pair.module: f"{' x '.join(map(str, (pair.rows, *pair.a.entry.shape[1:])))} ({pair.kind})"
            for pair in parent.opened.pairs
        }
        for name, value in (fields | sizes).items():
            if not value and name != TOKENS:  # an empty field is unknown
                continue
            here, first = known.setdefault(name, (value, parent.path))
            if value == here or (name == BASE and _same_files(here, value)):
                continue
            there, this = (str(one or "empty")[:80] for one in (here, value))
            raise InputError(
                f"{name} is {there} in {first}, and {this} in {parent.path}",
                code="shapes-differ" if name in sizes else "other-base" if name in BASES else "other-config",
                hint="merge adapters of one base model, task type and set of trained tokens; if two names mean the"
                " same base, set the same name in both configs",
            )


def _same_files(*bases: str) -> bool:
    """Return True if the base models are folders with equal weights files."""
    if not all(map(os.path.isdir, bases)):  # False for a name that no file can have
        return False
    files = [{path.name: sha256_file(path) for path in Path(base).glob("*.safetensors")} for base in bases]
    return files[0] == files[1] != {}


# ---------------------------------------------------------------- modules


def _pairs(parents: Sequence[Parent], settings: MergeSettings) -> list[MergedPair]:
    groups: dict[str, list[Part]] = defaultdict(list)
    base = _base(parents, settings)
    for place, parent in enumerate(parents):
        for pair in parent.opened.pairs:
            part = Part(place, parent.weight, pair, parent.opened.scale_of(pair))
            if base is not None and parent.opened.is_dora:
                part = part._replace(dora=partial(DoraUpdate, parent.opened, pair, base))
            groups[pair.module].append(part)
    scales = [part.weight * part.scale for parts in groups.values() for part in parts]
    agree = all(math.isclose(scale, scales[0], rel_tol=1e-12) for scale in scales)
    summed = settings.method in ("linear", "svd") and base is None
    common = scales[0] if summed and agree else 0.0
    return [_merged_pair(parts, settings, common, len(parents)) for parts in groups.values()]


def _base(parents: Sequence[Parent], settings: MergeSettings) -> BaseWeights | None:
    """Return the base weights that a DoRA update depends on; None without DoRA. Raises UsageError (dora-method)."""
    dora = next((parent for parent in parents if parent.opened.is_dora), None)
    if dora is None:
        return None
    if settings.method in ("linear", "knots"):
        raise UsageError(
            f"{dora.path}: a DoRA update has full rank, so --method {settings.method} has no factors for it",
            code="dora-method",
            hint="give --method svd --rank K, ties or dare",
        )
    assert settings.base_model is not None  # refused by `open_parents`
    folder = local_base(settings.base_model) or base_folder(settings.base_model, weights=True)
    return dora.opened.stack.enter_context(BaseWeights.open(folder))


def _merged_pair(parts: Sequence[Part], settings: MergeSettings, common: float, parents: int) -> MergedPair:
    """Return the pair of one module. common: scale of all parts, whose stored numbers then stay exact; 0 if scales
    differ."""
    pair, rank = parts[0].pair, sum(part.pair.rank for part in parts)
    types = {factor.entry.dtype for part in parts for factor in part.pair.factors.values()}
    stored = next(iter(types)) if len(types) == 1 else DTYPES["F32"]
    dtype = stored if len(types) == 1 and common else DTYPES["F64"]
    a = pair.a.resized(dtype, (rank, *pair.a.entry.shape[1:]))
    b = pair.b.resized(dtype, (pair.rows, rank, *pair.b.entry.shape[2:]))
    merged = MergedPair(pair.module, pair.kind, a, b, rank, pair.rows, pair.columns, scale=common or 1.0)
    overlaps = np.zeros((parents + 1, 2))
    dense = settings.method in ("ties", "dare") or any(part.dora is not None for part in parts)
    return replace(merged, parts=parts, stored=stored, recipe=settings, is_dense=dense, overlaps=overlaps)


# ---------------------------------------------------------------- tensors beside the factors


def _beside(parents: Sequence[Parent], settings: MergeSettings) -> dict[str, NewTensor]:
    """Return the tensors that are not factors: those of the parents if they agree, else their weighted average."""
    holders: dict[str, list[tuple[Parent, str, Factor]]] = defaultdict(list)
    for parent in parents:
        for note, stored in parent.opened.beside():
            if note.reason not in (DORA_REASON, LORA_BIAS_REASON):
                name = peft_name(note.tensor, parent.opened.adapter_name)
                holders[name].append((parent, note.reason, stored))
    beside: dict[str, NewTensor] = {}
    for name, group in holders.items():
        having, reasons, factors = zip(*group, strict=True)
        weights = [parent.weight for parent in having]
        kinds = {(stored.entry.dtype, stored.entry.shape) for stored in factors}
        alike = len(kinds) == 1 and (len(having) == len(parents) or reasons[0] == BASE_REASON)
        equal = alike and len({sha256_parts(stored.to_write().data) for stored in factors}) == 1
        numbers = factors[0].entry.dtype.numpy is not None and math.fsum(weights) != 0
        if not equal and not (alike and numbers and settings.saved == "average"):
            there = "differs in" if len(having) == len(parents) else "is trained only in"
            raise InputError(
                f"{name.removeprefix(PREFIX)} {there} {' and '.join(str(parent.path) for parent in having)}:"
                " full weights do not add up",
                code="saved-differ",
                hint="use --saved average to average them, with --weights that do not add up to 0",
            )
        tensor = factors[0].to_write()
        beside[name] = tensor if equal else tensor._replace(data=_averages(factors, weights))
    return beside


def _averages(factors: Sequence[Factor], weights: Sequence[float]) -> Iterator[bytes]:
    """Yield the weighted average of stored tensors of one type in pieces."""
    dtype = factors[0].entry.dtype
    for parts in zip(*(factor.to_write().data for factor in factors), strict=True):
        values = [decode(np.frombuffer(part, dtype.numpy)) for part in parts]
        yield encode(np.average(values, axis=0, weights=weights), dtype).tobytes()


def _lora_biases(parents: Sequence[Parent], jobs: Sequence[Job]) -> dict[str, NewTensor]:
    """Return Σ w·s·b/s′ for every module if a parent trained biases of lora_B, which PEFT multiplies by the scale."""
    trained = [parent.opened.by_module(LORA_BIAS_REASON) for parent in parents]
    biases: dict[str, NewTensor] = {}
    for job in jobs if any(trained) else ():
        pair, bias = job.pair, np.zeros(job.pair.rows)
        for part in pair.parts if isinstance(pair, MergedPair) else ():
            if pair.module in trained[part.parent]:
                stored = decode(trained[part.parent][pair.module].read())
                bias += part.weight * part.scale / job.written_scale * stored
        if pair.kind in ("linear", "conv"):
            data = [encode(bias, job.dtype_B).tobytes()]
            biases[f"{PREFIX}{pair.module}.lora_B.bias"] = NewTensor(job.dtype_B.name, bias.shape, data)
    return biases


# ---------------------------------------------------------------- config


def _fields(parents: Sequence[Parent], encoded: Mapping[str, Any], jobs: Sequence[Job]) -> dict[str, Any]:
    """Return the config of the merged adapter: the first parent's, with the changes of the merge."""
    configs = [parent.config for parent in parents]
    biases = {config.bias for config in configs}
    changes: dict[str, Any] = {
        **encoded,
        BASE: next((config.base_model for config in configs if config.base_model), None),
        "use_dora": False,
        "init_lora_weights": True,
        "lora_bias": any(config.fields.get("lora_bias") for config in configs),
        "bias": next((bias for bias in ("all", "lora_only") if bias in biases), "none"),
        "modules_to_save": [*dict.fromkeys(name for one in configs for name in one.modules_to_save)] or None,
        "inference_mode": True,
        **dict.fromkeys(RESET),
    }
    targets = [
        (parent.config.target_modules, {pair.module for pair in parent.opened.pairs}) for parent in parents
    ]
    if any(one != targets[0] for one in targets):
        # Each module by its full name, which matches no other module.
        names = {config_name(job.pair.module) for job in jobs}
        changes |= {"target_modules": sorted(names, key=natural_key), **dict.fromkeys(CHOICES)}
    return merged_fields(configs[0].fields, changes)
