"""Two adapters -> ComparisonReport: every module of both, and the sums."""

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gradience import spectra
from gradience.adapters import adapter
from gradience.adapters.base import model_config_of
from gradience.adapters.formats import open_adapter
from gradience.adapters.gguf import pairs_of_transformers
from gradience.adapters.tensors import decode
from gradience.audit.findings import MEANING, AdapterFacts, find
from gradience.blas import map_in_order, worker_threads
from gradience.compare.settings import CompareSettings
from gradience.errors import InputError
from gradience.files.shared_names import path_text
from gradience.reports.base.report import Stopwatch, hub_source
from gradience.reports.comparison import ComparisonReport, ModuleComparison, Presence
from gradience.settings import public
from gradience.words import counted


@public(CompareSettings)
def compare_adapters(settings: CompareSettings) -> ComparisonReport:
    """Compare the adapters at `a` and `b`, and return their differences, module by module and overall.

    >>> report = compare_adapters("my_adapter", "smaller")
    >>> f"{report.relative_difference:.1%}", report.n_both
    ('12.6%', 16)

    Keywords, named like the flags of `gradience compare`:

    Raises InputError if one cannot be read, holds NaN or infinity, or has no known scale; WrongType (a TypeError too)
    for a value that is not a path.
    """
    allow_pickle = settings.allow_pickle
    watch = Stopwatch(settings.command)
    with (
        open_adapter(Path(settings.a), adapter=settings.adapter_a, allow_pickle=allow_pickle) as left,
        open_adapter(Path(settings.b), adapter=settings.adapter_b, allow_pickle=allow_pickle) as right,
        ExitStack() as stack,
    ):
        pairs_a, pairs_b = _by_name(left, right), _by_name(right, left)
        if not pairs_a.keys() & pairs_b.keys():
            raise InputError(
                f"{left.location.path} and {right.location.path} have no module in common; their first modules "
                f"are {min(pairs_a, default='none')[:80]} and {min(pairs_b, default='none')[:80]}",
                code="no-common-module",
                hint="compare adapters of the same base model, saved in the same format",
            )
        names = list(dict.fromkeys([*pairs_a, *pairs_b]))
        known = [(pairs_a.get(name) or pairs_b[name], pairs_b.get(name)) for name in names]
        work = [(pair, adapter.measure_bytes(pair, other)) for pair, other in known]
        fitting = adapter.workers_within(settings.max_memory, [left, right], work, settings.workers)
        pool = stack.enter_context(worker_threads(fitting))
        digests = [pool.submit(left.sha256), pool.submit(right.sha256)]
        compared = map_in_order(
            pool, lambda name: compare_modules(pairs_a.get(name), pairs_b.get(name)), names, settings.progress
        )
        rows = tuple(row for rows, _ in compared for row in rows)
        presences = Counter(row.presence for row in rows)
        totals = total_energies([energies for _, energies in compared])
        return ComparisonReport(
            path_a=path_text(left.location.path),
            sha256_a=digests[0].result(),
            source_a=hub_source(left.source),
            path_b=path_text(right.location.path),
            sha256_b=digests[1].result(),
            source_b=hub_source(right.source),
            n_both=presences["both"],
            n_only_a=presences["only-a"],
            n_only_b=presences["only-b"],
            n_shapes_differ=presences["shapes-differ"],
            relative_difference=totals.relative_difference,
            cosine=totals.cosine,
            kept_energy=totals.kept_share,
            modules=rows,
            notes=_notes(left, right),
            run=watch.run_info(),
        )


def _by_name(opened: adapter.Adapter, other: adapter.Adapter) -> dict[str, adapter.LoraPair]:
    """Return the modules under names that `other` has as well, if the two formats name them differently."""
    for pair in opened.pairs:
        opened.scale_of(pair)
    if opened.format != "gguf" or other.format == "gguf" or other.config is None:
        return {pair.module: pair for pair in opened.pairs}
    return pairs_of_transformers(opened, model_config_of(other.config, other.location.root))


def _notes(left: adapter.Adapter, right: adapter.Adapter) -> tuple[str, ...]:
    """Return remarks to show before the figures: different bases, updates that are not B·A, and modules left out."""
    notes = []
    bases = [opened.config.base_model if opened.config else None for opened in (left, right)]
    if None not in bases and bases[0] != bases[1]:
        notes.append(
            f"their configs name different base models ({bases[0]}, {bases[1]}): "
            "unless these are the same weights, the updates belong to different models"
        )
    for label, opened in (("A", left), ("B", right)):
        facts = AdapterFacts((), opened)
        notes += [f"{label}: {finding.message}" for finding in find(facts) if finding.code in MEANING]
        if any(note.reason == adapter.DORA_REASON for note in opened.other):
            notes.append(f"{label} is a DoRA adapter: s·B·A is compared, the magnitudes are not")
        if opened.unaudited:
            tensors = counted(len(opened.unaudited), "tensor")
            notes.append(f"{label} contains {tensors} that could not be read: not compared")
    return tuple(notes)


