"""The audit: an adapter on disk -> AuditReport. No base model, no torch, one module a worker in memory.

A new measure is a function here or in `spectra`, a line in `MEASURES`, and its field in `reports.audit.LayerAudit`.
"""

import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np

from gradience import ranks, spectra
from gradience.adapters import adapter as adapters
from gradience.adapters.config import PeftConfig, is_understood
from gradience.adapters.formats import open_adapter
from gradience.adapters.keys import MODULE_TYPES, ModuleType, family_of, layer_of, module_type
from gradience.adapters.settings import WorkSettings
from gradience.adapters.tensors import decode, type_names
from gradience.audit.findings import AdapterFacts, find
from gradience.audit.options import AuditSettings
from gradience.blas import map_in_order, worker_threads
from gradience.errors import InputError, UsageError
from gradience.files.shared_names import path_text
from gradience.files.whole import already_exists
from gradience.plan.criteria import with_suggestions
from gradience.reports import audit as reports
from gradience.reports.audit import AuditReport, LayerAudit
from gradience.reports.base.report import Stopwatch, hub_source
from gradience.settings import public
from gradience.spectra import FloatArray, Spectrum, null_stable_rank

TAUS = (0.90, 0.95, 0.99)


@dataclass(frozen=True)
class Update:
    """A trained module. values: singular values of B·A up to a factor, descending, values[0] > 0.

    rank: as allocated.   shape: (m, n).   tau: energy threshold of the audit.
    """

    values: FloatArray
    rank: int
    shape: tuple[int, int]
    tau: float

    @cached_property
    def stable_rank(self) -> float:
        """Σσ²/σ₁², which several measures rest on."""
        return spectra.stable_rank(self.values)

    @cached_property
    def held(self) -> FloatArray:
        """Shares of the energy that the leading 1, 2, … directions hold."""
        return spectra.cumulative_energy(self.values)

    @cached_property
    def null_stable_rank(self) -> float:
        """The stable rank of random factors of these shapes."""
        return null_stable_rank(self.rank, *self.shape)


def rank_use(update: Update) -> float | None:
    """(stable rank − 1)/(r − 1); None at r = 1."""
    return (update.stable_rank - 1) / (update.rank - 1) if update.rank > 1 else None


def null_position(update: Update) -> float | None:
    """(stable rank − 1)/(stable rank of random factors − 1); None if the latter is 1."""
    null = update.null_stable_rank
    return (update.stable_rank - 1) / (null - 1) if null > 1 else None


MEASURES: Mapping[str, Callable[[Update], Any]] = {
    "stable_rank": lambda update: update.stable_rank,
    "effective_rank": lambda update: spectra.effective_rank(update.values),
    "utilization": lambda update: update.stable_rank / update.rank,
    "rank_use": rank_use,
    "null_stable_rank": lambda update: update.null_stable_rank,
    "null_position": null_position,
    "energy_rank_90": lambda update: spectra.rank_that_holds(update.held, 0.90),
    "energy_rank_95": lambda update: spectra.rank_that_holds(update.held, 0.95),
    "energy_rank_99": lambda update: spectra.rank_that_holds(update.held, 0.99),
    "energy_rank_tau": lambda update: spectra.rank_that_holds(update.held, update.tau),
    "energy_margin": lambda update: spectra.energy_margin(update.values, (*TAUS, update.tau)),
}
"""Field of a row -> its measure."""


STORAGE_SHARE = 4.0
"""Relative change of the stable rank in unit roundoffs of the storage type over √min(m, n).

Rounding errors of the entries average out over the rows. Measured: 3.9 at most in normal ranges; see docs/measures.md
and benchmarks/storage_rounding.py.
"""


class Measured(NamedTuple):
    """The rows of one pair, and a sentence per factor that holds NaN or infinity."""

    rows: list[LayerAudit]
    nonfinite: list[str]


def spectrum_of(loaded: adapters.LoadedPair, expert: int = 0) -> Spectrum:
    """The singular values of B·A of one expert. Raises NonFiniteFactor."""
    pair = loaded.pair
    wide = pair.rank > min(pair.rows, pair.columns)
    return spectra.spectrum(loaded.blocks_A(expert), loaded.blocks_B(expert), wide=wide)


