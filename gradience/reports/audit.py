"""`audit.json`: the measures of an adapter, by module and overall.

For definitions see docs/measures.md. A measure that does not exist is null, never 0: an untrained module has no
stable rank.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from statistics import median
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gradience.adapters.config import HEADS_OF_TASK
from gradience.adapters.formats import words_of
from gradience.adapters.keys import MODULE_TYPES, Kind, ModuleType, config_name, ends_with
from gradience.adapters.locate import natural_key
from gradience.files.artifact import Float12, Floats12, Part, artifact_row
from gradience.ranks import percentile
from gradience.reports.base import blocks as doc
from gradience.reports.base.modules import by_kind, layer_map, short_labels
from gradience.reports.base.names import display_name
from gradience.reports.base.numbers import (
    DIGITS,
    MISSING,
    count,
    digits_for,
    max_lora_rank,
    number_range,
    percent,
    plural,
    sig,
    size,
    trimmed,
)
from gradience.reports.base.report import SEVERITIES, Finding, HubSource, Plots, Report, RunInfo, commit_of
from gradience.reports.plots.plot import Axis, Image, Lines, Plot, Reference
from gradience.spectra import FloatArray, cumulative_energy
from gradience.words import listed

Status = Literal["ok", "untrained", "nonfinite", "unsupported"]
Setting = bool | int | float | str | list[str] | list[int] | list[list[int]] | dict[str, list[int]]
"""A value of adapter_config.json."""


class DoraChange(Part):
    """Change that a DoRA module makes to its weight: ΔW = m·(W + s·B·A)/‖W + s·B·A‖ − W."""

    magnitude: Float12
    """‖m − m₀‖₂/‖m₀‖₂, with m₀ the norms of the rows of W."""
    fro_norm: Float12
    """‖ΔW‖_F."""
    sigma_max: Float12
    """‖ΔW‖₂, with the same relative error as ‖W‖₂."""


class Dominance(Part):
    """One module or one of its experts, compared with the base weight."""

    name: str
    weight_norm: Float12
    """‖W‖_F."""
    weight_sigma_max: Float12
    """‖W‖₂, underestimated by at most the relative `tolerance` of the comparison."""
    spectral: Float12
    """‖ΔW‖₂/‖W‖₂."""
    frobenius: Float12
    """‖ΔW‖_F/‖W‖_F."""
    dora: DoraChange | None = None
    """Null if the update is s·B·A; otherwise both ratios use this update."""


class NotCompared(Part):
    """A module whose base weight was not read, with the reason."""

    name: str
    reason: str


class BaseComparison(Part):
    """The update compared with the weights of the base model."""

    base: str
    """The base model as given on the command line."""
    tolerance: Float12
    """Relative error of every ‖W‖₂."""
    spectral_median: Float12 | None
    spectral_p90: Float12 | None
    frobenius_median: Float12 | None
    frobenius_p90: Float12 | None
    modules: tuple[Dominance, ...]
    not_compared: tuple[NotCompared, ...]


class AdapterInfo(Part):
    """The adapter as found on disk, with the settings of its config."""

    path: str
    """Source of the adapter: a path, or a repository name on the hub."""
    format: str
    """`peft` (a folder with adapter_config.json) or `safetensors` (a single file without a config)."""
    sha256: str
    """Digest of the weight file; for shards, the digest of their digests in the order of their names."""
    bytes: int
    """Size of the weights on disk, in bytes."""
    dtypes: tuple[str, ...] = ()
    """Storage types of the LoRA factors, as safetensors names them."""
    adapter_name: str | None = None
    """The adapter name in the tensor keys, if there is one (`lora_A.<name>.weight`)."""
    base_model: str | None = None
    """`base_model_name_or_path`. It is only shown, never opened."""
    r: int | None = None
    """Rank declared in the config. The ranks of the tensors are in `layers[].r`."""
    lora_alpha: float | None = None
    use_rslora: bool = False
    use_dora: bool = False
    init: str = "true"
    """`init_lora_weights` as written."""
    task_type: str | None = None
    peft_type: str | None = None
    peft_version: str | None = None
    source: HubSource | None = None
    """Hub repository and revision; null for an adapter on disk."""
    pickle: bool = False
    """True if the weights were read from a pickle, in a separate process."""
    settings: dict[str, Setting] = Field(default_factory=dict)
    """Other settings of the config that a new training run needs: `modules_to_save`, `bias`, `lora_dropout` …"""


class TensorNote(Part):
    """A tensor that was not audited, with the reason."""

    tensor: str
    reason: str
    params: int


class Coverage(Part):
    """Every tensor of the file, in exactly one of three groups. The parameter counts add up to the total."""

    tensors: int
    """Tensors in the file."""
    params: int
    """Parameters in the file: audited + other + unaudited."""
    audited_params: int
    """Parameters of the LoRA factors that were measured."""
    other_params: int
    """Parameters of known tensors that are not low-rank updates (heads, biases, magnitudes, saved modules)."""
    unaudited_params: int
    """Parameters of unknown tensors, or of tensors that could not be measured."""
    other: tuple[TensorNote, ...] = ()
    unaudited: tuple[TensorNote, ...] = ()


@artifact_row
class LayerAudit:
    """One LoRA module (or one expert of a stacked module). Shapes: A (r, n), B (m, r), ΔW = s·B·A (m, n)."""

    name: str
    """Path inside the base model, e.g. `model.layers.0.self_attn.q_proj`."""
    module_type: ModuleType
    family: str
    """The path below the layer, with expert numbers as `*`, e.g. `self_attn.q_proj`. Modules of one family are compared
    across layers."""
    layer: str | None
    """Path of its transformer layer, e.g. `model.layers.0`; null outside the layers."""
    layer_index: int | None
    kind: Kind
    expert: int | None = None
    """Index of the expert, if one tensor stacks several."""
    groups: int = 1
    """Groups of a grouped convolution (its B is block-diagonal)."""
    r: int
    """Allocated rank: the inner dimension of the tensors."""
    declared_r: int | None = None
    """Rank of this module according to `r` and `rank_pattern` in the config."""
    alpha: float | None = None
    scale: Float12 | None = None
    """s = α/r, or α/√r with rsLoRA; null if α is unknown."""
    shape: tuple[int, int]
    """[m, n] of ΔW."""
    params: int
    bytes: int
    dtype: str
    status: Status
    stable_rank: Float12 | None = None
    """Σσ²/σ₁²."""
    effective_rank: Float12 | None = None
    """exp of the entropy of σ/Σσ (Roy & Vetterli 2007)."""
    utilization: Float12 | None = None
    """stable rank / r. On real adapters it mostly measures 1/r; rank_use corrects for this."""
    rank_use: Float12 | None = None
    """(stable rank − 1)/(r − 1): 0 for one direction, 1 for r equal ones; null at r = 1."""
    null_stable_rank: Float12 | None = None
    """Stable rank of random Gaussian factors of these shapes (mean over simulated draws)."""
    null_position: Float12 | None = None
    """(stable rank − 1)/(null stable rank − 1): near 1, the factors look random."""
    energy_rank_90: int | None = None
    """Smallest number of directions with at least 90 % of Σσ²."""
    energy_rank_95: int | None = None
    energy_rank_99: int | None = None
    energy_rank_tau: int | None = None
    """The same at the threshold `tau` of the report."""
    energy_margin: Float12 | None = None
    """Smallest distance between a threshold and the energy at its rank or one rank below."""
    borderline: bool = False
    """True if an energy rank could change within the error of computation or storage rounding."""
    sigma_max: Float12 | None = None
    """‖ΔW‖₂; null if α is unknown."""
    fro_norm: Float12 | None = None
    """‖ΔW‖_F; null if α is unknown."""
    singular_values: Floats12 = ()
    """σ of ΔW, descending (of B·A if α is unknown)."""
    method: Literal["gram", "qr"] | None = None
    """`gram`: Gram products and an eigenproblem; `qr`: QR of both factors and an SVD of the core."""
    eta: Float12 | None = None
    """‖A‖₂‖B‖₂/σ₁(BA) (an upper bound): the cancellation in the product."""
    error_bound: Float12 | None = None
    """Relative error of stable rank, effective rank and σ₁, excluding storage rounding."""
    storage_error: Float12 | None = None
    """Largest relative change of the stable rank from rounding the factors to their storage type."""

    @property
    def label(self) -> str:
        """The name, followed by the expert's number if one tensor stacks several: `…experts.down_proj[3]`."""
        return self.name if self.expert is None else f"{self.name}[{self.expert}]"


