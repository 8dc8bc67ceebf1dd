"""How large each update is beside the weight that it is added to: the base's shards, read one weight at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from gradience.adapters.adapter import Adapter
from gradience.adapters.base_weights import BaseWeights
from gradience.audit.dora import DoraUpdate, magnitudes_of
from gradience.audit.norms import Blocks, Norms, cached_norms, norms_of
from gradience.blas import worker_threads
from gradience.errors import InputError
from gradience.files.shared_names import path_text
from gradience.lanczos import TOLERANCE
from gradience.progress import Progress
from gradience.ranks import percentile
from gradience.reports.audit import (
    AuditReport,
    BaseComparison,
    Dominance,
    DoraChange,
    LayerAudit,
    NotCompared,
)

DORA = "DoRA: the update is m·(W + s·B·A)/‖W + s·B·A‖ − W, which needs the adapter's files as well"


def with_base(
    report: AuditReport,
    folder: Path,
    *,
    name: str,
    adapter: Adapter | None = None,
    cache: bool = True,
    progress: Progress | None = None,
) -> AuditReport:
    """Return the report with ‖ΔW‖/‖W‖ of every module that the base model has a weight for.

    folder: of the base model, with its safetensors; nothing else of it is read, and it is not loaded.
    name: what the base is called in the report.
    adapter: the audited one, open: the update of a DoRA module is made of its factors, its magnitude and W.
    cache: keep the norms of W in the user's cache folder, and take them from there.
    Raises InputError (no-base-weights, and what the reader raises); for no single module.
    """
    compared, skipped = [], []
    look_up = cached_norms if cache else norms_of
    with BaseWeights.open(folder) as base, worker_threads(1):
        for done, layer in enumerate(report.layers, start=1):
            if report.adapter.use_dora:
                result = _dora(base, layer, adapter, look_up)
            else:
                result = _compared(base, layer, look_up)
            if isinstance(result, Dominance):
                compared.append(result)
            else:
                skipped.append(result)
            if progress:
                progress(done, len(report.layers))
        quantization = base.quantization
    summary = _summary(path_text(name), quantization, compared, skipped)
    return report.model_copy(update={"base": summary})


def _summary(
    name: str, quantization: str | None, compared: Sequence[Dominance], skipped: Sequence[NotCompared]
) -> BaseComparison:
    spectral = [module.spectral for module in compared]
    frobenius = [module.frobenius for module in compared]
    share = partial(_share_above, spectral)
    return BaseComparison(
        base=name,
        quantization=quantization,
        tolerance=TOLERANCE,
        spectral_median=_percentile(spectral, 50),
        spectral_p90=_percentile(spectral, 90),
        frobenius_median=_percentile(frobenius, 50),
        frobenius_p90=_percentile(frobenius, 90),
        above_10_percent=share(0.1),
        above_30_percent=share(0.3),
        frobenius_above_10_percent=_share_above(frobenius, 0.1),
        frobenius_above_30_percent=_share_above(frobenius, 0.3),
        modules=tuple(compared),
        not_compared=tuple(skipped),
    )


def _percentile(values: Sequence[float], percent: int) -> float | None:
    return float(percentile(values, percent)) if values else None


def _share_above(values: Sequence[float], limit: float) -> float | None:
    return sum(value > limit for value in values) / len(values) if values else None


_LISTED = ("base-mismatch", "base-quantised", "dora")
"""Errors about one module, which is then listed."""
NormsOf = Callable[[Blocks], Norms]


def _compared(base: BaseWeights, layer: LayerAudit, look_up: NormsOf) -> Dominance | NotCompared:
    if layer.sigma_max is None or layer.fro_norm is None:
        return NotCompared(name=layer.label, reason=f"‖ΔW‖ is not known: {layer.status}")
    try:
        weight = look_up(partial(base.blocks, layer.name, layer.shape, layer.expert))
    except InputError as error:
        if error.code not in _LISTED:
            raise
        return NotCompared(name=layer.label, reason=str(error))
    return _beside(layer.label, weight, Norms(layer.fro_norm, layer.sigma_max))


def _dora(
    base: BaseWeights, layer: LayerAudit, adapter: Adapter | None, look_up: NormsOf
) -> Dominance | NotCompared:
    """The same for a module with a magnitude, whose update is made here, row by row."""
    if adapter is None or layer.status == "nonfinite":
        return NotCompared(name=layer.label, reason=DORA if adapter is None else layer.status)
    pair = next(pair for pair in adapter.pairs if pair.module == layer.name)
    turned = bool(adapter.config and adapter.config.fan_in_fan_out)
    try:
        update = DoraUpdate(pair, magnitudes_of(adapter).get(layer.name), base, transposed=turned)
        weight = look_up(partial(base.blocks, layer.name, layer.shape))
        change, norms = update.magnitude_change(), norms_of(update.blocks)
    except InputError as error:
        if error.code not in _LISTED:
            raise
        return NotCompared(name=layer.label, reason=str(error))
    still = Norms(0.0, 0.0) if np.isnan(norms.largest) else norms
    result = _beside(layer.label, weight, still)
    if isinstance(result, NotCompared):
        return result
    dora = DoraChange(magnitude=change, fro_norm=still.frobenius, sigma_max=still.largest)
    return result.model_copy(update={"dora": dora})


def _beside(name: str, weight: Norms, update: Norms) -> Dominance | NotCompared:
    if not 0 < weight.largest < np.inf:
        return NotCompared(name=name, reason="W is 0, or holds NaN or infinity")
    return Dominance(
        name=name,
        weight_norm=weight.frobenius,
        weight_sigma_max=weight.largest,
        spectral=update.largest / weight.largest,
        frobenius=update.frobenius / weight.frobenius,
    )
