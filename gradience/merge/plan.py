"""Open the adapters to merge, refuse those whose updates cannot be added on one base, lay out and make the result.

Only headers are read, except for tensors that are not factors, until a module is made.

Shapes as in `spectra`: A_i (r_i, n), B_i (m, r_i), ΔW_i = s_i·B_i·A_i. The weighted sum Σ wᵢΔW_i is the product of
[w₁s₁B₁, w₂s₂B₂ …] and [A₁; A₂ …]: the exact merge has these factors, and its truncation is found in their joint space.
TIES and DARE choose entry by entry, so they need one dense ΔW of a module at a time, in float32.
"""

import math
import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradience.adapters import adapter
from gradience.adapters.base import BaseWeights, base_folder
from gradience.adapters.config import PeftConfig, config_of
from gradience.adapters.formats import open_adapter
from gradience.adapters.keys import PREFIX, config_name, peft_name
from gradience.adapters.locate import natural_key
from gradience.adapters.tensors import DTYPES, DType, NewTensor, Words, decode, encode
from gradience.audit.dominance import DoraUpdate
from gradience.compress import layout
from gradience.compress.adapter import compared
from gradience.compress.module import CompressedModule, Job, Products, converted, packed, write_module
from gradience.digests import sha256_file, sha256_parts
from gradience.errors import InputError, UsageError
from gradience.evaluate.adapters import short_names
from gradience.files.whole import check_output
from gradience.merge.settings import MergeSettings, MethodSettings
from gradience.models.locate import local_base
from gradience.settings import paths_of
from gradience.spectra import FloatArray, NonFiniteFactor, relative_error, row_blocks

Dense = NDArray[np.float32]
Rows = Callable[[slice], Dense]
"""Some rows of a dense update."""
BLOCK = 2**20
"""Entries of a block of rows of a dense update."""
SMALL = 1024
"""Smaller side of a dense update up to which its SVD is exact; above, subspace iteration finds its directions."""
BESIDE, SETTLED, PASSES = 16, 1e-4, 12
"""Subspace iteration: directions beside those that are kept, growth of the held energy that ends it, most passes."""


class Part(NamedTuple):
    """One parent's update of a module: ΔW = s·B·A, or DoRA's. parent: its place; weight: w of the merge; scale: s."""

    parent: int
    weight: float
    pair: adapter.LoraPair
    scale: float
    dora: Callable[[], DoraUpdate] | None = None

    def factors(self, scale: float) -> tuple[FloatArray, FloatArray]:
        """Return A (r, n) and scale·B (m, r). Raises NonFiniteFactor."""
        loaded = self.pair.load()
        return finite(decode(loaded.words_A()).T), finite(scale * decode(loaded.words_B()))

    def rows(self) -> Rows:
        """Return a function that computes a block of rows of ΔW."""
        if self.dora is not None:
            update = self.dora()
            return lambda rows: update.rows(rows).astype(np.float32)
        a, b = (factor.astype(np.float32) for factor in self.factors(self.scale))
        return lambda rows: b[rows] @ a


