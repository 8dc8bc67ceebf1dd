"""Reports made by hand: spectra that a formula gives, in the shapes of real models."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gradience import ranks
from gradience.adapters.keys import family_of
from gradience.audit.adapter import MEASURES, Update, gain_of, summary_by_type, summary_of
from gradience.plan.criteria import with_suggestions
from gradience.reports.audit import AdapterInfo, AuditReport, Coverage, LayerAudit, TensorNote
from gradience.reports.base.report import Finding, RunInfo

MISTRAL = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096),
    "mlp.up_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336),
}
"""[m, n] of the seven projections of Mistral-7B."""
TAU = 0.90
RUN = RunInfo(
    gradience_version="0.1.0",
    command="gradience audit ./my-adapter",
    started="2026-01-02T03:04:05Z",
    seconds=1.5,
    python="3.11.7",
    numpy="2.4.6",
    platform="linux",
    cpu_count=2,
)


def power_law(r: int, exponent: float, size: float = 1.0) -> np.ndarray:
    """σ_i = size · i^-exponent."""
    return size * np.arange(1, r + 1, dtype=np.float64) ** -exponent


def row(
    name: str,
    sigma: np.ndarray | None,
    *,
    r: int,
    shape: tuple[int, int],
    layer: str | None = None,
    index: int | None = None,
    alpha: float | None = 128.0,
    scale: float | None = 2.0,
    status: str = "ok",
    tau: float = TAU,
    **more: Any,
) -> LayerAudit:
    """One module with the measures of `sigma`."""
    m, n = shape
    facts: dict[str, Any] = {
        "name": name,
        "module_type": "mlp" if "mlp" in name else "attn" if "attn" in name else "other",
        "family": family_of(name),
        "layer": layer,
        "layer_index": index,
        "kind": "linear",
        "r": r,
        "declared_r": r,
        "alpha": alpha,
        "scale": scale,
        "shape": shape,
        "params": r * (m + n),
        "bytes": 2 * r * (m + n),
        "dtype": "BF16",
        "status": status,
    }
    if sigma is not None:
        update = Update(sigma, r, shape, tau)
        facts |= {name: measure(update) for name, measure in MEASURES.items()}
        facts |= {
            "sigma_max": float(sigma[0]) if scale else None,
            "fro_norm": float(np.linalg.norm(sigma / sigma.max()) * sigma.max()) if scale else None,
            "singular_values": tuple(map(float, sigma)),
            "method": "gram",
            "eta": 1.3,
            "error_bound": 3.1e-13,
            "storage_error": 7.4e-5,
        }
    return LayerAudit(**(facts | more))


def mistral_rows(layers: int = 32, r: int = 64) -> list[LayerAudit]:
    """Sharper spectra in early layers and in k and v, flatter ones in the MLP and in late layers."""
    kinds = list(MISTRAL.items())
    return [
        row(
            f"model.layers.{i}.{kind}",
            power_law(r, 1.5 - 0.9 * i / layers - 0.05 * j, size=0.4 + 0.05 * i + 0.1 * j),
            r=r,
            shape=shape,
            layer=f"model.layers.{i}",
            index=i,
        )
        for i in range(layers)
        for j, (kind, shape) in enumerate(kinds)
    ]


def report(
    rows: Sequence[LayerAudit],
    *,
    path: str = "./my-adapter",
    findings: Iterable[Finding] = (),
    other: Sequence[TensorNote] = (),
    unaudited: Sequence[TensorNote] = (),
    suggest: bool = True,
    tau: float = TAU,
    grid: Sequence[int] = ranks.DEFAULT_GRID,
    adapter: dict[str, Any] | None = None,
    with_gain: bool = True,
) -> AuditReport:
    """The report over `rows`, with totals that agree with them."""
    params = sum(layer.params for layer in rows)
    trained = [layer for layer in rows if layer.stable_rank is not None]
    other_params, lost = sum(note.params for note in other), sum(note.params for note in unaudited)
    info = {
        "path": path,
        "format": "peft",
        "sha256": "3f9a1c0de27b" + "0" * 52,
        "bytes": sum(layer.bytes for layer in rows) + 2 * (other_params + lost) + 4096,
        "dtypes": ("BF16",),
        "base_model": "mistralai/Mistral-7B-v0.1",
        "r": rows[0].r if rows else None,
        "lora_alpha": 128.0,
        "task_type": "CAUSAL_LM",
        "peft_type": "LORA",
        "peft_version": "0.18.0",
    } | (adapter or {})
    audited = AuditReport(
        adapter=AdapterInfo(**info),
        total_lora_params=params,
        coverage=Coverage(
            tensors=2 * len(rows) + len(other) + len(unaudited),
            params=params + other_params + lost,
            audited_params=params,
            other_params=other_params,
            unaudited_params=lost,
            other=tuple(other),
            unaudited=tuple(unaudited),
        ),
        n_layers=len(rows),
        n_trained=len(trained),
        tau=tau,
        **summary_of(trained),
        by_type=summary_by_type(rows),
        gain=gain_of(trained) if with_gain else None,
        evidence={"weight_energy": "energy of the singular values of each module's update"},
        layers=tuple(rows),
        findings=tuple(findings),
        run=RUN,
    )
    return with_suggestions(audited, grid) if suggest else audited


def small_report(*spectra: list[float], shapes=((8, 8), (8, 24), (40, 8)), **more):
    """One module for each spectrum."""
    rows = [
        row(f"model.layers.{i}.attn.q_proj", np.array(sigma), r=len(sigma), shape=shapes[i % len(shapes)])
        for i, sigma in enumerate(spectra)
    ]
    return report(rows, with_gain=False, **more)