# ---------------------------------------------------------------- one module

SIGN_ROWS = 64
"""Rows of ΔW at most, evenly spaced, whose signs are compared."""


class Energies(NamedTuple):
    """‖ΔW_a‖², ‖ΔW_b‖², inner product, ‖ΔW_a − ΔW_b‖², and the energy of a in b's directions; all times 4^exponent."""

    a: float = 0.0
    b: float = 0.0
    inner: float = 0.0
    difference: float = 0.0
    kept: float = 0.0
    exponent: int = 0

    @property
    def relative_difference(self) -> float | None:
        """‖ΔW_a − ΔW_b‖_F/‖ΔW_a‖_F; None if ΔW_a is 0."""
        return spectra.relative_error(self.difference, self.a)

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between the updates; None if one of them is 0."""
        return cosine(self.inner, self.a, self.b)

    @property
    def kept_share(self) -> float | None:
        """Share of ΔW_a's energy in the directions of ΔW_b; None if ΔW_a is 0."""
        return min(1.0, self.kept / self.a) if self.a else None


Compared = tuple[list[ModuleComparison], Energies]
"""The rows of one module (one, or one per expert), and its energies."""


def compare_modules(a: adapter.LoraPair | None, b: adapter.LoraPair | None) -> Compared:
    """Compare one module of both adapters; None for an opened without the module.

    Raises InputError (non-finite, overflow).
    """
    try:
        if a is None or b is None:
            return _apart(a, b, "only-a" if b is None else "only-b")
        if (a.rows, a.columns, a.experts) != (b.rows, b.columns, b.experts):
            return _apart(a, b, "shapes-differ")
        loaded_a, loaded_b = a.load(), b.load()
        compared = [_compare_expert(loaded_a, loaded_b, expert) for expert in range(a.experts)]
        return [row for row, _ in compared], total_energies([energies for _, energies in compared])
    except spectra.NonFiniteFactor:
        raise adapter.non_finite(*(pair for pair in (a, b) if pair is not None)) from None


def total_energies(parts: Sequence[Energies]) -> Energies:
    """The sums, in units of the largest exponent: squares of small norms do not vanish."""
    top = max((part.exponent for part in parts if part.a or part.b), default=0)
    units = [
        spectra.with_exponent(1.0, min(0, 2 * (part.exponent - top))) for part in parts
    ]  # above top all is 0

    def total(name: str) -> float:
        return math.fsum(getattr(part, name) * unit for part, unit in zip(parts, units, strict=True))

    return Energies(total("a"), total("b"), total("inner"), total("difference"), total("kept"), top)


# ---------------------------------------------------------------- in one adapter, or of two shapes


def _apart(a: adapter.LoraPair | None, b: adapter.LoraPair | None, presence: Presence) -> Compared:
    """A module that cannot be compared: each opened's update is compared with 0."""
    facts: dict[str, Any] = {}
    parts = []
    for side, pair in (("a", a), ("b", b)):
        if pair is not None:
            size, exponent = _size(pair)
            facts |= {
                "name": pair.module,
                f"r_{side}": pair.rank,
                f"shape_{side}": (pair.rows, pair.columns),
                f"norm_{side}": _norm(pair, size, exponent),
            }
            parts.append(Energies(**{side: size**2}, difference=size**2, exponent=exponent))
    return [ModuleComparison(presence=presence, **facts)], total_energies(parts)


def _size(pair: adapter.LoraPair) -> tuple[float, int]:
    """‖ΔW‖_F over all experts, as value · 2^exponent."""
    loaded = pair.load()
    cores = [
        (spectra.triangle(loaded.blocks_A(expert)), spectra.triangle(loaded.blocks_B(expert)))
        for expert in range(pair.experts)
    ]
    exponents = [core_A.exponent + core_B.exponent for core_A, core_B in cores]
    top = max(exponents)
    sizes = [
        spectra.with_exponent(float(np.linalg.norm(core_B.matrix @ core_A.matrix.T)), exponent - top)
        for (core_A, core_B), exponent in zip(cores, exponents, strict=True)
    ]
    return abs(pair.scale or 0.0) * math.hypot(*sizes), top


def _norm(pair: adapter.LoraPair, size: float, exponent: int) -> float:
    norm = spectra.with_exponent(size, exponent)
    if not math.isfinite(norm):
        raise adapter.norm_overflow(pair.a.file.path, pair.module)
    return norm


# ---------------------------------------------------------------- in both


