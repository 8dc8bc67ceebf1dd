"""Two adapters, module by module: how far apart are the updates, do their directions overlap, are they independent?

Both products live in the joint column space of [B_a, B_b] and the joint row space of [A_a; A_b]. One QR of each joint
factor turns them into two small dense matrices, and everything asked about ΔW_a and ΔW_b is asked about those:
exact (no squares that cancel), and ΔW is never formed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from gradience.adapters.inventory import DORA_REASON
from gradience.adapters.peft import Adapter, LoadedPair, LoraPair, open_adapter, word_blocks
from gradience.artifacts.comparison import (
    ComparisonReport,
    Independence,
    ModuleComparison,
    Presence,
    Replicates,
)
from gradience.artifacts.run import Stopwatch, path_text
from gradience.audit.findings import Facts, meaning
from gradience.blas import one_blas_thread, processors
from gradience.blocks import joined, with_exponent
from gradience.errors import InputError
from gradience.progress import Progress
from gradience.spectra import EPS, Blocks, Core, FloatArray, NonFiniteFactor, energy_rank, triangle
from gradience.words import counted

INDEPENDENT_COSINE = 0.2
"""|cosine| of factors below which runs count as independent: random factors have about 1/√(r·n) < 0.05."""
COPY_COSINE = 0.9
"""|cosine| of both factors above which one run is nearly a copy of the other (warm starts of strangers: 0.998)."""

STORAGE_NOISE = 0.002
"""By how much storage in 16 bits moves the cosine between an update and a truncation of it."""
LOST_ENERGY = 0.01
"""Share of the energy whose loss shows that something was cut off, where the ranks do not."""


class _Energies(NamedTuple):
    """What the totals need of one module: squares of norms and the inner product, each times 4^exponent."""

    a: float = 0.0
    b: float = 0.0
    inner: float = 0.0
    difference: float = 0.0
    kept: float = 0.0
    exponent: int = 0


def compare_adapters(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    adapter_a: str | None = None,
    adapter_b: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> ComparisonReport:
    """Compare the adapters at `a` and `b`; `a` is the reference of relative differences and kept energy.

    Raises InputError when one cannot be read, holds NaN or infinity, or has no known scale.
    """
    watch = Stopwatch(command)
    with (
        open_adapter(Path(a), adapter=adapter_a) as left,
        open_adapter(Path(b), adapter=adapter_b) as right,
        one_blas_thread(),
        ThreadPoolExecutor(workers or processors()) as pool,
    ):
        digests = [pool.submit(left.sha256), pool.submit(right.sha256)]
        pairs_a = _by_name(left)
        pairs_b = _by_name(right)
        names = list(dict.fromkeys([*pairs_a, *pairs_b]))
        compared = []
        for item in pool.map(lambda name: _compare(pairs_a.get(name), pairs_b.get(name)), names):
            compared.append(item)
            if progress:
                progress(len(compared), len(names))
        rows = tuple(row for rows, _ in compared for row in rows)
        totals = _total([energies for _, energies in compared])
        return ComparisonReport(
            path_a=path_text(left.location.path),
            sha256_a=digests[0].result(),
            path_b=path_text(right.location.path),
            sha256_b=digests[1].result(),
            n_both=_count(rows, "both"),
            n_only_a=_count(rows, "only-a"),
            n_only_b=_count(rows, "only-b"),
            n_shapes_differ=_count(rows, "shapes-differ"),
            relative_difference=math.sqrt(totals.difference / totals.a) if totals.a else None,
            cosine=_cosine(totals.inner, totals.a, totals.b),
            kept_energy=min(1.0, totals.kept / totals.a) if totals.a else None,
            replicates=_replicates(rows),
            modules=rows,
            notes=_notes(left, right),
            run=watch.run_info(),
        )


def _by_name(adapter: Adapter) -> dict[str, LoraPair]:
    for pair in adapter.pairs:
        if pair.scale is None:
            raise InputError(
                f"{adapter.location.path}: without lora_alpha the scale is unknown, so updates cannot be compared",
                code="no-alpha",
                hint="put the adapter_config.json beside the weights",
            )
    return {pair.module: pair for pair in adapter.pairs}


def _count(rows: Sequence[ModuleComparison], presence: str) -> int:
    return sum(row.presence == presence for row in rows)


def _notes(left: Adapter, right: Adapter) -> tuple[str, ...]:
    """What a reader must know before the figures: other bases, updates that are not B·A, and what was left out."""
    notes = []
    bases = [adapter.config.base_model if adapter.config else None for adapter in (left, right)]
    if None not in bases and bases[0] != bases[1]:
        notes.append(
            f"their configs name different base models ({bases[0]}, {bases[1]}): "
            "unless these are the same weights, the updates belong to different models"
        )
    for label, adapter in (("A", left), ("B", right)):
        facts = Facts((), adapter.config, adapter.other, adapter.unaudited, adapter.ghosts, ())
        notes += [
            f"{label}: {finding.message}"
            for rule in (meaning.initialisation, meaning.variant)
            for finding in rule(facts)
        ]
        if any(note.reason == DORA_REASON for note in adapter.other):
            notes.append(f"{label} is a DoRA adapter: compared is s·B·A, not the magnitudes")
        if adapter.unaudited:
            tensors = counted(len(adapter.unaudited), "tensor")
            notes.append(f"{label} holds {tensors} that could not be understood: not compared")
    return tuple(notes)


# ---------------------------------------------------------------- one module


def _compare(a: LoraPair | None, b: LoraPair | None) -> tuple[list[ModuleComparison], _Energies]:
    if a is None or b is None:
        return _apart(a, b, "only-a" if b is None else "only-b")
    if (a.rows, a.columns, a.experts) != (b.rows, b.columns, b.experts):
        return _apart(a, b, "shapes-differ")
    return _compare_both(a, b)


def _apart(
    a: LoraPair | None, b: LoraPair | None, presence: Presence
) -> tuple[list[ModuleComparison], _Energies]:
    """A module that cannot be compared: in each adapter it stands against 0."""
    facts: dict[str, Any] = {}
    parts = []
    for side, pair in (("a", a), ("b", b)):
        if pair is not None:
            size, exponent = _alone(pair)
            facts |= {
                "name": pair.module,
                f"r_{side}": pair.rank,
                f"shape_{side}": (pair.rows, pair.columns),
                f"norm_{side}": _norm(pair, size, exponent),
            }
            parts.append(_Energies(**{side: size**2}, difference=size**2, exponent=exponent))
    return [ModuleComparison(presence=presence, **facts)], _total(parts)


def _alone(pair: LoraPair) -> tuple[float, int]:
    """‖ΔW‖_F over all experts, as value · 2^exponent."""
    loaded = pair.load()
    cores = [
        _triangles(pair, loaded.blocks_A(expert), loaded.blocks_B(expert)) for expert in range(pair.experts)
    ]
    exponents = [core_A.exponent + core_B.exponent for core_A, core_B in cores]
    top = max(exponents)
    sizes = [
        with_exponent(float(np.linalg.norm(core_B.matrix @ core_A.matrix.T)), exponent - top)
        for (core_A, core_B), exponent in zip(cores, exponents, strict=True)
    ]
    return abs(pair.scale or 0.0) * math.hypot(*sizes), top


def _norm(pair: LoraPair, size: float, exponent: int) -> float:
    norm = with_exponent(size, exponent)
    if not math.isfinite(norm):
        raise InputError(
            f"{pair.a.file.path}: the norm of {pair.module} is beyond double precision",
            code="overflow",
            hint="divide its factors by a power of two and multiply alpha by it",
        )
    return norm


def _triangles(pair: LoraPair, blocks_A: Blocks, blocks_B: Blocks) -> tuple[Core, Core]:
    try:
        return triangle(blocks_A), triangle(blocks_B)
    except NonFiniteFactor:
        raise InputError(
            f"{pair.a.file.path}: {pair.module} holds NaN or infinity, here or in the other adapter",
            code="non-finite",
            hint="`gradience audit` says where; a broken adapter cannot be compared",
        ) from None


def _compare_both(a: LoraPair, b: LoraPair) -> tuple[list[ModuleComparison], _Energies]:
    loaded_a, loaded_b = a.load(), b.load()
    rows, parts = [], []
    for expert in range(a.experts):
        row, energies = _compare_expert(loaded_a, loaded_b, expert)
        rows.append(row)
        parts.append(energies)
    return rows, _total(parts)


def relative_difference(a: LoraPair, b: LoraPair) -> float | None:
    """‖ΔW_a − ΔW_b‖_F/‖ΔW_a‖_F of two modules of the same shape, over all experts; None where ΔW_a is 0."""
    _, energies = _compare_both(a, b)
    return math.sqrt(energies.difference / energies.a) if energies.a else None


def _compare_expert(
    loaded_a: LoadedPair, loaded_b: LoadedPair, expert: int
) -> tuple[ModuleComparison, _Energies]:
    a, b = loaded_a.pair, loaded_b.pair
    height = max(4 * (a.rank + b.rank), 1024)

    joint_A, joint_B = _triangles(
        a,
        joined(
            word_blocks(loaded_a.words_A(expert), height),
            word_blocks(loaded_b.words_A(expert), height),
        ),
        joined(
            word_blocks(loaded_a.words_B(expert), height),
            word_blocks(loaded_b.words_B(expert), height),
        ),
    )
    x, y = joint_B.matrix, joint_A.matrix
    update_a = (a.scale or 0.0) * x[:, : a.rank] @ y[:, : a.rank].T
    update_b = (b.scale or 0.0) * x[:, a.rank :] @ y[:, a.rank :].T
    if _identical(loaded_a, loaded_b):
        update_b = update_a  # equal words give equal updates, not ones that agree to rounding
    return _describe(a, b, expert, update_a, update_b, x, y, joint_A.exponent + joint_B.exponent)


def _identical(a: LoadedPair, b: LoadedPair) -> bool:
    return (
        a.pair.scale == b.pair.scale
        and a.pair.a.entry.dtype == b.pair.a.entry.dtype
        and a.pair.b.entry.dtype == b.pair.b.entry.dtype
        and np.array_equal(a.stored_A, b.stored_A)
        and np.array_equal(a.stored_B, b.stored_B)
    )


def _describe(
    a: LoraPair,
    b: LoraPair,
    expert: int,
    update_a: FloatArray,
    update_b: FloatArray,
    x: FloatArray,
    y: FloatArray,
    exponent: int,
) -> tuple[ModuleComparison, _Energies]:
    energy_a, energy_b = float(np.square(update_a).sum()), float(np.square(update_b).sum())
    inner = float((update_a * update_b).sum())
    difference = float(np.square(update_a - update_b).sum())
    left_a, values_a, right_a = np.linalg.svd(update_a)
    left_b, values_b, right_b = np.linalg.svd(update_b)
    kept = 0.0
    dimensions: int | None = None
    overlaps: tuple[float | None, float | None] = (None, None)
    angle: float | None = None
    if energy_a and energy_b:
        count = int((values_b > 64 * EPS * values_b[0]).sum())
        kept = float(np.square(left_b[:, :count].T @ update_a @ right_b[:count].T).sum())
        dimensions = min(energy_rank(values_a, 0.90), energy_rank(values_b, 0.90))
        cosines = [
            np.linalg.svd(left_a[:, :dimensions].T @ left_b[:, :dimensions], compute_uv=False).clip(max=1.0),
            np.linalg.svd(right_a[:dimensions] @ right_b[:dimensions].T, compute_uv=False).clip(max=1.0),
        ]
        overlaps = (float(np.square(cosines[0]).mean()), float(np.square(cosines[1]).mean()))
        angle = math.degrees(math.acos(float(min(cosines[0][-1], cosines[1][-1]))))
    same_shape = a.rank == b.rank
    row = ModuleComparison(
        name=a.module,
        expert=expert if a.kind == "expert" else None,
        presence="both",
        r_a=a.rank,
        r_b=b.rank,
        norm_a=_norm(a, math.sqrt(energy_a), exponent),
        norm_b=_norm(b, math.sqrt(energy_b), exponent),
        relative_difference=math.sqrt(difference / energy_a) if energy_a else None,
        cosine=_cosine(inner, energy_a, energy_b),
        kept_energy=min(1.0, kept / energy_a) if energy_a and energy_b else None,
        compared_dimensions=dimensions,
        left_overlap=overlaps[0],
        right_overlap=overlaps[1],
        largest_angle=angle,
        cosine_A=_factor_cosine(y, a.rank) if same_shape else None,
        cosine_B=_factor_cosine(x, a.rank) if same_shape else None,
    )
    return row, _Energies(energy_a, energy_b, inner, difference, kept, exponent)


def _cosine(inner: float, energy_a: float, energy_b: float) -> float | None:
    if not energy_a or not energy_b:
        return None
    return max(-1.0, min(1.0, inner / math.sqrt(energy_a) / math.sqrt(energy_b)))


def _factor_cosine(joint: FloatArray, rank: int) -> float | None:
    first, second = joint[:, :rank], joint[:, rank:]
    return _cosine(
        float((first * second).sum()), float(np.square(first).sum()), float(np.square(second).sum())
    )


def _total(parts: Sequence[_Energies]) -> _Energies:
    """The sums, in units of the largest exponent: squares of small norms do not vanish."""
    top = max((part.exponent for part in parts if part.a or part.b), default=0)
    units = [with_exponent(1.0, min(0, 2 * (part.exponent - top))) for part in parts]  # above top all is 0

    def total(name: str) -> float:
        return math.fsum(getattr(part, name) * unit for part, unit in zip(parts, units, strict=True))

    return _Energies(total("a"), total("b"), total("inner"), total("difference"), total("kept"), top)


# ---------------------------------------------------------------- are the runs independent?


def _replicates(rows: Sequence[ModuleComparison]) -> Replicates:
    updates = [abs(row.cosine) for row in rows if row.cosine is not None]
    cosines_A = [abs(row.cosine_A) for row in rows if row.cosine_A is not None]
    cosines_B = [abs(row.cosine_B) for row in rows if row.cosine_B is not None]
    typical_A = median(cosines_A) if cosines_A else None
    typical_B = median(cosines_B) if cosines_B else None
    verdict: Independence
    smaller = _truncated(rows)
    if smaller:
        whole = "A" if smaller == "B" else "B"
        verdict, reason = (
            "truncation",
            f"{smaller} is {whole} truncated: each of its updates is a part of {whole}'s",
        )
    elif updates and median(updates) > COPY_COSINE:
        verdict, reason = "near-copies", "the updates themselves point the same way"
    elif typical_A is None or typical_B is None:
        verdict = "not-comparable"
        reason = "no module has trained factors of the same shapes in both adapters"
    elif typical_A > COPY_COSINE and typical_B > COPY_COSINE:
        verdict, reason = "near-copies", "both factors point the same way: one run was started from the other"
    elif max(typical_A, typical_B) > INDEPENDENT_COSINE:
        verdict = "same-start"
        reason = "one factor points the same way: the runs share their start (seed, or a frozen A)"
    else:
        verdict, reason = "independent", "the factors are nearly orthogonal, as random starts make them"
    return Replicates(verdict=verdict, cosine_A_median=typical_A, cosine_B_median=typical_B, reason=reason)


def _truncated(rows: Sequence[ModuleComparison]) -> str:
    """`A` or `B`, where that one is a truncation of the other in every module; else nothing.

    Cutting off singular components leaves of W an update T with ⟨W, T⟩ = ‖T‖², so cos(W, T) = ‖T‖/‖W‖. A run that was
    continued, scaled or started anew does not do that in one module, let alone in all.
    """
    both = [row for row in rows if row.cosine is not None and row.norm_a and row.norm_b]
    sides = (("B", "r_a", "r_b", "norm_a", "norm_b"), ("A", "r_b", "r_a", "norm_b", "norm_a"))
    for side, r_whole, r_part, norm_whole, norm_part in sides:
        kept = [getattr(row, norm_part) / getattr(row, norm_whole) for row in both]
        fits = all(
            abs((row.cosine or 0.0) - ratio) <= STORAGE_NOISE * ratio + 0.05 * min(ratio, abs(1 - ratio))
            for row, ratio in zip(both, kept, strict=True)
        )
        smaller = any(
            getattr(row, r_part) < getattr(row, r_whole) or 1 - ratio**2 > LOST_ENERGY
            for row, ratio in zip(both, kept, strict=True)
        )
        if fits and smaller:
            return side
    return ""