class Suggestion(Part):
    """One uniform rank for the whole adapter."""

    unrounded: Float12
    """Median or 90th percentile of the energy ranks, before rounding."""
    rank: int
    params: int
    """LoRA parameters at this rank (each module capped at its own rank)."""
    bytes: int
    reduction: Float12
    """1 − params / params now."""
    decided_by: Literal["evidence", "grid", "cap"]
    """`grid`: rounded up to an allowed rank. `cap`: limited by the allocated rank. `evidence`: unchanged."""
    max_lora_rank: int | None
    """Smallest max_lora_rank of vLLM that fits this rank; null above 512."""


class PerLayer(Part):
    """An explicit rank for every module, and the α that keeps its scale."""

    rank_pattern: dict[str, int]
    """Anchored, escaped keys as PEFT's LoraConfig reads them."""
    alpha_pattern: dict[str, int | float]
    """Empty if α is unknown."""
    r: int
    """The largest of the ranks: the value for `LoraConfig(r=…)`."""
    lora_alpha: int | float | None
    """α of a module with that rank."""
    params: int
    bytes: int
    reduction: Float12
    max_lora_rank: int | None


class Suggestions(Part):
    """Smaller ranks that are worth testing, from weight energy, a crude guide to accuracy."""

    tau: float
    """Energy threshold used: the `tau` of the report."""
    allowed_ranks: tuple[int, ...]
    """Ranks that may be suggested, up to the largest of the adapter."""
    current_max_rank: int
    current_max_lora_rank: int | None
    """max_lora_rank that vLLM needs for the adapter now."""
    median: Suggestion
    p90: Suggestion
    per_layer: PerLayer


class TypeSummary(Part):
    """Modules of one type."""

    n_layers: int
    params: int
    stable_rank_mean: Float12 | None
    utilization_mean: Float12 | None
    energy_rank_90_p50: Float12 | None
    energy_rank_90_p90: Float12 | None


class LayerGain(Part):
    """Energy of one transformer layer."""

    layer: str
    """Path of the layer; `(outside the layers)` for the rest."""
    energy: Float12
    """Σ‖ΔW‖_F² over its modules."""
    share: Float12


class Gain(Part):
    """Size of the update and its distribution over layers."""

    fro_norm_total: Float12
    """√Σ‖ΔW‖_F²."""
    sigma_max: Float12
    """Largest ‖ΔW‖₂ of a module."""
    per_layer: tuple[LayerGain, ...]
    hhi: Float12
    """Σ share² over layers: 1/L when even, 1 when one layer has all the energy."""


