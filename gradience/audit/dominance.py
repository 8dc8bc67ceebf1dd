"""How large each update is beside the weight that it is added to: the base's shards, read one weight at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from gradience.adapters.base_weights import BaseWeights
from gradience.artifacts.audit import AuditReport, LayerAudit
from gradience.artifacts.dominance import BaseComparison, Dominance, NotCompared
from gradience.artifacts.shared_names import path_text
from gradience.blas import worker_threads
from gradience.errors import InputError
from gradience.lanczos import TOLERANCE, spectral_norm
from gradience.progress import Progress
from gradience.ranks import percentile
from gradience.spectra import FloatArray

KEPT_BYTES = 2**28
"""Of a weight that is kept in float32 while its norm is found; a larger one is read again for every product."""
DORA = "DoRA: the update is m·(W + s·B·A)/‖W + s·B·A‖ − W, and not s·B·A"

Blocks = Callable[[], Iterable[FloatArray]]


def with_base(
    report: AuditReport, folder: Path, *, name: str, progress: Progress | None = None
) -> AuditReport:
    """Return the report with ‖ΔW‖/‖W‖ of every module that the base model has a weight for.

    folder: of the base model, with its safetensors; nothing else of it is read, and it is not loaded.
    name: what the base is called in the report.
    Raises InputError (no-base-weights, and what the reader raises); for no single module.
    """
    compared, skipped = [], []
    with BaseWeights.open(folder) as base, worker_threads(1):
        for done, layer in enumerate(report.layers, start=1):
            result = _compared(base, layer, dora=report.adapter.use_dora)
            if isinstance(result, Dominance):
                compared.append(result)
            else:
                skipped.append(result)
            if progress:
                progress(done, len(report.layers))
    return report.model_copy(update={"base": _summary(path_text(name), compared, skipped)})


def _summary(name: str, compared: Sequence[Dominance], skipped: Sequence[NotCompared]) -> BaseComparison:
    spectral = [module.spectral for module in compared]
    frobenius = [module.frobenius for module in compared]
    share = partial(_share_above, spectral)
    return BaseComparison(
        base=name,
        tolerance=TOLERANCE,
        spectral_median=_percentile(spectral, 50),
        spectral_p90=_percentile(spectral, 90),
        frobenius_median=_percentile(frobenius, 50),
        frobenius_p90=_percentile(frobenius, 90),
        above_10_percent=share(0.1),
        above_30_percent=share(0.3),
        modules=tuple(compared),
        not_compared=tuple(skipped),
    )


def _percentile(values: Sequence[float], percent: int) -> float | None:
    return float(percentile(values, percent)) if values else None


def _share_above(values: Sequence[float], limit: float) -> float | None:
    return sum(value > limit for value in values) / len(values) if values else None


def _compared(base: BaseWeights, layer: LayerAudit, *, dora: bool) -> Dominance | NotCompared:
    if dora:
        return NotCompared(name=layer.label, reason=DORA)
    if layer.sigma_max is None or layer.fro_norm is None:
        return NotCompared(name=layer.label, reason=f"‖ΔW‖ is not known: {layer.status}")
    try:
        frobenius, largest = _norms(partial(base.blocks, layer.name, layer.shape, layer.expert))
    except InputError as error:
        if error.code not in ("base-mismatch", "base-quantised"):
            raise
        return NotCompared(name=layer.label, reason=str(error))
    if not 0 < largest < np.inf:
        return NotCompared(name=layer.label, reason="W is 0, or holds NaN or infinity")
    return Dominance(
        name=layer.label,
        weight_norm=frobenius,
        weight_sigma_max=largest,
        spectral=layer.sigma_max / largest,
        frobenius=layer.fro_norm / frobenius,
    )


def _norms(blocks: Blocks) -> tuple[float, float]:
    """‖W‖_F and ‖W‖₂ of a weight in blocks of rows; NaN where an entry is not finite."""
    total, size, columns = 0.0, 0, 0
    kept: list[FloatArray] | None = []
    for block in blocks():
        total += float(np.square(block).sum())
        size, columns = size + block.size, block.shape[1]
        if kept is not None:
            kept.append(block.astype(np.float32))
            kept = kept if 4 * size <= KEPT_BYTES else None
    if not np.isfinite(total) or total == 0.0:
        return float("nan"), float("nan")
    parts: Blocks = blocks if kept is None else lambda: kept

    def product(vector: FloatArray) -> FloatArray:
        image = np.zeros(columns)
        for block in parts():
            narrow = vector.astype(block.dtype)
            image += block.T @ (block @ narrow)
        return image

    return float(np.sqrt(total)), spectral_norm(product, columns)