@dataclass(frozen=True, slots=True)
class MergedPair(adapter.LoraPair):
    """Factors of the merged module before truncation, made from its parents' factors when loaded."""

    parts: Sequence[Part] = ()
    stored: DType = DTYPES["F32"]
    """Type of the written factors: the parents', or F32 if theirs differ."""
    recipe: MethodSettings = field(default_factory=MethodSettings)
    is_dense: bool = False
    """True if the module is merged from dense updates: entry by entry, or with a DoRA update."""
    overlaps: FloatArray = field(default_factory=lambda: np.zeros((0, 2)))
    """‖ΔW_i‖² and ⟨ΔW_i, M′⟩ of every parent and, in the last row, of the stored merged update M′ itself. Filled when
    the module is written; 0 for a parent without the module."""

    @property
    def largest_rank(self) -> int:
        """Largest rank that the merged update can have."""
        return min(self.rows, self.columns, *(() if self.is_dense else (self.rank,)))

    @property
    def parent_ranks(self) -> tuple[int | None, ...]:
        """Rank in each parent; None if it lacks the module."""
        ranks = {part.parent: part.pair.rank for part in self.parts}
        return tuple(map(ranks.get, range(len(self.overlaps) - 1)))

    def load(self) -> adapter.LoadedPair:
        """Return the factors: in the stored type if no number changes, else in float64."""
        a, b = self._aligned() if self.recipe.method == "knots" else self.joined(self.b.entry.dtype.name)
        return adapter.LoadedPair(self, a.reshape(self.a.entry.shape), b.reshape(self.b.entry.shape))

    def joined(self, dtype: str = "F64") -> tuple[Words, Words]:
        """Return [A₁; A₂ …] and [w₁s₁B₁, w₂s₂B₂ …]/s, where s is the scale of this pair."""
        if dtype == "F64":
            factors = [part.factors(part.weight * part.scale / (self.scale or 1.0)) for part in self.parts]
        else:
            loaded = [part.pair.load() for part in self.parts]
            factors = [(one.words_A().T, one.words_B()) for one in loaded]
        factors_A, factors_B = zip(*factors, strict=True)
        return np.concatenate(factors_A), np.concatenate(factors_B, axis=1)

    def _aligned(self) -> tuple[FloatArray, FloatArray]:
        """KnOTS: [ΔW₁, ΔW₂ …] = U·Σ·[V₁ᵀ, V₂ᵀ …]; TIES merges the ΣVᵢᵀ, (k, n) each, and U turns the result back.

        Source: Stoica et al., "Model merging with SVD to tie the KnOTS", arXiv 2410.19735; their code scales V by Σ
        (gstoica27/KnOTS, task_merger.py) and, as here for each module, trims, elects signs and averages.
        """
        factors_A, factors_B = zip(*(part.factors(part.scale) for part in self.parts), strict=True)
        b, triangle = np.linalg.qr(np.hstack(factors_B))
        columns = np.split(triangle, np.cumsum([len(a) for a in factors_A])[:-1], axis=1)
        sides = [np.asarray(np.linalg.qr(a.T, mode="r")).T for a in factors_A]
        core = np.hstack([block @ side for block, side in zip(columns, sides, strict=True)])
        left = np.linalg.svd(core, full_matrices=False)[0]
        tasks = [left.T @ block @ a for block, a in zip(columns, factors_A, strict=True)]
        cuts = [threshold(np.abs(task), self.recipe.density) for task in tasks]
        merged = ties(tasks, [part.weight for part in self.parts], cuts)
        short = self.rank - len(merged)  # fewer directions than ranks if a side of ΔW is smaller
        return np.pad(merged, ((0, short), (0, 0))), np.pad(b @ left, ((0, 0), (0, short)))


def finite(values: NDArray[Any]) -> NDArray[Any]:
    """Return the values. Raises NonFiniteFactor if one is NaN or infinite."""
    if not np.isfinite(values).all():
        raise NonFiniteFactor
    return values


def threshold(sizes: NDArray[np.floating], density: float) -> float:
    """Return the smallest size of a kept entry, if the share `density` is kept. Partitions `sizes` in place."""
    flat = sizes.reshape(-1)
    dropped = flat.size - max(1, int(density * flat.size))
    flat.partition(dropped)
    return float(flat[dropped])


def ties(
    updates: Sequence[NDArray[np.floating]], weights: Sequence[float], cuts: Sequence[float]
) -> NDArray[np.floating]:
    """Return the TIES merge of entries: trim below the cuts, elect each entry's sign, average those that have it.

    Weights multiply after the election, and the sum is divided by the number of updates that agree, as in PEFT 0.21
    (utils/merge_utils.py, `ties`). Source: Yadav et al., "TIES-Merging", NeurIPS 2023, arXiv 2306.01708.
    """
    trimmed = [np.where(np.abs(update) >= cut, update, 0) for update, cut in zip(updates, cuts, strict=True)]
    positive = sum(trimmed) >= 0
    total, agreeing = np.zeros_like(trimmed[0]), np.zeros(trimmed[0].shape, np.int8)
    for update, weight in zip(trimmed, weights, strict=True):
        agrees = np.where(positive, update > 0, update < 0)
        total += np.where(agrees, update * update.dtype.type(weight), 0)
        agreeing += agrees
    return np.divide(total, np.maximum(agreeing, 1), dtype=total.dtype)


# ---------------------------------------------------------------- written


def write_merged(job: Job) -> CompressedModule:
    """Return the stored bytes of a merged module and its error. Raises InputError (non-finite, overflow)."""
    pair = job.pair
    assert isinstance(pair, MergedPair)
    try:
        return _from_dense(job, pair) if pair.is_dense else _from_factors(job, pair)
    except NonFiniteFactor:
        raise adapter.non_finite(*(part.pair for part in pair.parts)) from None


