"""Size of each update relative to the weight it is added to. The base's shards are read one weight at a time.

‖W‖₂ is computed within a tolerance by Lanczos iteration, which only multiplies by W.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from gradience.adapters.adapter import DORA_REASON, Adapter, LoraPair
from gradience.adapters.base import BaseWeights, Rows
from gradience.adapters.tensors import decode
from gradience.blas import worker_threads
from gradience.errors import InputError
from gradience.files.shared_names import path_text
from gradience.progress import Progress
from gradience.ranks import percentile
from gradience.reports import audit as reports
from gradience.reports.audit import AuditReport, LayerAudit
from gradience.spectra import FloatArray, row_blocks

KEPT_BYTES = 2**28
"""Bytes of the largest weight kept in float32 while its norm is computed; a larger one is read for every product."""
Blocks = Callable[[], Iterable[FloatArray]]


TOLERANCE = 0.01
"""Relative tolerance: σ₁ is at most this much above the returned value."""
FAILURE = 1e-6
"""Probability, over the random start, that σ₁ exceeds it. The returned value is never above σ₁, except by rounding."""
SEED = 20261126


def steps_for(size: int, tolerance: float = TOLERANCE, failure: float = FAILURE) -> int:
    """Return how many steps suffice for a symmetric operator on vectors of this size.

    λ from k steps on a random start is below (1 − ε)·λ₁ with probability at most 1.648·√n·exp(−√ε·(2k − 1)); here
    λ = σ², so that ε = 1 − 1/(1 + tolerance)². Source: Kuczyński & Woźniakowski, SIAM J. Matrix Anal. Appl. 13(4),
    1992, theorem 4.2.
    """
    epsilon = 1 - (1 + tolerance) ** -2
    needed = (math.log(1.648 * math.sqrt(size) / failure) / math.sqrt(epsilon) + 1) / 2
    return min(size, math.ceil(needed))


def spectral_norm(apply: Callable[[FloatArray], FloatArray], size: int) -> float:
    """Return ‖W‖₂ from v ↦ WᵀW·v, within `TOLERANCE` below the truth (see `FAILURE`).

    >>> spectral_norm(lambda v: np.array([9.0, 4.0]) * v, 2)
    3.0

    apply: of a vector (size,), in float64. Vectors are kept orthogonal to all earlier ones.
    """
    start = np.random.default_rng(SEED).standard_normal(size)
    basis = [start / np.linalg.norm(start)]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(steps_for(size)):
        image = apply(basis[-1])
        diagonal.append(float(basis[-1] @ image))
        known = np.stack(basis)
        image = image - known.T @ (known @ image)
        image = image - known.T @ (known @ image)  # twice is enough (Giraud et al. 2005)
        length = float(np.linalg.norm(image))
        if length <= np.finfo(np.float64).eps * max(map(abs, diagonal)):
            break  # what is left is rounding: the values are exact
        beside.append(length)
        basis.append(image / length)
    off = beside[: len(diagonal) - 1]
    projected = np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1)
    return float(np.sqrt(max(0.0, float(np.linalg.eigvalsh(projected)[-1]))))


class Norms(NamedTuple):
    """Norms of one weight; NaN if an entry is not finite or all entries are 0."""

    frobenius: float
    largest: float


def norms_of(blocks: Blocks) -> Norms:
    """Return ‖W‖_F, and ‖W‖₂ within TOLERANCE.

    blocks: iterates over the rows of W in blocks, (k, n).
    """
    total, size, columns = 0.0, 0, 0
    kept: list[FloatArray] | None = []
    for block in blocks():
        total += float(np.square(block).sum())
        size, columns = size + block.size, block.shape[1]
        if kept is not None:
            kept.append(block.astype(np.float32))
            kept = kept if 4 * size <= KEPT_BYTES else None
    if not math.isfinite(total) or total == 0.0:
        return Norms(math.nan, math.nan)
    parts: Blocks = blocks if kept is None else lambda: kept

    def product(vector: FloatArray) -> FloatArray:
        image = np.zeros(columns)
        for block in parts():
            narrow = vector.astype(block.dtype)
            # Every entry is finite, by the sum above. OpenBLAS reads whole vector registers, also behind the end of a
            # small matrix, and a NaN that lies there raises the flag that numpy would warn of.
            with np.errstate(invalid="ignore"):
                image += block.T @ (block @ narrow)
        return image

    return Norms(math.sqrt(total), spectral_norm(product, columns))


ROWS = 512
"""Rows of W in memory at a time."""


def dora_layer(weight: FloatArray, magnitude: FloatArray, scaled_B: FloatArray, a: FloatArray) -> FloatArray:
    """Return rows of W′ = m·V/‖V‖ with V = W + s·B·A, as PEFT applies it.

    Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv 2402.09353; PEFT 0.21, tuners/lora/dora.py.
    """
    direction = weight + scaled_B @ a
    lengths = np.linalg.norm(direction, axis=1)
    lengths[lengths == 0] = 1.0
    layer: FloatArray = (magnitude / lengths)[:, None] * direction
    return layer


class DoraUpdate:
    """ΔW of one linear module in blocks of rows, and how far its magnitude has moved.

    Raises InputError: dora for a module that is not linear or has no magnitude, and what the base raises.
    """

    def __init__(self, adapter: Adapter, pair: LoraPair, base: BaseWeights) -> None:
        magnitude = adapter.by_module(DORA_REASON).get(pair.module)
        if pair.kind != "linear" or magnitude is None or pair.scale is None:
            raise InputError(
                f"{pair.module}: DoRA of a {pair.kind} module, or without its magnitude or α",
                code="dora",
                hint="retrain without DoRA on it",
            )
        transposed = adapter.config is not None and adapter.config.fan_in_fan_out
        self._weight: Rows = base.weight(pair.module, (pair.rows, pair.columns), transposed=transposed)
        self._magnitude = decode(magnitude.read()).reshape(-1)
        if self._magnitude.shape != (pair.rows,):
            raise InputError(
                f"{pair.module}: the magnitude has {len(self._magnitude)} entries, the module {pair.rows} rows",
                code="dora",
                hint="save the adapter again with PEFT",
            )
        loaded = pair.load()
        self._a, self._b = decode(loaded.words_A()).T, pair.scale * decode(loaded.words_B())

    def with_factors(self, a: FloatArray, b: FloatArray) -> Self:
        """Return the update with other factors A (r, n) and s·B (m, r)."""
        changed = copy(self)
        changed._a, changed._b = a, b
        return changed

    def blocks(self) -> Iterator[FloatArray]:
        """Yield ΔW, some rows at a time."""
        for rows in row_blocks(len(self._magnitude), ROWS):
            yield self.rows(rows)

    def rows(self, rows: slice) -> FloatArray:
        """Return some rows of ΔW."""
        weight = self._weight(rows)
        return dora_layer(weight, self._magnitude[rows], self._b[rows], self._a) - weight

    def magnitude_change(self) -> float:
        """‖m − m₀‖₂/‖m₀‖₂, where m₀, the norms of W's rows, is what training starts from."""
        before = np.concatenate(
            [np.linalg.norm(self._weight(rows), axis=1) for rows in row_blocks(len(self._magnitude), ROWS)]
        )
        return float(np.linalg.norm(self._magnitude - before) / np.linalg.norm(before))