def _compare_expert(
    loaded_a: adapter.LoadedPair, loaded_b: adapter.LoadedPair, expert: int
) -> tuple[ModuleComparison, Energies]:
    a, b = loaded_a.pair, loaded_b.pair
    height = max(4 * (a.rank + b.rank), 1024)
    (a_A, a_B), (b_A, b_B) = (
        spectra.balance(loaded.blocks_A(expert), loaded.blocks_B(expert)) for loaded in (loaded_a, loaded_b)
    )
    first, second = loaded_a.words_A(expert), loaded_b.words_A(expert)
    blocks_A = spectra.joined(
        adapter.word_blocks(first, height), adapter.word_blocks(second, height), a_A, b_A
    )
    first, second = loaded_a.words_B(expert), loaded_b.words_B(expert)
    blocks_B = spectra.joined(
        adapter.word_blocks(first, height), adapter.word_blocks(second, height), a_B, b_B
    )
    joint_A, joint_B = spectra.triangle(blocks_A), spectra.triangle(blocks_B)
    exponent = joint_A.exponent + joint_B.exponent
    # Both updates in the joint bases: s_a·X_a·Y_aᵀ and s_b·X_b·Y_bᵀ, with X = [X_a, X_b] and Y = [Y_a, Y_b].
    x, y = joint_B.matrix, joint_A.matrix
    update_a = (a.scale or 0.0) * x[:, : a.rank] @ y[:, : a.rank].T
    update_b = (b.scale or 0.0) * x[:, a.rank :] @ y[:, a.rank :].T
    same_words = np.array_equal(loaded_a.stored_A, loaded_b.stored_A) and np.array_equal(
        loaded_a.stored_B, loaded_b.stored_B
    )
    if same_words and a.scale == b.scale:
        update_b = update_a  # equal values give equal updates, not ones that agree to rounding
    energy_a, energy_b = (float(np.square(update).sum()) for update in (update_a, update_b))
    overlap, kept = _overlap(update_a, update_b) if energy_a and energy_b else ({}, 0.0)
    energies = Energies(
        energy_a,
        energy_b,
        float((update_a * update_b).sum()),
        float(np.square(update_a - update_b).sum()),
        kept,
        exponent,
    )
    row = ModuleComparison(
        name=a.module,
        expert=expert if a.kind == "expert" else None,
        presence="both",
        r_a=a.rank,
        r_b=b.rank,
        norm_a=_norm(a, math.sqrt(energy_a), exponent),
        norm_b=_norm(b, math.sqrt(energy_b), exponent),
        relative_difference=energies.relative_difference,
        cosine=energies.cosine,
        kept_energy=energies.kept_share if energy_b else None,
        **overlap,
        sign_agreement=_sign_agreement(loaded_a, loaded_b, expert),
    )
    return row, energies


def _sign_agreement(a: adapter.LoadedPair, b: adapter.LoadedPair, expert: int) -> float | None:
    """Return the share of equal signs among the entries of both updates that are not 0, on evenly spaced rows."""
    rows = np.linspace(0, a.pair.rows - 1, min(a.pair.rows, SIGN_ROWS)).astype(int)
    signs = [
        np.sign((one.pair.scale or 0.0) * decode(one.words_B(expert)[rows]) @ decode(one.words_A(expert)).T)
        for one in (a, b)
    ]
    product = signs[0] * signs[1]
    counted = np.count_nonzero(product)
    return float(np.count_nonzero(product > 0) / counted) if counted else None


def _overlap(update_a: spectra.FloatArray, update_b: spectra.FloatArray) -> tuple[dict[str, Any], float]:
    """Return the agreement of leading directions as fields, and a's energy in b's directions. Neither update is 0."""
    left_a, values_a, right_a = np.linalg.svd(update_a)
    left_b, values_b, right_b = np.linalg.svd(update_b)
    real = int((values_b > 64 * spectra.EPS * values_b[0]).sum())
    kept = float(np.square(left_b[:, :real].T @ update_a @ right_b[:real].T).sum())
    shared = min(spectra.energy_rank(values_a, 0.90), spectra.energy_rank(values_b, 0.90))
    left, right = (
        np.linalg.svd(product, compute_uv=False).clip(max=1.0)
        for product in (left_a[:, :shared].T @ left_b[:, :shared], right_a[:shared] @ right_b[:shared].T)
    )
    return {
        "compared_dimensions": shared,
        "left_overlap": float(np.square(left).mean()),
        "right_overlap": float(np.square(right).mean()),
        "largest_angle": math.degrees(math.acos(float(min(left[-1], right[-1])))),
    }, kept


def cosine(inner: float, energy_a: float, energy_b: float) -> float | None:
    """Return the cosine of the angle between two updates with this inner product; None if one of them is 0."""
    if not energy_a or not energy_b:
        return None
    return max(-1.0, min(1.0, inner / math.sqrt(energy_a) / math.sqrt(energy_b)))