def written_error(pair: adapter.LoraPair, written: adapter.LoraPair) -> float | None:
    """Return the relative error of a merged module, read back, against its parents merged again.

    None if the merge is 0.
    """
    if not (isinstance(pair, MergedPair) and pair.is_dense):
        return compared(pair, written)
    loaded, updates = written.load(), [merged_dense(pair).__getitem__]
    measured = distances(updates, loaded.words_A(), loaded.words_B(), written.scale or 0.0)
    return relative_error(measured[0, 2], measured[0, 0])


def _from_factors(job: Job, pair: MergedPair) -> CompressedModule:
    """Write a merge of factors, and fill its overlaps from products with the parents' joined factors."""
    written = write_module(job)
    whole = None if pair.recipe.method == "knots" else written.products
    products = whole or Products.of(pair.joined(), written.factors(job))
    pair.overlaps[-1] = job.written_scale**2 * products.new.sum()
    end = 0
    for part in pair.parts:
        rows = slice(end, end := end + part.pair.rank)
        scale = job.scale / part.weight  # the joined factors hold w·ΔW
        energy, inner = products.old[rows, rows].sum(), products.cross[rows].sum()
        pair.overlaps[part.parent] = scale**2 * energy, scale * job.written_scale * inner
    return written


# ---------------------------------------------------------------- dense updates


def _from_dense(job: Job, pair: MergedPair) -> CompressedModule:
    """Write the leading components of a merge of dense updates, and fill its overlaps. Raises InputError (overflow)."""
    merged = merged_dense(pair)
    b, a = leading(merged, job.new_rank, [part.pair.load().words_A() for part in pair.parts])
    words_A = converted(job, a.T, 1.0, job.dtype_A)
    words_B = converted(job, b / job.written_scale, 1.0, job.dtype_B)
    updates = [merged.__getitem__, *(part.rows() for part in pair.parts)]
    measured = distances(updates, words_A, words_B, job.written_scale)
    pair.overlaps[[*(part.parent for part in pair.parts), -1]] = measured[1:, :2]
    energy, _, lost = measured[0].tolist()
    stored, noise = packed(job, [(words_A, words_B)]), 1e-6  # the update is float32
    return CompressedModule(*stored, relative_error(lost, energy), math.sqrt(energy), "qr", noise)


