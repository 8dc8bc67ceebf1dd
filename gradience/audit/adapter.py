"""The audit: an adapter on disk -> AuditReport. No base model, no torch, one module a worker in memory."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np

from gradience import ranks, spectra
from gradience.adapters.families import family_of, layer_of, module_type
from gradience.adapters.inventory import Note
from gradience.adapters.peft import Adapter, Factor, LoadedPair, LoraPair, open_adapter
from gradience.artifacts.audit import (
    AdapterInfo,
    AuditReport,
    Coverage,
    Gain,
    LayerAudit,
    LayerGain,
    TensorNote,
    TypeSummary,
)
from gradience.artifacts.run import Stopwatch, path_text
from gradience.audit.findings import Facts, find
from gradience.audit.settings import settings_of
from gradience.blas import one_blas_thread, processors
from gradience.errors import UsageError
from gradience.plan.grids import checked_ranks
from gradience.plan.suggestions import suggest
from gradience.progress import Progress
from gradience.random_factors import null_stable_rank

DEFAULT_TAU = 0.90
TAUS = (0.90, 0.95, 0.99)
STORAGE_SHARE = 4.0
"""Relative change of the stable rank in unit roundoffs of the storage type over √min(m, n).

Rounding errors of the entries average out over the rows. Measured: 3.9 at most in normal ranges; see docs/measures.md
and benchmarks/storage_rounding.py.
"""


class Measured(NamedTuple):
    """The rows of one pair, and a sentence per factor that holds NaN or infinity."""

    rows: list[LayerAudit]
    nonfinite: list[str]


def audit_adapter(
    path: str | os.PathLike[str],
    *,
    adapter: str | None = None,
    tau: float = DEFAULT_TAU,
    grid: Sequence[int] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> AuditReport:
    """Measure how much of its rank the adapter at `path` uses.

    path: a PEFT folder, a Trainer checkpoint or a .safetensors file.
    adapter: which one, where a folder or a file holds several.
    tau: energy threshold that the suggestions rest on, in (0, 1].
    grid: allowed ranks; powers of two by default.
    workers: modules measured at a time; the processor count by default. The result does not depend on it.

    Raises InputError when there is nothing to audit, UsageError for a tau or grid that makes no sense.
    Modules that cannot be measured do not raise: they are rows with a status, findings, and coverage.
    """
    if not 0 < tau <= 1:
        raise UsageError(f"tau is {tau}, not in (0, 1]", code="bad-tau", hint="for instance --tau 0.95")
    allowed = checked_ranks(ranks.DEFAULT_GRID if grid is None else grid)
    watch = Stopwatch(command)
    with open_adapter(Path(path), adapter=adapter) as opened:
        digest, measured = _measure_all(opened, tau, workers or processors(), progress)
        layers = tuple(row for item in measured for row in item.rows)
        facts = Facts(
            layers=layers,
            config=opened.config,
            other=opened.other,
            unaudited=opened.unaudited,
            ghosts=opened.ghosts,
            nonfinite=[sentence for item in measured for sentence in item.nonfinite],
            misnamed=opened.misnamed(),
        )
        report = _assemble(opened, digest, facts, tau, watch)
        return _with_suggestions(report, allowed)


def _measure_all(
    opened: Adapter, tau: float, workers: int, progress: Progress | None
) -> tuple[str, list[Measured]]:
    """Digest and rows. BLAS gets one thread and the modules are spread over ours: faster, and the same bits always."""
    total = len(opened.pairs)
    with one_blas_thread(), ThreadPoolExecutor(workers) as pool:
        digest = pool.submit(opened.sha256)
        measured = []
        for item in pool.map(lambda pair: measure_pair(pair, tau), opened.pairs):
            measured.append(item)
            if progress:
                progress(len(measured), total)
        return digest.result(), measured


# ---------------------------------------------------------------- one module


def measure_pair(pair: LoraPair, tau: float) -> Measured:
    """Rows of one pair: one, or one per expert. Raises InputError when the file cannot be read."""
    loaded = pair.load()
    rows, nonfinite = [], []
    wide = pair.rank > min(pair.rows, pair.columns)
    for expert in range(pair.experts):
        fixed = _fixed_part(pair, expert if pair.kind == "expert" else None)
        try:
            found = spectra.spectrum(loaded.blocks_A(expert), loaded.blocks_B(expert), wide=wide)
        except spectra.NonFiniteFactor:
            nonfinite += [
                sentence for factor in (pair.a, pair.b) if (sentence := _nonfinite_sentence(factor, loaded))
            ]
            rows.append(LayerAudit(status="nonfinite", **fixed))
            continue
        rows.append(_row(pair, found, tau, fixed))
    return Measured(rows, list(dict.fromkeys(nonfinite)))


def _fixed_part(pair: LoraPair, expert: int | None) -> dict[str, Any]:
    """What is known of a module before its numbers are."""
    layer, index = layer_of(pair.module)
    types = {pair.a.entry.dtype.name, pair.b.entry.dtype.name}
    return {
        "name": pair.module,
        "module_type": module_type(pair.module, embedding=pair.kind == "embedding"),
        "family": family_of(pair.module),
        "layer": layer,
        "layer_index": index,
        "kind": pair.kind,
        "expert": expert,
        "groups": pair.groups,
        "r": pair.rank,
        "declared_r": pair.declared_rank,
        "alpha": pair.alpha,
        "scale": pair.scale,
        "shape": (pair.rows, pair.columns),
        "params": pair.params // pair.experts,
        "bytes": pair.bytes // pair.experts,
        "dtype": "+".join(sorted(types)),
    }


def _row(pair: LoraPair, found: spectra.Spectrum, tau: float, fixed: dict[str, Any]) -> LayerAudit:
    values = found.values
    if found.error_bound >= 1:
        bound = found.error_bound if math.isfinite(found.error_bound) else None
        return LayerAudit(
            status="unsupported", method=found.method, eta=found.eta, error_bound=bound, **fixed
        )
    if values[0] == 0.0:
        return LayerAudit(status="untrained", method=found.method, **fixed)
    stable = spectra.stable_rank(values)
    null = null_stable_rank(pair.rank, pair.rows, pair.columns)
    storage = _storage_error(pair, found)
    margin = spectra.energy_margin(values, (*TAUS, tau))
    k90, k95, k99, k_tau = (spectra.energy_rank(values, threshold) for threshold in (*TAUS, tau))
    sigma = found.scaled(1.0 if pair.scale is None else pair.scale)
    # σ₁·√(stable rank) and not a sum of squares, which leaves the range of float64 at half the exponent.
    fro_norm = float(sigma[0]) * math.sqrt(stable)
    known = pair.scale is not None and math.isfinite(fro_norm)
    return LayerAudit(
        status="ok",
        stable_rank=stable,
        effective_rank=spectra.effective_rank(values),
        utilization=stable / pair.rank,
        rank_use=(stable - 1) / (pair.rank - 1) if pair.rank > 1 else None,
        null_stable_rank=null,
        null_position=(stable - 1) / (null - 1) if null > 1 else None,
        energy_rank_90=k90,
        energy_rank_95=k95,
        energy_rank_99=k99,
        energy_rank_tau=k_tau,
        energy_margin=margin,
        borderline=margin <= storage + found.energy_error + spectra.ENERGY_SLACK,
        sigma_max=float(sigma[0]) if known else None,
        fro_norm=fro_norm if known else None,
        singular_values=tuple(sigma.tolist()) if np.isfinite(sigma).all() else (),
        method=found.method,
        eta=found.eta,
        error_bound=found.error_bound,
        storage_error=storage,
        **fixed,
    )


def _storage_error(pair: LoraPair, found: spectra.Spectrum) -> float:
    """What rounding the factors to their storage type may have done to the stable rank (relative, at most 1).

    Where entries are as small as the type's smallest value (fp8), they were rounded to a fixed step, and whole
    directions may be gone. A typical figure and no bound: it assumes that no single entry dominates.
    """
    rounding, steps = [], []
    for factor, size in zip((pair.a, pair.b), found.rms, strict=True):
        dtype = factor.entry.dtype
        steps.append(min(1.0, dtype.smallest / (2 * size)) if size > 0 else 1.0)
        rounding.append(dtype.unit_roundoff + steps[-1])
    average = STORAGE_SHARE * max(rounding) / math.sqrt(min(pair.rows, pair.columns))
    # The energy that the errors themselves add, and the energy that is gone, do not average out.
    return min(1.0, average + max(rounding) ** 2 + max(steps) ** 2)


def _nonfinite_sentence(factor: Factor, loaded: LoadedPair) -> str | None:
    from gradience.adapters.dtypes import decode

    words = loaded.stored_A if factor is loaded.pair.a else loaded.stored_B
    bad = ~np.isfinite(decode(words))
    if not bad.any():
        return None
    where = [int(position) for position in np.argwhere(bad)[0]]
    return f"{factor.tensor}: {int(bad.sum()):,} of {bad.size:,} values are NaN or infinite, the first at {where}"


# ---------------------------------------------------------------- the whole report


def _assemble(opened: Adapter, digest: str, facts: Facts, tau: float, watch: Stopwatch) -> AuditReport:
    layers = facts.layers
    trained = [layer for layer in layers if layer.status == "ok"]
    return AuditReport(
        adapter=_adapter_info(opened, digest, layers),
        total_lora_params=sum(layer.params for layer in layers),
        coverage=_coverage(opened),
        n_layers=len(layers),
        n_trained=len(trained),
        tau=tau,
        **_summary(trained),
        by_type=_by_type(layers),
        gain=_gain(trained),
        evidence={},
        layers=tuple(layers),
        findings=find(facts),
        run=watch.run_info(),
    )


def _with_suggestions(report: AuditReport, grid: Sequence[int]) -> AuditReport:
    """The report with the ranks that its modules suggest, where some may be suggested."""
    suggestions = suggest(report, grid)
    if suggestions is None:
        return report
    return report.model_copy(
        update={
            "suggestions": suggestions,
            "suggested_r_global_median": suggestions.median.rank,
            "suggested_r_global_90": suggestions.p90.rank,
            "evidence": {
                "weight_energy": (
                    f"fewest directions that hold {report.tau:.6g} of the squared singular values of each module. "
                    "Crude: it ignores what the directions do to the model's output. A hypothesis to test, not a "
                    "promise"
                )
            },
        }
    )


def _adapter_info(opened: Adapter, digest: str, layers: Sequence[LayerAudit]) -> AdapterInfo:
    config = opened.config
    common: dict[str, Any] = {
        "path": path_text(opened.location.path),
        "sha256": digest,
        "bytes": opened.bytes,
        "dtypes": tuple(sorted({layer.dtype for layer in layers})),
        "adapter_name": opened.adapter_name,
    }
    if config is None:
        return AdapterInfo(format="safetensors", **common)
    return AdapterInfo(
        format="peft",
        base_model=config.base_model,
        r=config.r,
        lora_alpha=config.lora_alpha,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        init=config.init,
        task_type=config.task_type,
        peft_type=config.peft_type,
        peft_version=config.peft_version,
        settings=settings_of(config),
        **common,
    )


def _coverage(opened: Adapter) -> Coverage:
    audited = sum(pair.params for pair in opened.pairs)
    other = sum(note.params for note in opened.other)
    unaudited = sum(note.params for note in opened.unaudited)
    entries = list(opened.entries())
    return Coverage(
        tensors=len(entries),
        params=sum(entry.params for _, entry in entries),
        audited_params=audited,
        other_params=other,
        unaudited_params=unaudited,
        other=_notes(opened.other),
        unaudited=_notes(opened.unaudited),
    )


def _notes(notes: Iterable[Note]) -> tuple[TensorNote, ...]:
    return tuple(
        TensorNote(tensor=note.tensor, reason=note.reason, params=note.params) for note in sorted(notes)
    )


def _values(layers: Iterable[LayerAudit], name: str) -> list[float]:
    return [value for layer in layers if (value := getattr(layer, name)) is not None]


def _summary(trained: Sequence[LayerAudit]) -> dict[str, Any]:
    """Means, medians and percentiles over the trained modules; nothing where there are none."""
    if not trained:
        return {}
    stable = _values(trained, "stable_rank")
    weights = [layer.params for layer in trained]
    found: dict[str, float | None] = {
        "stable_rank_mean": fmean(stable),
        "stable_rank_median": median(stable),
        "stable_rank_weighted_mean": fmean(stable, weights),
        "effective_rank_mean": fmean(_values(trained, "effective_rank")),
        "utilization_mean": fmean(_values(trained, "utilization")),
        "utilization_median": median(_values(trained, "utilization")),
    }
    for name in ("rank_use", "null_position"):
        values = _values(trained, name)
        found[f"{name}_median"] = median(values) if values else None
    for percent in (90, 95, 99):
        energy_ranks = _values(trained, f"energy_rank_{percent}")
        found[f"energy_rank_{percent}_p50"] = float(ranks.percentile(energy_ranks, 50))
        found[f"energy_rank_{percent}_p90"] = float(ranks.percentile(energy_ranks, 90))
    return found


def _by_type(layers: Sequence[LayerAudit]) -> dict[Any, TypeSummary]:
    found = {}
    for kind in ("attn", "mlp", "embedding", "other"):
        members = [layer for layer in layers if layer.module_type == kind]
        if not members:
            continue
        summary = _summary([layer for layer in members if layer.status == "ok"])
        found[kind] = TypeSummary(
            n_layers=len(members),
            params=sum(layer.params for layer in members),
            stable_rank_mean=summary.get("stable_rank_mean"),
            utilization_mean=summary.get("utilization_mean"),
            energy_rank_90_p50=summary.get("energy_rank_90_p50"),
            energy_rank_90_p90=summary.get("energy_rank_90_p90"),
        )
    return found


def _gain(trained: Sequence[LayerAudit]) -> Gain | None:
    """Norms and where the energy sits; None where some scale is unknown or everything is 0."""
    if not trained or any(layer.fro_norm is None for layer in trained):
        return None
    norms = {layer.label: layer.fro_norm or 0.0 for layer in trained}
    peak = max(norms.values())
    if peak == 0.0:
        return None
    # Energies relative to the largest norm: squares of norms beyond 1e154 would overflow.
    energies = [(norm / peak) ** 2 for norm in norms.values()]
    total = sum(energies)
    per_layer: dict[str, float] = defaultdict(float)
    for layer, energy in zip(trained, energies, strict=True):
        per_layer[layer.layer or "(outside the layers)"] += energy
    shares = {name: energy / total for name, energy in per_layer.items()}
    ordered = sorted(zip(norms, energies, strict=True), key=lambda item: -item[1])
    top = ordered[: max(1, round(len(ordered) / 10))]
    largest = float(np.finfo(np.float64).max)
    return Gain(
        fro_norm_total=min(peak * total**0.5, largest),
        sigma_max=max(layer.sigma_max or 0.0 for layer in trained),
        per_layer=tuple(
            LayerGain(layer=name, energy=min(per_layer[name] * peak * peak, largest), share=share)
            for name, share in shares.items()
        ),
        top_modules=tuple(name for name, _ in ordered[:10]),
        top_modules_share=sum(energy for _, energy in top) / total,
        hhi=sum(share * share for share in shares.values()),
    )