def measure_pair(pair: adapters.LoraPair, tau: float) -> Measured:
    """Rows of one pair: one, or one per expert. Raises InputError when the file cannot be read."""
    loaded = pair.load()
    rows, nonfinite = [], []
    layer, index = layer_of(pair.module)
    known: dict[str, Any] = {
        "name": pair.module,
        "module_type": module_type(pair.module, embedding=pair.kind == "embedding"),
        "family": family_of(pair.module),
        "layer": layer,
        "layer_index": index,
        "kind": pair.kind,
        "groups": pair.groups,
        "r": pair.rank,
        "declared_r": pair.declared_rank,
        "alpha": pair.alpha,
        "scale": pair.scale,
        "shape": (pair.rows, pair.columns),
        "params": pair.params // pair.experts,
        "bytes": pair.bytes // pair.experts,
        "dtype": type_names(pair.a.entry.dtype, pair.b.entry.dtype),
    }
    for expert in range(pair.experts):
        known["expert"] = expert if pair.kind == "expert" else None
        try:
            rows.append(_row(pair, spectrum_of(loaded, expert), tau, known))
        except spectra.NonFiniteFactor:
            for factor, words in ((pair.a, loaded.stored_A), (pair.b, loaded.stored_B)):
                bad = ~np.isfinite(decode(words))
                if bad.any():
                    first = [int(position) for position in np.argwhere(bad)[0]]
                    share = f"{int(bad.sum()):,} of {bad.size:,} values are NaN or infinite"
                    nonfinite.append(f"{factor.tensor}: {share}, the first at {first}")
            rows.append(LayerAudit(status="nonfinite", **known))
    return Measured(rows, list(dict.fromkeys(nonfinite)))


def _row(pair: adapters.LoraPair, measured: Spectrum, tau: float, known: dict[str, Any]) -> LayerAudit:
    if measured.error_bound >= 1:
        bound = measured.error_bound if math.isfinite(measured.error_bound) else None
        return LayerAudit(
            status="unsupported", method=measured.method, eta=measured.eta, error_bound=bound, **known
        )
    if measured.values[0] == 0.0:
        return LayerAudit(status="untrained", method=measured.method, **known)
    update = Update(measured.values, pair.rank, (pair.rows, pair.columns), tau)
    measures = {name: measure(update) for name, measure in MEASURES.items()}
    storage = _storage_error(pair, measured)
    sigma = measured.scaled(1.0 if pair.scale is None else pair.scale)
    # σ₁·√(stable rank) and not a sum of squares, which leaves the range of float64 at half the exponent.
    fro_norm = float(sigma[0]) * math.sqrt(update.stable_rank)
    has_norm = pair.scale is not None and math.isfinite(fro_norm)
    return LayerAudit(
        status="ok",
        **measures,
        borderline=measures["energy_margin"] <= storage + measured.energy_error + spectra.ENERGY_SLACK,
        sigma_max=float(sigma[0]) if has_norm else None,
        fro_norm=fro_norm if has_norm else None,
        singular_values=tuple(sigma.tolist()) if np.isfinite(sigma).all() else (),
        method=measured.method,
        eta=measured.eta,
        error_bound=measured.error_bound,
        storage_error=storage,
        **known,
    )


def _storage_error(pair: adapters.LoraPair, measured: Spectrum) -> float:
    """Return what rounding the factors to their storage type may have done to the stable rank (relative, at most 1).

    Where entries are as small as the type's smallest value (fp8), they were rounded to a fixed step, and whole
    directions may be gone. A typical figure and no bound: it assumes that no single entry dominates.
    """
    rounding, steps = [], []
    for factor, size in zip((pair.a, pair.b), measured.rms, strict=True):
        dtype = factor.entry.dtype
        steps.append(min(1.0, dtype.smallest / (2 * size)) if size > 0 else 1.0)
        rounding.append(dtype.unit_roundoff + steps[-1])
    average = STORAGE_SHARE * max(rounding) / math.sqrt(min(pair.rows, pair.columns))
    # The energy that the errors themselves add, and the energy that is gone, do not average out.
    return min(1.0, average + max(rounding) ** 2 + max(steps) ** 2)


# ---------------------------------------------------------------- the adapter

SETTINGS: Mapping[str, object] = {
    "bias": "none",
    "lora_dropout": 0,
    "modules_to_save": None,
    "exclude_modules": None,
    "target_parameters": None,
    "fan_in_fan_out": False,
    "lora_bias": False,
    "trainable_token_indices": None,
    "ensure_weight_tying": False,
    "layer_replication": None,
    "alora_invocation_tokens": None,
}
"""Fields of LoraConfig that a new training run needs -> the default of PEFT 0.21."""
MAX_SETTING = 20_000
"""Characters of a setting in a report. Strangers' configs had at most a few dozen names in one."""