def merged_dense(pair: MergedPair) -> Dense:
    """Return the merged update, (m, n), before it is truncated. Raises NonFiniteFactor."""
    recipe, parts = pair.recipe, pair.parts
    merged: Dense = np.empty((pair.rows, pair.columns), np.float32)
    weights = [part.weight for part in parts]
    makers, cuts = [part.rows() for part in parts], []
    for make in makers if recipe.method == "ties" else ():
        for rows in row_blocks(pair.rows, BLOCK // pair.columns):
            np.abs(make(rows), out=merged[rows])
        cuts.append(threshold(merged, recipe.density))
    name = zlib.crc32(pair.module.encode())
    draws = [np.random.default_rng([recipe.seed, name, 0, part.parent]) for part in parts]
    for rows in row_blocks(pair.rows, BLOCK // pair.columns):
        updates = [make(rows) for make in makers]
        if recipe.method == "dare":  # Yu et al., "Language Models are Super Mario", arXiv 2311.03099
            for update, draw in zip(updates, draws, strict=True):
                update *= draw.random(update.shape, np.float32) < recipe.density
                update /= np.float32(recipe.density)
        summed = (np.float32(weight) * update for weight, update in zip(weights, updates, strict=True))
        merged[rows] = ties(updates, weights, cuts) if cuts else sum(summed)
        finite(merged[rows])
    return merged


def distances(updates: Sequence[Rows], words_A: Words, words_B: Words, scale: float) -> FloatArray:
    """Return ‖X‖², ⟨X, M′⟩ and ‖X − M′‖² of every update X, and in the last row of M′ = s·B·A itself.

    words_A, words_B: Aᵀ and B as stored.
    """
    a, sums = scale * decode(words_A).T, np.zeros((len(updates) + 1, 3))
    for rows in row_blocks(len(words_B), BLOCK // a.shape[1]):
        stored = decode(words_B[rows]) @ a
        blocks = (update(rows).astype(np.float64) for update in updates)
        for place, dense in enumerate(chain(blocks, [stored])):
            sums[place, :2] += np.vdot(dense, dense), np.vdot(dense, stored)
            dense -= stored
            sums[place, 2] += np.vdot(dense, dense)
    return sums


def merge_bytes(job: Job) -> int:
    """Return the bytes needed to merge one module."""
    pair, needed = job.pair, adapter.compress_bytes(job.pair, job.new_rank, job.stored_bytes)
    if isinstance(pair, MergedPair) and pair.is_dense:
        needed += 4 * pair.rows * pair.columns + 4 * (len(pair.parts) + 3) * BLOCK
        needed += 16 * (pair.rows + pair.columns) * (job.new_rank + pair.rank)
    return needed


def leading(update: Dense, rank: int, known: Sequence[Words]) -> tuple[FloatArray, FloatArray]:
    """Return B′ (m, rank) and A′ (rank, n), balanced: the leading `rank` singular components of a dense update.

    Exact up to a smaller side of `SMALL`. Above, subspace iteration (Halko et al., SIAM Review 53(2), 2011)
    starts from the `known` row spaces, and ends when the energy that it holds grows by less than `SETTLED` of itself.
    The error that is reported is that of these factors, whatever they are.
    """
    if min(update.shape) <= SMALL:
        u, values, v = np.linalg.svd(update.astype(np.float64), full_matrices=False)
    else:
        random = np.random.default_rng(0).standard_normal((update.shape[1], rank + BESIDE), np.float32)
        start = np.hstack([*(decode(words).astype(np.float32) for words in known), random])
        basis, held = np.linalg.qr(update @ start)[0], 0.0
        for _ in range(PASSES):
            across = basis.T @ update
            energy = float(np.linalg.eigvalsh(across @ across.T)[-rank:].sum())
            if energy - held <= SETTLED * energy:
                break
            held, basis = energy, np.linalg.qr(update @ np.linalg.qr(across.T)[0])[0]
        small, values, v = np.linalg.svd((basis.T @ update).astype(np.float64), full_matrices=False)
        u = basis @ small
    roots = np.sqrt(values[:rank])
    return u[:, :rank] * roots, roots[:, None] * v[:rank]


# ---------------------------------------------------------------- parents and layout

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
    opened: adapter.Adapter
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
    digests = map(adapter.Adapter.sha256, adapters)
    parents = list(
        map(Parent, names, paths, adapters, map(layout.require_config, adapters), weights, digests)
    )
    for parent in parents:
        _refuse(parent, settings)
        # With `data`, a merge that is there may be resumed.
        check_output(output, parent.path, force=settings.force or bool(settings.data))
    _refuse_together(parents)
    return parents


def plan_merge(parents: Sequence[Parent], settings: MergeSettings, rank: int | None) -> layout.Layout:
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
    encoded, jobs = layout.encoded_jobs(parents[0].opened, pairs, ranks, types)
    fields = _fields(parents, encoded.fields, jobs)
    config = config_of(parents[0].config.path, fields)
    beside = _beside(parents, settings) | _lora_biases(parents, jobs)
    names = layout.peft_names(parents[0].opened, jobs, ()) | {name: name for name in beside}
    return layout.Layout(config, encoded, jobs, (), beside, (), names, fields)


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
    layout.refuse_adapter(parent.opened, parent.config, has_base=settings.base_model is not None)
    layout.refuse_meaning(parent.opened, "a merged adapter", dora=True)
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
    holders: dict[str, list[tuple[Parent, str, adapter.Factor]]] = defaultdict(list)
    for parent in parents:
        for note, stored in parent.opened.beside():
            if note.reason not in (adapter.DORA_REASON, adapter.LORA_BIAS_REASON):
                name = peft_name(note.tensor, parent.opened.adapter_name)
                holders[name].append((parent, note.reason, stored))
    beside: dict[str, NewTensor] = {}
    for name, group in holders.items():
        having, reasons, factors = zip(*group, strict=True)
        weights = [parent.weight for parent in having]
        kinds = {(stored.entry.dtype, stored.entry.shape) for stored in factors}
        alike = len(kinds) == 1 and (len(having) == len(parents) or reasons[0] == adapter.BASE_REASON)
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


def _averages(factors: Sequence[adapter.Factor], weights: Sequence[float]) -> Iterator[bytes]:
    """Yield the weighted average of stored tensors of one type in pieces."""
    dtype = factors[0].entry.dtype
    for parts in zip(*(factor.to_write().data for factor in factors), strict=True):
        values = [decode(np.frombuffer(part, dtype.numpy)) for part in parts]
        yield encode(np.average(values, axis=0, weights=weights), dtype).tobytes()


def _lora_biases(parents: Sequence[Parent], jobs: Sequence[Job]) -> dict[str, NewTensor]:
    """Return Σ w·s·b/s′ for every module if a parent trained biases of lora_B, which PEFT multiplies by the scale."""
    trained = [parent.opened.by_module(adapter.LORA_BIAS_REASON) for parent in parents]
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
    return layout.merged_fields(configs[0].fields, changes)