PLOTS: Plots = {
    "heatmap": "audit:heatmap_plot",
    "energy": "audit:energy_plot",
    "spectrum": "audit:spectrum_plot",
}


class AuditReport(Report):
    """`audit.json`: the use of rank of an adapter, by module.

    >>> report = audit_adapter("my_adapter")
    >>> AuditReport.read(report.save("audit.json")) == report
    True
    >>> len(report.to_dataframe())
    16
    """

    row_field: ClassVar[str] = "layers"
    repair: ClassVar[str] = "audit the adapter again: gradience audit ./my_adapter --output audit.json"
    plots: ClassVar[Plots] = PLOTS

    schema_: Literal["gradience.audit/3"] = "gradience.audit/3"
    adapter: AdapterInfo
    total_lora_params: int
    """Parameters of the audited A and B factors."""
    coverage: Coverage
    n_layers: int
    """LoRA modules (each expert of a stacked tensor counts)."""
    n_trained: int
    """Modules with a measurable update. Means and percentiles cover only these modules."""
    tau: float
    """Energy threshold of `energy_rank_tau` and of the suggestions."""
    stable_rank_mean: Float12 | None = None
    stable_rank_median: Float12 | None = None
    stable_rank_weighted_mean: Float12 | None = None
    """Weighted by parameters."""
    effective_rank_mean: Float12 | None = None
    utilization_mean: Float12 | None = None
    utilization_median: Float12 | None = None
    rank_use_median: Float12 | None = None
    null_position_median: Float12 | None = None
    energy_rank_90_p50: Float12 | None = None
    energy_rank_90_p90: Float12 | None = None
    energy_rank_95_p50: Float12 | None = None
    energy_rank_95_p90: Float12 | None = None
    energy_rank_99_p50: Float12 | None = None
    energy_rank_99_p90: Float12 | None = None
    suggested_r_global_median: int | None = None
    suggested_r_global_90: int | None = None
    suggestions: Suggestions | None = None
    """Null if no rank can be suggested (nothing trained, or B·A is not the update); `findings` has the reason."""
    by_type: dict[ModuleType, TypeSummary]
    gain: Gain | None = None
    """Null if the scale is unknown."""
    evidence: dict[str, str]
    """Evidence behind the suggestions, the best first."""
    base: BaseComparison | None = None
    """Null without the base model's weights."""
    layers: tuple[LayerAudit, ...]
    findings: tuple[Finding, ...]
    run: RunInfo

    def rank_pattern(self) -> dict[str, int]:
        """`rank_pattern` of the per-layer suggestion for PEFT's LoraConfig; empty without a suggestion."""
        return dict(self.suggestions.per_layer.rank_pattern) if self.suggestions else {}

    def screen(self, view: doc.View) -> doc.Document:
        """Return the sections in reading order."""
        return [block for section in SECTIONS for block in section(self, view)]


BESIDE_MAP, WIDEST_MAP = 46, 128
"""Terminal columns beside the cells of a map, and maximum columns of a map in a document."""
MEASURED_WORTH = (
    "Test a rank before you use it. Truncated to uniform_median or per_layer, 16 of the 18 adapters that we tested"
    " (MiniLM-L6, SmolLM2-135M) stayed within 2.5 points, typically with 4 to 6 times the parameters needed. The other"
    " two, with answers of 33 tokens, lost 8 to 11 points. Outside users tested three more. On one, they report that"
    " uniform_median lost 5.3 points."
)
"""Accuracy at the suggested ranks (docs/results/predicted_drop.md). "Typically": the median over adapters."""
SHOWN_FINDINGS = 6
"""Findings that a brief report lists."""


def audits_blocks(reports: Sequence[AuditReport]) -> doc.Document:
    """Return a table of several adapters, in the order given."""

    def flagged(report: AuditReport) -> str:
        codes = [finding.code for finding in report.findings if finding.severity != "info"]
        return ", ".join(dict.fromkeys(codes))

    table = doc.table_of(
        reports,
        (doc.Column("adapter"), lambda report: doc.Span(report.adapter.path, "name")),
        (doc.Column("rank", ">"), lambda report: number_range(layer.r for layer in report.layers)),
        (doc.Column("k@90", ">"), lambda report: doc.Span(trimmed(report.energy_rank_90_p50), "strong")),
        (doc.Column("90th pct", ">"), lambda report: trimmed(report.energy_rank_90_p90)),
        (doc.Column("stable rank", ">"), lambda each: sig(each.stable_rank_median, measure_digits(each))),
        (
            doc.Column("‖ΔW‖_F", ">", drop=1),
            lambda report: sig(report.gain.fro_norm_total if report.gain else None, measure_digits(report)),
        ),
        (
            doc.Column("uniform_median", ">", drop=2),
            lambda report: str(report.suggestions.median.rank) if report.suggestions else MISSING,
        ),
        (
            doc.Column("warnings", shown=any(map(flagged, reports))),
            lambda each: doc.Span(flagged(each), "warn"),
        ),
    )
    legend = (
        "k@90: directions with 90 % of the energy, median and 90th percentile; stable rank: median; ‖ΔW‖_F: size of the"
        " whole update"
    )
    return [doc.Heading(plural(len(reports), "adapter"), level=1), table, doc.dim(legend)]


# ---------------------------------------------------------------- shared by the sections


def trained_layers(report: AuditReport) -> list[LayerAudit]:
    """Return the modules that means and percentiles cover."""
    return [layer for layer in report.layers if layer.status == "ok"]


def k_label(threshold: float) -> str:
    """Return `k@90` for 0.90, `k@97.5` for 0.975."""
    return f"k@{100 * threshold:.6g}"