def settings_of(config: PeftConfig) -> dict[str, reports.Setting]:
    """Return the fields of SETTINGS with another value than the default that PEFT 0.21 understands."""
    settings = {}
    for name, default in SETTINGS.items():
        value = config.fields.get(name)
        if value and value != default and is_understood(name, value) and len(json.dumps(value)) < MAX_SETTING:
            settings[name] = value
    if config.init == "gaussian":
        settings["init_lora_weights"] = config.init
    return settings


def _values(layers: Iterable[LayerAudit], name: str) -> list[float]:
    return [value for layer in layers if (value := getattr(layer, name)) is not None]


def summary_of(trained: Sequence[LayerAudit]) -> dict[str, Any]:
    """Return means, medians and percentiles over the trained modules; empty if there are none."""
    if not trained:
        return {}
    stable = _values(trained, "stable_rank")
    weights = [layer.params for layer in trained]
    measures: dict[str, float | None] = {
        "stable_rank_mean": fmean(stable),
        "stable_rank_median": median(stable),
        "stable_rank_weighted_mean": fmean(stable, weights),
        "effective_rank_mean": fmean(_values(trained, "effective_rank")),
        "utilization_mean": fmean(_values(trained, "utilization")),
        "utilization_median": median(_values(trained, "utilization")),
    }
    for name in ("rank_use", "null_position"):
        values = _values(trained, name)
        measures[f"{name}_median"] = median(values) if values else None
    for percent in (90, 95, 99):
        energy_ranks = _values(trained, f"energy_rank_{percent}")
        measures[f"energy_rank_{percent}_p50"] = float(ranks.percentile(energy_ranks, 50))
        measures[f"energy_rank_{percent}_p90"] = float(ranks.percentile(energy_ranks, 90))
    return measures


OF_A_TYPE = ("stable_rank_mean", "utilization_mean", "energy_rank_90_p50", "energy_rank_90_p90")
"""Figures of a summary that are given for each type of module, too."""


def summary_by_type(layers: Sequence[LayerAudit]) -> dict[ModuleType, reports.TypeSummary]:
    summaries = {}
    for kind in MODULE_TYPES:
        members = [layer for layer in layers if layer.module_type == kind]
        if not members:
            continue
        summary = summary_of([layer for layer in members if layer.status == "ok"])
        named = {name: summary.get(name) for name in OF_A_TYPE}
        params = sum(layer.params for layer in members)
        summaries[kind] = reports.TypeSummary(n_layers=len(members), params=params, **named)
    return summaries


def gain_of(trained: Sequence[LayerAudit]) -> reports.Gain | None:
    """Return norms and the distribution of the energy; None if a scale is unknown or everything is 0."""
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
    largest = float(np.finfo(np.float64).max)
    return reports.Gain(
        fro_norm_total=min(peak * total**0.5, largest),
        sigma_max=max(layer.sigma_max or 0.0 for layer in trained),
        per_layer=tuple(
            reports.LayerGain(layer=name, energy=min(per_layer[name] * peak * peak, largest), share=share)
            for name, share in shares.items()
        ),
        hhi=sum(share * share for share in shares.values()),
    )


def _check_run(run: Path) -> None:
    """Refuse to append to a file that is not a run: a mistyped name, or a link to another kind of file."""
    from gradience.telemetry import last_position

    if not run.is_file():
        raise UsageError(
            f"{run}: no such file to append to",
            code="no-run",
            hint="give the run.jsonl that GradienceCallback wrote",
        )
    if run.stat().st_size and last_position(run) is None:
        raise InputError(
            f"{run}: contains no telemetry records, so nothing is appended",
            code="run-empty",
            hint="give the run.jsonl that GradienceCallback or TelemetryWriter wrote",
        )


def _append(report: AuditReport, run: Path) -> None:
    """Append a `metrics` record of kind `lora_audit` under the id and the last step of the run."""
    from gradience.telemetry import TelemetryWriter, last_position

    run_id, step = last_position(run) or (None, None)
    single = {name: value for name, value in report if isinstance(value, (int, float)) or value is None}
    types = {name: summary.model_dump() for name, summary in report.by_type.items()}
    writer = TelemetryWriter(run, run_id=run_id)
    try:
        writer.metrics(
            "lora_audit", step, {**single, "by_type": types, "adapter_sha256": report.adapter.sha256}
        )
    finally:
        writer.close()