def with_base(
    report: AuditReport, folder: Path, adapter: Adapter, *, name: str, progress: Progress | None = None
) -> AuditReport:
    """Return the report with ‖ΔW‖/‖W‖ of every module that the base model has a weight for.

    folder: of the base model, with its safetensors; nothing else of it is read, and it is not loaded.
    adapter: the audited one, open: the update of a DoRA module is made of its factors, its magnitude and W.
    name: what the base is called in the report.
    Raises InputError (no-base-weights, and what the reader raises); for no single module.
    """
    compared, skipped = [], []
    with BaseWeights.open(folder) as base, worker_threads(1):
        for done, layer in enumerate(report.layers, start=1):
            result = _compared(base, layer, adapter, dora=report.adapter.use_dora)
            if isinstance(result, reports.Dominance):
                compared.append(result)
            else:
                skipped.append(result)
            if progress:
                progress(done, len(report.layers))
    spectral = [module.spectral for module in compared]
    frobenius = [module.frobenius for module in compared]
    summary = reports.BaseComparison(
        base=path_text(name),
        tolerance=TOLERANCE,
        spectral_median=_percentile(spectral, 50),
        spectral_p90=_percentile(spectral, 90),
        frobenius_median=_percentile(frobenius, 50),
        frobenius_p90=_percentile(frobenius, 90),
        modules=tuple(compared),
        not_compared=tuple(skipped),
    )
    return report.model_copy(update={"base": summary})


def _percentile(values: Sequence[float], percent: int) -> float | None:
    return float(percentile(values, percent)) if values else None


_LISTED = ("base-mismatch", "base-quantized", "dora")
"""Errors about one module, which is then listed."""


def _compared(
    base: BaseWeights, layer: LayerAudit, adapter: Adapter, *, dora: bool
) -> reports.Dominance | reports.NotCompared:
    """One module. dora: its update is made here, row by row, of its factors, its magnitude and W."""
    known = layer.status != "nonfinite" if dora else None not in (layer.sigma_max, layer.fro_norm)
    if not known:
        reason = layer.status if dora else f"‖ΔW‖ is not known: {layer.status}"
        return reports.NotCompared(name=layer.label, reason=reason)
    change = None
    update = Norms(layer.fro_norm or 0.0, layer.sigma_max or 0.0)
    try:
        weight = norms_of(partial(base.blocks, layer.name, layer.shape, layer.expert))
        if dora:
            pair = next(pair for pair in adapter.pairs if pair.module == layer.name)
            true = DoraUpdate(adapter, pair, base)
            norms = norms_of(true.blocks)
            update = Norms(0.0, 0.0) if np.isnan(norms.largest) else norms
            moved = true.magnitude_change()
            change = reports.DoraChange(magnitude=moved, fro_norm=update.frobenius, sigma_max=update.largest)
    except InputError as error:
        if error.code not in _LISTED:
            raise
        return reports.NotCompared(name=layer.label, reason=str(error))
    if not 0 < weight.largest < np.inf:
        return reports.NotCompared(name=layer.label, reason="W is 0, or holds NaN or infinity")
    return reports.Dominance(
        name=layer.label,
        weight_norm=weight.frobenius,
        weight_sigma_max=weight.largest,
        spectral=update.largest / weight.largest,
        frobenius=update.frobenius / weight.frobenius,
        dora=change,
    )