def energy_ranks_of(layer: LayerAudit, tau: float) -> dict[float, int | None]:
    """Return the energy rank at each threshold of a report with `tau`, the smallest threshold first."""
    ranks = {tau: layer.energy_rank_tau}
    ranks |= {0.90: layer.energy_rank_90, 0.95: layer.energy_rank_95, 0.99: layer.energy_rank_99}
    return dict(sorted(ranks.items()))


def measure_digits(report: AuditReport) -> int:
    """Return the number of digits that are reliable in the measures of all modules."""
    return min((layer_digits(layer) for layer in trained_layers(report)), default=DIGITS)


def layer_digits(layer: LayerAudit) -> int:
    """Return the number of digits that are reliable after storage rounding and the error of the computation."""
    return digits_for((layer.storage_error or 0.0) + (layer.error_bound or 0.0))


def incompleteness(report: AuditReport) -> str | None:
    """Return why the result is incomplete, in one sentence, or None if it is complete.

    Incomplete means: some tensor or module could not be measured, or nothing at all was trained.
    """
    statuses = Counter(layer.status for layer in report.layers)
    modules = plural(report.n_layers, "module")
    parts = []
    if statuses["nonfinite"]:
        parts.append(f"NaN or infinity in {count(statuses['nonfinite'])} of {modules}")
    if statuses["unsupported"]:
        parts.append(f"{count(statuses['unsupported'])} of {modules} could not be measured")
    if unaudited := report.coverage.unaudited:
        reasons = Counter(note.reason for note in unaudited)
        parts.append(
            f"{plural(len(unaudited), 'tensor')} ({count(report.coverage.unaudited_params)} parameters) "
            f"could not be audited: {listed([reason for reason, _ in reasons.most_common()], 2)}"
        )
    if report.n_layers and statuses["untrained"] == report.n_layers:
        which = "the only module is" if report.n_layers == 1 else f"all {count(report.n_layers)} modules are"
        parts.append(f"{which} untrained (ΔW = 0), so nothing was measured")
    return "; ".join(parts) or None


# ---------------------------------------------------------------- sections


def title_blocks(report: AuditReport, view: doc.View) -> list[doc.Block]:
    """Return the answer, the adapter with its rank and size, and findings."""
    adapter = report.adapter
    ranks = number_range(layer.r for layer in report.layers)
    kind = words_of(adapter.format) + (" (DoRA: magnitudes not included)" if adapter.use_dora else "")
    alphas = [layer.alpha for layer in report.layers if layer.alpha is not None]
    scales = [layer.scale for layer in report.layers if layer.scale is not None]
    scale = "α unknown"
    if alphas and scales:
        rule = "α/√r" if adapter.use_rslora else "α/r"
        scale = f"α {number_range(alphas)}, scale {rule} = {number_range(scales)}"
    types = "+".join(sorted({part.lower() for dtype in adapter.dtypes for part in dtype.split("+")}))
    parameters = f"{plural(report.n_layers, 'module')}, {count(report.total_lora_params)} LoRA parameters"
    weights, stored = size(sum(layer.bytes for layer in report.layers)), size(adapter.bytes)
    facts: list[doc.Fact] = [
        ("adapter", ", ".join([kind, f"rank {ranks}", scale, *commit_of(adapter.source)])),
        ("base model", doc.Span(adapter.base_model, "name") if adapter.base_model else "not named"),
        ("size", f"{parameters}: {weights} in {types}" + (f", file {stored}" if weights != stored else "")),
    ]
    return [
        doc.Heading(("Audit of ", doc.Span(adapter.path, "name")), level=1),
        doc.Paragraph(doc.Span(answer(report), "strong")),
        doc.Facts(facts),
        *finding_blocks(report, view),
    ]


def answer(report: AuditReport) -> str:
    """Return how many directions half of the modules need, and the rank that is worth testing."""
    trained = trained_layers(report)
    ks = [layer.energy_rank_tau for layer in trained if layer.energy_rank_tau is not None]
    if not ks:
        return "No module could be measured."
    k, share = int(median(ks)), f"{100 * report.tau:.6g} %"
    status = "" if len(trained) == report.n_layers else "measured "
    modules, most = f"The only {status}module keeps {share} of its update's energy in", ""
    if len(ks) > 1:
        modules = f"Half of the {count(len(ks))} {status}modules keep {share} of their update's energy in"
        most = "at most " if k > 1 else ""
    allocated = {layer.r for layer in trained}
    directions = f"{k} of {max(allocated)} directions"
    if len(allocated) > 1:
        directions = f"{plural(k, 'direction')} (of rank {number_range(allocated)})"
    plan = report.suggestions
    if plan is None:
        follows = "No smaller rank is suggested, for the reason below."
    elif plan.median.reduction > 0:
        saved = percent(plan.median.reduction)
        follows = f"Rank {plan.median.rank} is worth testing, with {saved} fewer LoRA parameters."
    elif plan.per_layer.reduction > 0:
        saved = percent(plan.per_layer.reduction)
        follows = f"Ranks per module are worth testing, with {saved} fewer LoRA parameters."
    else:
        follows = "No smaller rank is suggested."
    return f"{modules} {most}{directions}. {follows}"