@public(AuditSettings)
def audit_adapter(settings: AuditSettings) -> AuditReport:
    """Measure how much of its rank an adapter uses, and return the report.

    >>> report = audit_adapter("my_adapter")
    >>> report.n_layers, report.energy_rank_90_p90, report.suggested_r_global_90
    (16, 5.0, 8)

    Keywords, named like the flags of `gradience audit`:

    Raises InputError when there is nothing to audit, UsageError for an invalid tau or rank, WrongType (a
    TypeError too) for an argument of another type.
    Modules that cannot be measured do not raise: they are rows with a status, findings, and coverage.
    """
    output = settings.output
    if output is not None and not settings.force and os.path.lexists(output):
        raise already_exists(Path(output))
    if settings.append is not None:
        _check_run(Path(settings.append))
    allowed = sorted(set(settings.allowed_ranks or ranks.DEFAULT_GRID))
    with open_adapter(
        Path(settings.path),
        adapter=settings.adapter,
        allow_pickle=settings.allow_pickle,
    ) as opened:
        report = audit_opened(opened, settings, tau=settings.tau, allowed=allowed)
        if settings.base_model is not None:
            from gradience.audit.dominance import with_base

            name = settings.base_name or str(settings.base_model)
            report = with_base(
                report, Path(settings.base_model), opened, name=name, progress=settings.progress
            )
    if output is not None:
        report.save(output)
    if settings.append is not None:
        _append(report, Path(settings.append))
    return report


def audit_opened(
    opened: adapters.Adapter,
    settings: WorkSettings | None = None,
    *,
    tau: float = 0.9,
    allowed: Sequence[int] = ranks.DEFAULT_GRID,
) -> AuditReport:
    """Measure an adapter that is open."""
    settings = settings or WorkSettings()
    watch = Stopwatch(settings.command)
    work = ((pair, adapters.measure_bytes(pair)) for pair in opened.pairs)
    fitting = adapters.workers_within(settings.max_memory, [opened], work, settings.workers)
    with worker_threads(fitting) as pool:
        digest = pool.submit(opened.sha256)
        measured = map_in_order(pool, partial(measure_pair, tau=tau), opened.pairs, settings.progress)
    facts = AdapterFacts(
        layers=tuple(row for item in measured for row in item.rows),
        adapter=opened,
        nonfinite=[sentence for item in measured for sentence in item.nonfinite],
    )
    layers = facts.layers
    trained = [layer for layer in layers if layer.status == "ok"]
    entries = list(opened.entries())
    report = AuditReport(
        adapter=_adapter_info(opened, digest.result(), layers),
        total_lora_params=sum(layer.params for layer in layers),
        coverage=reports.Coverage(
            tensors=len(entries),
            params=sum(entry.params for _, entry in entries),
            audited_params=opened.lora_params,
            other_params=sum(note.params for note in opened.other),
            unaudited_params=sum(note.params for note in opened.unaudited),
            other=_notes(opened.other),
            unaudited=_notes(opened.unaudited),
        ),
        n_layers=len(layers),
        n_trained=len(trained),
        tau=tau,
        **summary_of(trained),
        by_type=summary_by_type(layers),
        gain=gain_of(trained),
        evidence={},
        layers=tuple(layers),
        findings=find(facts),
        run=watch.run_info(),
    )
    return with_suggestions(report, allowed)


def _adapter_info(opened: adapters.Adapter, digest: str, layers: Sequence[LayerAudit]) -> reports.AdapterInfo:
    config = opened.config
    common: dict[str, Any] = {
        "format": opened.format,
        "path": path_text(opened.location.path),
        "sha256": digest,
        "bytes": opened.bytes,
        "dtypes": tuple(sorted({layer.dtype for layer in layers})),
        "adapter_name": opened.adapter_name,
        "source": hub_source(opened.source),
        "pickle": opened.pickle is not None,
    }
    if config is None:
        return reports.AdapterInfo(**common)
    return reports.AdapterInfo(
        base_model=None if config.base_model is None else path_text(config.base_model),
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


def _notes(notes: Iterable[adapters.SkippedTensor]) -> tuple[reports.TensorNote, ...]:
    return tuple(
        reports.TensorNote(tensor=note.tensor, reason=note.reason, params=note.params)
        for note in sorted(notes)
    )