def finding_blocks(report: AuditReport, view: doc.View) -> list[doc.Block]:
    """Return missing parts, errors and warnings, the worst first, each kind once; on request also information."""
    missing = incompleteness(report)
    notes = [doc.Note("error", f"Incomplete: {missing}")] if missing else []
    for severity in SEVERITIES if view.full else SEVERITIES[:2]:
        groups: dict[str, list[Finding]] = {}
        for finding in report.findings:
            if finding.severity == severity:
                groups.setdefault(finding.code, []).append(finding)
        for first, *others in groups.values():
            where = f"{first.module}: " if first.module and first.module not in first.message else ""
            repeats = f" (and {count(len(others))} more like this)" if others else ""
            text = f"{where}{first.message} ({first.code}){repeats}"
            notes.append(doc.Note(severity, text, [first.hint] if first.hint else []))
    shown = notes[: SHOWN_FINDINGS if view.brief and not view.full else None]
    rest = doc.more(len(notes) - len(shown), "more finding", ": --layers or --json")
    return [doc.Notes(shown), *rest]


def use_blocks(report: AuditReport, view: doc.View) -> list[doc.Block]:
    """Return energy ranks, stable rank and utilization over the trained modules."""
    trained = trained_layers(report)
    rows = []
    for threshold in sorted({report.tau, 0.90, *((0.95, 0.99) if view.full else ())}):
        label = k_label(threshold)
        ranks = [energy_ranks_of(layer, report.tau)[threshold] for layer in trained]
        rows.append(_spread(f"{label}: directions with {label[2:]} % of Σσ²", ranks, trimmed))
    digits = measure_digits(report)
    stable = [layer.stable_rank for layer in trained]
    rows.append(_spread("stable rank: Σσ²/σ₁²", stable, lambda value: sig(value, digits)))
    rows.append(_spread("utilization: stable rank / r", [layer.utilization for layer in trained], percent))
    return [doc.Heading("Use of rank"), doc.Table(SPREAD, rows if trained else ())]


SPREAD = (doc.Column("per module"), *(doc.Column(title, ">") for title in ("median", "90th pct", "max")))


def _spread(
    label: str, values: Sequence[float | None], show: Callable[[float], str]
) -> tuple[doc.Inline, ...]:
    """Return the median, the 90th percentile and the maximum of a measure of modules."""
    known = [value for value in values if value is not None]
    middle, high, top = (
        show(float(percentile(known, share))) if known else MISSING for share in (50, 90, 100)
    )
    return label, doc.Span(middle, "strong"), high, top


def dominance_blocks(report: AuditReport, view: doc.View) -> list[doc.Block]:
    """Return the size of the update relative to the base weights, if given, and the modules not compared."""
    base = report.base
    if base is None:
        return []
    blocks: list[doc.Block] = [doc.Heading("Size relative to the base", aside=doc.Span(base.base, "name"))]
    if base.modules:
        estimate = f"(an upper estimate, within {percent(base.tolerance)})"
        rows = [
            _spread(f"‖ΔW‖₂/‖W‖₂ {estimate}", [module.spectral for module in base.modules], sig),
            _spread("‖ΔW‖_F/‖W‖_F", [module.frobenius for module in base.modules], sig),
        ]
        if changes := [module.dora.magnitude for module in base.modules if module.dora]:
            rows.append(_spread("‖m − m₀‖/‖m₀‖ (DoRA magnitudes; ΔW includes their change)", changes, sig))
        largest = min(base.modules, key=lambda module: (-module.spectral, module.name))
        name = doc.Span(largest.name, "name")
        blocks += [doc.Table(SPREAD, rows), doc.Paragraph(("Largest ‖ΔW‖₂/‖W‖₂: ", name))]
    reasons = Counter(module.reason for module in base.not_compared)
    texts = [f"{plural(number, 'module')} not compared: {reason}" for reason, number in reasons.most_common()]
    return [*blocks, doc.warned(texts)]


DECIDED = {"grid": "rounded up", "cap": "capped", "evidence": ""}


def rank_blocks(report: AuditReport, view: doc.View) -> list[doc.Block]:
    """Return the current ranks and three suggestions with their savings and limits; empty without suggestions."""
    plan = report.suggestions
    if plan is None:
        return []
    columns = [
        doc.Column(),
        doc.Column(k_label(report.tau), ">"),
        doc.Column("rank", ">"),
        doc.Column(drop=1),
        doc.Column("parameters", ">"),
        doc.Column("saved", ">"),
        doc.Column("vLLM max_lora_rank", ">", drop=2),
    ]
    now, current = number_range(layer.r for layer in report.layers), max_lora_rank(plan.current_max_lora_rank)
    rows: list[Sequence[doc.Inline]] = [
        ("now", "", doc.Span(now, "strong"), "", count(report.total_lora_params), "", current)
    ]
    for name, some in (
        ("uniform_median", plan.median),
        ("uniform_p90", plan.p90),
        ("per_layer", plan.per_layer),
    ):
        k, decided = "each", ""
        if isinstance(some, Suggestion):
            k, rank, decided = trimmed(some.unrounded), str(some.rank), DECIDED[some.decided_by]
        else:
            rank = number_range(some.rank_pattern.values())
        saved = doc.Span(percent(some.reduction), "good" if some.reduction else "")
        figures = (count(some.params), saved, max_lora_rank(some.max_lora_rank))
        rows.append((name, k, doc.Span(rank, "strong"), doc.Span(decided, "dim"), *figures))
    aside = "from weight energy, a crude guide to accuracy"
    return [doc.Heading("Suggested ranks", aside=aside), doc.Table(columns, rows), doc.dim(MEASURED_WORTH)]


def layer_blocks(report: AuditReport, view: doc.View) -> list[doc.Block]:
    """Return the table of modules on request (layer 2 before layer 10), with a footnote if ± occurs."""
    if not view.full:
        return []
    thresholds = sorted({report.tau, 0.90, 0.95, 0.99})
    columns = [
        doc.Column("module"),
        doc.Column("r", ">"),
        *(doc.Column(k_label(tau), ">", drop=3 if tau == 0.95 else 0) for tau in thresholds),
        doc.Column("stable", ">"),
        doc.Column("effect.", ">", drop=1),
        doc.Column("util.", ">", drop=2),
        doc.Column("‖ΔW‖_F", ">"),
        doc.Column(),
    ]
    rows: list[list[doc.Inline]] = []
    for layer in sorted(report.layers, key=lambda layer: natural_key(layer.label)):
        row: list[doc.Inline] = [doc.Span(layer.label, "name"), str(layer.r)]
        if layer.status != "ok":  # the status replaces the measures
            status = doc.Span(layer.status, "warn" if layer.status == "untrained" else "bad")
            rows.append([*row, *[""] * (len(thresholds) + 3), status])
            continue
        digits = layer_digits(layer)
        row += map(str, energy_ranks_of(layer, report.tau).values())
        row += [sig(layer.stable_rank, digits), sig(layer.effective_rank, digits), percent(layer.utilization)]
        rows.append([*row, sig(layer.fro_norm, digits), doc.Span("±" if layer.borderline else "", "warn")])
    blocks: list[doc.Block] = [doc.Heading("All modules", folded=True), doc.Table(columns, rows)]
    if any(layer.borderline for layer in report.layers):
        blocks.append(doc.dim("± borderline: the energy is so close to a threshold that k may be off by one"))
    return blocks


# ---------------------------------------------------------------- map of modules

HEAT: tuple[doc.Style, ...] = ("heat1", "heat2", "heat3", "heat4", "heat5", "heat6", "heat7", "heat8")
ABSENT, UNTRAINED, BROKEN = doc.Span("·", "dim"), doc.Span("○", "dim"), doc.Span("✗", "dim")
MAX_KINDS = 12
"""Maximum rows of a map; the kinds with the most parameters are drawn."""
WIDE_MAP, MAX_CELL = 36, 4
"""Columns that a map of few layers is stretched to, and the maximum signs per layer."""


def where_blocks(report: AuditReport, view: doc.View) -> list[doc.Block]:
    """Return a map of the largest layer stack: a row per kind of module, a column per layer; and the modules outside.

    Each cell shows the share of its rank that a module needs, in eighths. The size of the map is limited: a stack wider
    than the screen has several layers per column, and a cell of several modules (experts, merged columns) shows their
    median.
    """
    columns = view.width - BESIDE_MAP if view.width else WIDEST_MAP
    stack = layer_map(report.layers, lambda layer: layer.params, MAX_KINDS, columns)
    if not (stack.rows and trained_layers(report)):
        return []
    label = k_label(report.tau)
    statuses = {layer.status for layer in report.layers}
    legend: tuple[str | doc.Span, ...] = (
        f"{label} / r: 1/8 ",
        *map(doc.Span, doc.EIGHTHS, HEAT),
        " 8/8",
        "  · no module" if any(not cell for _, cells in stack.rows for cell in cells) else "",
        "  ○ untrained" if "untrained" in statuses else "",
        "  ✗ not measured" if statuses - {"ok", "untrained"} else "",
    )
    wide = max(1, min(MAX_CELL, min(WIDE_MAP, columns) // len(stack.layers)))
    uniform = len({layer.r for _, cells in stack.rows for cell in cells for layer in cell}) == 1
    rows: list[list[doc.Inline]] = []
    most_modules = 1

    def order(row: tuple[str, Sequence[Sequence[LayerAudit]]]) -> int:
        return next(MODULE_TYPES.index(layer.module_type) for cell in row[1] for layer in cell)

    for name, cells in sorted(stack.rows, key=order):  # attention before MLP
        most_modules = max(most_modules, *map(len, cells))
        members = [layer for cell in cells for layer in cell]
        ks = [k for layer in members if layer.status == "ok" and (k := layer.energy_rank_tau) is not None]
        rank = "" if uniform else f" of {number_range(layer.r for layer in members)}"
        drawn = tuple(doc.Span(sign.text * wide, sign.role) for sign in map(cell_sign, cells))
        spread = [trimmed(median(ks) if ks else None), f"{trimmed(max(ks, default=None))}{rank}"]
        rows.append([doc.Span(name, "name"), drawn, *spread])
    head = doc.Column(ruler(stack.layers, wide), drawing=True)
    table = doc.Table([doc.Column(label), head, doc.Column("median", ">"), doc.Column("max", ">")], rows)
    blocks = [
        doc.Heading("Modules by layer", aside=legend),
        table,
        *doc.more(stack.hidden, "more kind of modules", view.rest, "more kinds of modules"),
    ]
    if most_modules > 1:
        merged = f"{stack.merged} layers per column, " if stack.merged > 1 else ""
        blocks.append(doc.dim(f"{merged}each cell: median of up to {most_modules} modules"))
    outside = "module outside these layers", view.rest, "modules outside these layers"
    return [*blocks, *doc.more(len(stack.outside), *outside)]


def spare_blocks(report: AuditReport, view: doc.View) -> list[doc.Block]:
    """Return the modules with the most parameters beyond their energy rank, on request."""
    ranked = sorted(
        (layer for layer in trained_layers(report) if _spare_params(layer) > 0),
        key=lambda layer: (-_spare_params(layer), layer.stable_rank or 0.0, layer.label),
    )
    table = doc.table_of(
        ranked[: view.most or 0] if report.suggestions else [],
        (doc.Column("module"), lambda layer: doc.Span(layer.label, "name")),
        (doc.Column("r", ">"), lambda layer: str(layer.r)),
        (doc.Column(k_label(report.tau), ">"), lambda layer: str(layer.energy_rank_tau)),
        (doc.Column("stable", ">"), lambda layer: sig(layer.stable_rank, layer_digits(layer))),
        (doc.Column("unused params", ">"), lambda layer: count(_spare_params(layer))),
    )
    return [doc.Heading("Most unused rank"), table]


def _spare_params(layer: LayerAudit) -> int:
    """Parameters of the directions beyond the energy rank."""
    k = layer.energy_rank_tau
    return 0 if k is None else layer.params // layer.r * (layer.r - k)


def ruler(indices: Sequence[int], wide: int) -> str:
    """Return numbers above the columns, as many as fit without touching; the last column is always numbered.

    wide: signs that draw one column.
    """
    last = str(indices[-1])
    last_at = max(0, len(indices) * wide - max(len(last), wide))
    step = next(step for step in (1, 2, 4, 5, 8, 10, 16, 20, 40) if step * wide > len(last))
    text = ""
    for position in range(0, len(indices) - 1, step):
        label, start = str(indices[position]), position * wide
        if start + len(label) < last_at:
            text = text.ljust(start) + label
    return text.ljust(last_at) + last


def cell_sign(place: Sequence[LayerAudit]) -> doc.Span:
    """Return the cell for these modules: the median of k/r, or a failure or missing training if there is one."""
    if not place:
        return ABSENT
    if any(layer.status in ("nonfinite", "unsupported") for layer in place):
        return BROKEN
    share = share_of_rank(place)
    return UNTRAINED if share is None else block(share)


def share_of_rank(place: Sequence[LayerAudit]) -> Fraction | None:
    """Return the median of k/r over these modules; None if none was measured."""
    shares = [Fraction(k, layer.r) for layer in place if (k := layer.energy_rank_tau) is not None]
    return median(shares) if shares else None


def block(share: float | Fraction) -> doc.Span:
    """Return the block for a share in (0, 1], rounded up to eighths."""
    level = min(8, max(1, math.ceil(8 * share)))
    return doc.Span(doc.EIGHTHS[level - 1], HEAT[level - 1])


def next_blocks(report: AuditReport, view: doc.View) -> list[doc.Block]:
    """Return the next commands, on a screen."""
    path = view.path(0, report.adapter.path)
    unscaled = {finding.code for finding in report.findings} & {"no-config", "unclear-scale"}
    testable = report.suggestions and not unscaled
    flag = " --allow-pickle" if report.adapter.pickle else ""
    if testable and report.adapter.format in ("peft", "safetensors") and not flag:
        return view.next_steps(f"gradience shrink {path} --data rows.jsonl")
    if testable and report.adapter.format in ("peft", "safetensors", "mlx"):
        convert = view.next_steps(f"gradience convert {path} as_peft{flag}")
        return [*convert, *view.next_steps("gradience shrink as_peft --data rows.jsonl")]
    return [] if view.full else view.next_steps(f"gradience audit {path} --layers{flag}")


SECTIONS: tuple[Callable[[AuditReport, doc.View], list[doc.Block]], ...] = (
    title_blocks,
    use_blocks,
    dominance_blocks,
    rank_blocks,
    where_blocks,
    spare_blocks,
    layer_blocks,
    next_blocks,
)


# ---------------------------------------------------------------- plots

MOST_KINDS = 400
"""Rows of a map, which scrolls on a page."""
MOST_MEDIANS = 8
"""Maximum number of kinds with a line: those with the most parameters."""


def heatmap_plot(report: AuditReport) -> Plot | None:
    """Return the share of its rank that each module needs: kinds down, layers across, for the largest stack.

    Several modules in one cell (experts) show their median.
    """
    stack = layer_map(report.layers, lambda layer: layer.params, MOST_KINDS)
    if not stack.rows:
        return None

    shares = [[share_of_rank(cell) for cell in cells] for _, cells in stack.rows]
    values = [[None if share is None else float(share) for share in row] for row in shares]
    known = sorted(share for row in values for share in row if share is not None)
    spread = "not measured"
    if known:
        spread = f"{percent(known[0])} to {percent(known[-1])}, median {percent(median(known))}"
    label, elsewhere = k_label(report.tau), len(stack.outside)
    title = f"{label} / rank"
    rest = f"; {plural(elsewhere, 'module')} outside this stack left out" if elsewhere else ""
    more = f"; {plural(stack.hidden, 'kind')} left out" if stack.hidden else ""
    color = Axis(f"{label} / r", low=0.0, high=1.0, form="share")
    return Plot(
        "heatmap",
        title,
        Axis("layer", categories=list(map(str, stack.layers))),
        Axis("module", categories=[name for name, _ in stack.rows]),
        [Image(values, color)],
        f"{title} of {plural(report.n_layers - elsewhere, 'module')}: {spread}{rest}{more}.",
    )


def spectrum_plot(report: AuditReport) -> Plot | None:
    """Return the singular values relative to the largest: the median module of each kind."""
    layers = _with_spectrum(report)
    if not layers:
        return None
    lines = _lines(layers, lambda values: values / values[0])
    return Plot(
        "spectrum",
        "Singular values",
        Axis("direction", form="count"),
        Axis("σ over the largest σ", scale="log"),
        lines,
        f"Singular values of {plural(len(layers), 'module')}, relative to each module's largest; the median stable"
        f" rank is {sig(report.stable_rank_median)} of r = {number_range(layer.r for layer in layers)}.",
    )


def energy_plot(report: AuditReport) -> Plot | None:
    """Return the share of energy in the leading k directions, median of each kind, with the threshold of the audit."""
    layers = _with_spectrum(report)
    if not layers:
        return None
    ranks = [layer.energy_rank_tau for layer in layers if layer.energy_rank_tau is not None]
    lines = _lines(layers, cumulative_energy)
    return Plot(
        "energy",
        "Cumulative energy",
        Axis("directions kept, k", form="count"),
        Axis("energy kept", low=0.0, high=1.0, form="share"),
        lines,
        f"{100 * report.tau:.6g} % of the energy needs {trimmed(float(np.median(ranks)))} directions in the median"
        f" module and {max(ranks)} at most, of r = {number_range(layer.r for layer in layers)}.",
        [Reference(report.tau, f"{100 * report.tau:.6g} %")],
    )


def _with_spectrum(report: AuditReport) -> list[LayerAudit]:
    return [layer for layer in trained_layers(report) if layer.singular_values]


def _lines(layers: Sequence[LayerAudit], curve: Callable[[FloatArray], FloatArray]) -> list[Lines]:
    """Return a line for each kind: the median, at each k, of its modules with at least k values."""
    lines: list[Lines] = []
    kinds, _ = by_kind(layers, lambda layer: layer.params, MOST_MEDIANS)
    labels = short_labels([kind for kind, _ in kinds])
    for kind, members in kinds:
        of_kind = [curve(np.array(layer.singular_values)) for layer in members]
        longest = max(map(len, of_kind))
        medians = [
            float(np.median([values[k] for values in of_kind if len(values) > k])) for k in range(longest)
        ]
        lines.append(Lines(f"{labels[kind]} ({count(len(members))})", list(range(1, longest + 1)), medians))
    return lines


# ---------------------------------------------------------------- a LoraConfig to copy


def lora_config_source(report: AuditReport) -> str | None:
    """Return Python source that makes the suggested LoraConfig; None if nothing may be suggested.

    `target_modules` names every module in full, so that the config applies to exactly the modules of the adapter;
    saved modules, biases, dropout and all other settings are repeated. Names are written as ASCII literals, which they
    cannot break out of.
    """
    plan = report.suggestions
    if plan is None:
        return None
    per = plan.per_layer
    adapter = report.adapter
    named = list(dict.fromkeys(config_name(layer.name) for layer in report.layers))
    stacks = {layer.name for layer in report.layers if layer.kind == "expert"}
    wrapped = adapter.settings.get("target_parameters")
    parameters = tuple(map(str, wrapped)) if isinstance(wrapped, list) else ()
    stacked = [name for name in named if name in stacks or ends_with(name, parameters)]
    plain = [name for name in named if name not in set(stacked)]
    arguments = [f"r={per.r},"]
    arguments += [f"lora_alpha={per.lora_alpha!r},"] if per.lora_alpha is not None else []
    arguments += ["use_rslora=True,"] if adapter.use_rslora else []
    arguments += ["use_dora=True,"] if adapter.use_dora else []
    arguments += [f"task_type={adapter.task_type!a},"] if adapter.task_type else []
    arguments += [f"{name}={value!a}," for name, value in _settings(report).items()]
    arguments += _list("target_modules", plain)
    arguments += _list("target_parameters", stacked) if stacked else []
    arguments += _dict("rank_pattern", per.rank_pattern)
    if per.lora_alpha is not None:
        arguments += _dict("alpha_pattern", per.alpha_pattern)
        alpha = "α is scaled with the rank, so the scale of every module does not change."
    else:
        alpha = "α of the adapter is unknown: set lora_alpha and alpha_pattern yourself."
    now, then = count(report.total_lora_params), count(per.params)
    saving = f"{now} LoRA parameters become {then} ({percent(per.reduction)} saved)"
    comments = [
        f"Made from {display_name(adapter.path)}, sha256 {adapter.sha256[:12]}.",
        f"Each rank is the module's {k_label(plan.tau)}, rounded up to the allowed ranks: {saving}.",
        "The ranks come from weight energy. An adapter trained at them is a different one: evaluate it on the task.",
        alpha,
    ]
    if adapter.init not in ("true", "gaussian"):
        comments.append(
            f"The adapter was initialized with {display_name(adapter.init)}: set init_lora_weights yourself."
        )
    if stacked:
        comments.append("PEFT 0.21 warns that it ignored the keys of target_parameters, but applies them.")
    lines = [*(f"# {comment}" for comment in comments), "from peft import LoraConfig", ""]
    lines += ["config = LoraConfig(", *(f"    {argument}" for argument in arguments), ")"]
    return "\n".join(lines) + "\n"


def _settings(report: AuditReport) -> dict[str, Setting]:
    """Return the settings without targets, which are named in full, and heads that PEFT saves for the task."""
    heads = HEADS_OF_TASK.get(report.adapter.task_type or "", ())
    settings = dict(report.adapter.settings)
    settings.pop("target_parameters", None)
    saved = settings.pop("modules_to_save", None)
    others = [name for name in saved if name not in heads] if isinstance(saved, list) else []
    return settings | ({"modules_to_save": [str(name) for name in others]} if others else {})


def _list(name: str, items: Iterable[str]) -> list[str]:
    return [f"{name}=[", *(f"    {item!a}," for item in items), "],"]


def _dict(name: str, items: Mapping[str, int | float]) -> list[str]:
    return [f"{name}={{", *(f"    {key!a}: {value!r}," for key, value in items.items()), "},"]
