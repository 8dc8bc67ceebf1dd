"""`audit.json`: the measures of an adapter, by module and overall.

For definitions see docs/measures.md. A measure that does not exist is null, never 0: an untrained module has no
stable rank.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from statistics import median
from typing import ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from gradience.adapters.families import MODULE_TYPES, ModuleType
from gradience.adapters.formats import words_of
from gradience.adapters.keys import Kind
from gradience.adapters.locate import natural_key
from gradience.files.artifact import ROW_CONFIG, Float12, Floats12, Part
from gradience.ranks import percentile
from gradience.reports.base.blocks import (
    EIGHTHS,
    Block,
    Column,
    Document,
    Facts,
    Heading,
    Inline,
    Note,
    Notes,
    Paragraph,
    Role,
    Span,
    Table,
    dim,
    figures,
    table_of,
    warned,
)
from gradience.reports.base.finding import Finding, Severity
from gradience.reports.base.modules import LayerMap, layer_map
from gradience.reports.base.numbers import (
    DIGITS,
    MISSING,
    bound,
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
from gradience.reports.base.report import Plots, Report
from gradience.reports.base.run import RunInfo
from gradience.reports.base.source import HubSource, commit_of
from gradience.reports.base.view import DOCUMENT, View, first_names, more, next_steps

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


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
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
    """Hypotheses about smaller ranks, based on the energy of the weights, a crude guide to quality."""

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
    "heatmap": "modules:heatmap_plot",
    "energy": "modules:energy_plot",
    "spectrum": "modules:spectrum_plot",
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

    schema_: Literal["gradience.audit/3"] = Field(default="gradience.audit/3", alias="schema")
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

    def blocks(self) -> Document:
        """Return the sections of a document."""
        return audit_blocks(self)

    def summary(self) -> list[Note]:
        """Return coverage, errors, warnings, and the number of directions that the median module needs."""
        notes = [_coverage_note(self), *_finding_notes(self, "error", "warning")]
        if self.energy_rank_90_p50 is not None:
            ranks = number_range(layer.r for layer in self.layers)
            k = trimmed(self.energy_rank_90_p50)
            notes.append(
                Note("info", f"The median module has 90 % of its energy in {k} of r = {ranks} directions.")
            )
        return notes

    def screen(self, view: View) -> Document:
        """Return the screen of one adapter, about 45 lines, and the next step."""
        steps = [*([] if view.full else ["--layers"]), "--json"]
        path = view.path(0, self.adapter.path)
        if self.suggestions and compress_command(self, path, ""):
            steps.insert(0, f"gradience shrink {path} --data rows.jsonl")
        return [*audit_blocks(self, view), next_steps(*steps)]


def compress_command(report: AuditReport, path: str, options: str) -> str | None:
    """Return the command that compresses the audited adapter; None if compress would refuse the adapter."""
    if {finding.code for finding in report.findings} & {"no-config", "unclear-scale"}:
        return None
    pickle = " --allow-pickle" if report.adapter.pickle else ""
    return f"gradience compress {path} {options}{pickle}"


SHOWN_WASTEFUL, SHOWN_FULLEST = 3, 2
"""Modules with the most and the least spare rank that the screen lists."""
LISTED = 5
"""Modules with the most and the least spare rank that a document lists."""
BESIDE_MAP, WIDEST_MAP = 46, 128
"""Terminal columns beside the cells of a map, and maximum columns of a map in a document."""
HYPOTHESIS = (
    "In our tests (8 adapters, two tasks), uniform_median and per_layer kept accuracy within 2.5 points, but were 4 and"
    " 6 times larger than needed, respectively. uniform_p90 was tested on 5 of the adapters and saved nothing. To find"
    " a size on your examples, use gradience shrink."
)
"""Measured reliability of the suggestions, from `python benchmarks/predicted_drop.py fit`."""
NO_QUALITY = "An audit measures weights. It does not show accuracy."
COARSE_BOUND = 1e-3
"""error_bound above which the printed digits are no longer reliable, so that a warning is due."""
SHOWN = 3
"""Modules, layers and reasons on the screen."""


def audit_blocks(report: AuditReport, view: View = DOCUMENT) -> Document:
    """Return the sections in reading order."""
    return [block for section in SECTIONS for block in section(report, view)]


def audits_blocks(reports: Sequence[AuditReport]) -> Document:
    """Return a table of several adapters, in the order given."""

    def suggested(report: AuditReport) -> str:
        plan = report.suggestions
        return f"{plan.median.rank} / {plan.p90.rank}" if plan else MISSING

    def flagged(report: AuditReport) -> Inline:
        severities = [finding.severity for finding in report.findings]
        flags = {"✗": severities.count("error"), "!": severities.count("warning")}
        return Span(" ".join(f"{mark}{number}" for mark, number in flags.items() if number), "warn")

    table = table_of(
        reports,
        (
            Column("adapter"),
            lambda report: Span(report.adapter.path, "name"),
        ),
        (Column("r", ">"), lambda report: number_range(layer.r for layer in report.layers)),
        (Column("k@90", ">"), lambda report: Span(trimmed(report.energy_rank_90_p50), "strong")),
        (Column("p90", ">"), lambda report: trimmed(report.energy_rank_90_p90)),
        (Column("stable", ">"), lambda report: sig(report.stable_rank_median, measure_digits(report))),
        (
            Column("‖ΔW‖_F", ">", drop=1),
            lambda report: sig(report.gain.fro_norm_total if report.gain else None, measure_digits(report)),
        ),
        (Column("suggest", ">"), suggested),
        (Column(), flagged),
    )
    legend = (
        "k@90, stable: medians over modules; suggest: rank from the median / from p90; ✗, !: errors, warnings"
    )
    return [Heading(plural(len(reports), "adapter"), level=1), table, dim(legend)]


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


def _number_types(report: AuditReport) -> str:
    """Storage types in lower case, `bf16` or `f16+f32`."""
    return "+".join(sorted({part.lower() for dtype in report.adapter.dtypes for part in dtype.split("+")}))


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
    if report.coverage.unaudited:
        unaudited = report.coverage.unaudited
        parts.append(
            f"{plural(len(unaudited), 'tensor')} ({count(report.coverage.unaudited_params)} parameters) "
            f"could not be audited: {_reasons(unaudited)}"
        )
    if report.n_layers and statuses["untrained"] == report.n_layers:
        which = "the only module is" if report.n_layers == 1 else f"all {count(report.n_layers)} modules are"
        parts.append(f"{which} untrained (ΔW = 0), so nothing was measured")
    return "; ".join(parts) or None


def _reasons(notes: Iterable[TensorNote], most: int = 2) -> str:
    """Return the most frequent reasons, with tensor counts if there are several."""
    reasons = Counter(note.reason for note in notes)
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{reason} ({count(number)})" if ranked[1:] else reason for reason, number in ranked[:most]]
    rest = len(ranked) - most
    return ", ".join(shown) + (f" and {plural(rest, 'other reason')}" if rest > 0 else "")


# ---------------------------------------------------------------- sections


def title_blocks(report: AuditReport, view: View) -> list[Block]:
    """Return path, format, rank, scale and base; modules, parameters, bytes, storage type and digest."""
    adapter = report.adapter
    kind = words_of(adapter.format)
    kind += " (DoRA: magnitudes not included)" if adapter.use_dora else ""
    alphas = [layer.alpha for layer in report.layers if layer.alpha is not None]
    scales = [layer.scale for layer in report.layers if layer.scale is not None]
    scale = "α unknown"
    if alphas and scales:
        rule = "α/√r" if adapter.use_rslora else "α/r"
        scale = f"α {number_range(alphas)}, s = {rule} = {number_range(scales)}"
    ranks = f"r {number_range(layer.r for layer in report.layers)}"
    base = f"on {adapter.base_model}" if adapter.base_model else "base model not named"
    inventory = [
        plural(report.n_layers, "module"),
        f"{count(report.total_lora_params)} LoRA parameters",
        f"{size(adapter.bytes)} {_number_types(report)}",
        f"sha256 {adapter.sha256[:12]}",
        *commit_of(adapter.source),
    ]
    blocks: list[Block] = [
        Heading(("Audit of ", Span(adapter.path, "name")), level=1),
        Paragraph(" · ".join([kind, ranks, scale, base])),
    ]
    return [*blocks, dim(" · ".join(inventory))]


SHOWN_NOTES = 6
"""Findings that a brief report lists."""


def trust_blocks(report: AuditReport, view: View) -> list[Block]:
    """Return coverage, precision and findings; in a brief report the first of them, without details."""
    heading, notes = Heading("Completeness"), trust_notes(report)
    if not view.brief:
        return [heading, Notes(notes)]
    shown = [note if note.mark == "error" else replace(note, details=()) for note in notes[:SHOWN_NOTES]]
    return [heading, Notes(shown), *more(len(notes) - len(shown), "more finding", ": --layers or --json")]


def trust_notes(report: AuditReport) -> list[Note]:
    """Return coverage, errors, warnings, precision and information, in this order."""
    worse, known = _finding_notes(report, "error", "warning"), _finding_notes(report, "info")
    return [_coverage_note(report), *worse, *_precision_notes(report), *_other_notes(report), *known]


def _coverage_note(report: AuditReport) -> Note:
    missing = incompleteness(report)
    if missing:
        return Note("error", f"Incomplete: {missing}")
    measured = f"all {count(report.n_layers)} modules" if report.n_layers > 1 else "the only module"
    tensors = f"all {count(report.coverage.tensors)} tensors accounted for"
    return Note("good", f"Complete: {measured} measured, {tensors}")


def _other_notes(report: AuditReport) -> list[Note]:
    other = report.coverage.other
    if not other:
        return []
    text = (
        f"{plural(len(other), 'tensor')} ({plural(report.coverage.other_params, 'parameter')}) "
        f"{'is' if len(other) == 1 else 'are'} not LoRA: {_reasons(other)}"
    )
    return [Note("info", text)]


def _precision_notes(report: AuditReport) -> list[Note]:
    """Numerical error of the figures; modules with large errors have their own finding (`imprecise`)."""
    if not report.n_trained:
        return []
    trained = trained_layers(report)
    exact = [error for layer in trained if (error := layer.error_bound or 0.0) <= COARSE_BOUND]
    coarse = len(trained) - len(exact)
    parts = [f"Numerical error ≤ {bound(max(exact, default=COARSE_BOUND))}"] if exact else []
    if coarse:
        worst = max(layer.error_bound or 0.0 for layer in trained)
        others = plural(coarse, "other module") if exact else plural(coarse, "module")
        parts.append(f"{'numerical' if exact else 'Numerical'} error up to {bound(worst)} in {others}")
    storage = max(layer.storage_error or 0.0 for layer in trained)
    if storage:
        parts.append(f"{_number_types(report)} storage changes the stable rank by up to {bound(storage)}")
    borderline = sum(layer.borderline for layer in trained)
    if borderline:
        parts.append(f"{plural(borderline, 'module')} borderline (k may be off by one)")
    return [Note("warning" if coarse else "good", "; ".join(parts))]


def _finding_notes(report: AuditReport, *severities: Severity) -> list[Note]:
    """One note for each kind of finding, in this order: the first case, and the number of the others."""
    notes = []
    for severity in severities:
        groups: dict[str, list[Finding]] = {}
        for finding in report.findings:
            if finding.severity == severity:
                groups.setdefault(finding.code, []).append(finding)
        for code, (first, *others) in groups.items():
            where = f"{first.module}: " if first.module and first.module not in first.message else ""
            repeats = f" (and {count(len(others))} more like this)" if others else ""
            text = f"{code}: {where}{first.message}{repeats}"
            notes.append(Note(severity, text, [first.hint] if first.hint else []))
    return notes


NARROW = 2
"""Bytes of a 16-bit number, the type in which servers store adapters."""
WORTH_SHOWING = 0.1
"""Share of other weights in the file from which on the section on disk space is shown."""


def space_blocks(report: AuditReport, view: View) -> list[Block]:
    """Return the bytes of the LoRA weights, stored and in 16 bits, and of other weights, if either is notable."""
    total = report.adapter.bytes
    lora = sum(layer.bytes for layer in report.layers)
    narrow = NARROW * sum(layer.params for layer in report.layers)
    rest = max(0, total - lora)
    if lora <= narrow and rest < WORTH_SHOWING * total:
        return []
    rows = [("LoRA weights", f"{size(lora)}, {percent(lora / total)}", _number_types(report))]
    if lora > narrow:
        largest = max(layer.r for layer in report.layers)
        options = f"--rank {largest} --dtype BF16 -o smaller"
        command = compress_command(report, view.path(0, report.adapter.path), options)
        rows.append(("as BF16", size(narrow), command or ""))
    notes = (*report.coverage.other, *report.coverage.unaudited)
    if notes:
        rows.append(("other weights", f"{size(rest)}, {percent(rest / total)}", _reasons(notes)))
    return [Heading("Disk space", aside=f"{size(total)} on disk"), figures(rows)]


def use_blocks(report: AuditReport, view: View) -> list[Block]:
    """Return energy ranks and stable rank over the trained modules as bars up to r, then the measures relative to r."""
    trained = trained_layers(report)
    if not trained:
        return []
    digits = measure_digits(report)
    ranks: dict[float, list[int]] = {}
    for layer in trained:
        for threshold, k in energy_ranks_of(layer, report.tau).items():
            ranks.setdefault(threshold, []).extend([] if k is None else [k])
    top = max(layer.r for layer in report.layers)
    rows = [_bar(k_label(threshold), values, trimmed, top) for threshold, values in ranks.items() if values]
    stable = [layer.stable_rank for layer in trained if layer.stable_rank is not None]
    rows += [_bar("stable rank Σσ²/σ₁²", stable, lambda value: sig(value, digits), top)] if stable else []
    facts: list[tuple[str, Inline]] = [
        ("utilization", f"{percent(report.utilization_median)} (median; stable rank / r)")
    ]
    if report.rank_use_median is not None:
        ends = "0 %: one direction, 100 %: r equal ones"
        facts.append(("rank use", f"{percent(report.rank_use_median)} (median; {ends})"))
    if report.null_position_median is not None:
        position = sig(report.null_position_median, min(2, digits))
        facts.append(("null position", f"{position} (median; 0: one direction, 1: random factors)"))
    scale = f"r = {top}" if all(layer.r == top for layer in report.layers) else f"r ≤ {top}"
    tau, error = k_label(report.tau), percent(math.sqrt(1 - report.tau))
    titles = [Column(name, ">") for name, _, _ in BAR_PARTS]
    bar = (*(Span(f"{sign} {name} ", role) for name, sign, role in BAR_PARTS), Span(f"░ {scale}", "dim"))
    return [
        Heading("Use of rank", aside=f"{tau}: directions with {tau[2:]} % of the energy (error {error})"),
        Table([Column(), *titles, Column(bar, drop=1, drawing=True)], rows),
        Facts(facts),
    ]


BAR = 30
"""Columns of a bar, on a scale from 0 to the rank."""
BAR_PARTS: tuple[tuple[str, str, Role], ...] = (
    ("median", "█", "bar1"),
    ("p90", "▓", "bar2"),
    ("max", "▒", "bar3"),
)


def _bar(label: str, values: Sequence[float], show: Callable[[float], str], top: int) -> list[Inline]:
    """Return the median, the 90th percentile and the maximum as figures, and as a bar."""
    median, *larger = spread = (float(percentile(values, 50)), float(percentile(values, 90)), max(values))
    drawn: list[Span] = []
    at = 0
    for value, (_, sign, role) in zip(spread, BAR_PARTS, strict=True):
        end = max(at, 1, round(BAR * min(1.0, value / top)))
        drawn.append(Span(sign * (end - at), role))
        at = end
    return [label, Span(show(median), "strong"), *map(show, larger), (*drawn, Span("░" * (BAR - at), "dim"))]


def dominance_blocks(report: AuditReport, view: View) -> list[Block]:
    """Return the size of the update relative to the base weights, if given, and the modules not compared."""
    base = report.base
    if base is None:
        return []
    blocks: list[Block] = [Heading("Size relative to the base", aside=Span(base.base, "name"))]
    if base.modules:
        pairs = (
            ("‖ΔW‖₂/‖W‖₂", base.spectral_median, base.spectral_p90),
            ("‖ΔW‖_F/‖W‖_F", base.frobenius_median, base.frobenius_p90),
        )
        rows = [(label, f"{sig(middle)}, {sig(high)}", "median, p90") for label, middle, high in pairs]
        moved = [module.dora.magnitude for module in base.modules if module.dora]
        if moved:
            spread = f"{sig(float(percentile(moved, 50)))}, {sig(float(percentile(moved, 90)))}"
            meaning = "median, p90: change of the DoRA magnitudes, included in ΔW here"
            rows.append(("‖m − m₀‖/‖m₀‖", spread, meaning))
        largest = sorted(base.modules, key=lambda module: (-module.spectral, module.name))
        cells = [
            (Span(module.name, "name"), sig(module.spectral), sig(module.frobenius))
            for module in largest[: SHOWN if view.brief else None]
        ]
        tolerance = bound(100 * base.tolerance)
        limit = f"‖W‖₂ is underestimated, and the ratios overestimated, by at most {tolerance} %"
        table = Table([Column("largest"), Column("‖·‖₂", ">"), Column("‖·‖_F", ">")], cells)
        blocks += [figures(rows), table, dim(limit)]
    reasons = Counter(module.reason for module in base.not_compared)
    texts = [f"{plural(number, 'module')} not compared: {reason}" for reason, number in reasons.most_common()]
    return [*blocks, *warned(texts)]


def rank_blocks(report: AuditReport, view: View) -> list[Block]:
    """Return the current ranks and three suggestions, each with its savings."""
    plan = report.suggestions
    if plan is None:
        why = "No rank suggested: see the findings above. A suggestion needs a trained adapter whose update is B·A."
        return [Heading("Suggested ranks"), Paragraph(why)]
    columns = [
        Column(),
        Column(k_label(report.tau), ">"),
        Column("rank", ">"),
        Column("parameters", ">"),
        Column("size", ">", drop=2),
        Column("saved", ">"),
        Column("max_lora_rank", ">", drop=1),
    ]
    now = Span(number_range(layer.r for layer in report.layers), "strong")
    bytes_now = size(sum(layer.bytes for layer in report.layers))
    current = max_lora_rank(plan.current_max_lora_rank)
    rows: list[list[Inline]] = [["now", "", now, count(report.total_lora_params), bytes_now, "", current]]
    for name, evidence, rank, suggestion in (
        ("uniform_median", trimmed(plan.median.unrounded), str(plan.median.rank), plan.median),
        ("uniform_p90", trimmed(plan.p90.unrounded), str(plan.p90.rank), plan.p90),
        ("per_layer", "per module", number_range(plan.per_layer.rank_pattern.values()), plan.per_layer),
    ):
        saved = Span(percent(suggestion.reduction), "good" if suggestion.reduction else "")
        sizes = (count(suggestion.params), size(suggestion.bytes))
        rows.append(
            [name, evidence, Span(rank, "strong"), *sizes, saved, max_lora_rank(suggestion.max_lora_rank)]
        )
    return [
        Heading("Suggested ranks", aside="from weight energy, a crude guide to quality"),
        Table(columns, rows),
        *([dim(sentence)] if (sentence := _decision_sentence(plan)) else []),
    ]


def _decision_sentence(plan: Suggestions) -> str:
    """Return a sentence about uniform ranks that were rounded up or limited; empty if both are as measured."""
    ranks = list(map(str, plan.allowed_ranks))
    grid = ", ".join(ranks) if len(ranks) <= 5 else f"{', '.join(ranks[:3])} … {ranks[-1]}"
    words = {"grid": f"rounded up to an allowed rank ({grid})", "cap": "limited by the current rank"}
    changed: dict[str, list[str]] = {}
    for name, suggestion in (("uniform_median", plan.median), ("uniform_p90", plan.p90)):
        if suggestion.decided_by in words:
            changed.setdefault(words[suggestion.decided_by], []).append(name)
    return "; ".join(f"{' and '.join(names)}: {how}" for how, names in changed.items())


def caveat_blocks(report: AuditReport, view: View) -> list[Block]:
    """Return the limits of an audit."""
    return [Heading("Limits"), Paragraph(HYPOTHESIS if report.suggestions else NO_QUALITY)]


def layer_blocks(report: AuditReport, view: View) -> list[Block]:
    """Return the table of modules on request (layer 2 before layer 10), with a footnote if ± occurs."""
    if not view.full:
        return []
    thresholds = sorted({report.tau, 0.90, 0.95, 0.99})
    columns = [
        Column("module"),
        Column("r", ">"),
        *(Column(k_label(tau), ">", drop=3 if tau == 0.95 else 0) for tau in thresholds),
        Column("stable", ">"),
        Column("effect.", ">", drop=1),
        Column("util.", ">", drop=2),
        Column("‖ΔW‖_F", ">"),
        Column(),
    ]
    rows: list[list[Inline]] = []
    for layer in sorted(report.layers, key=lambda layer: natural_key(layer.label)):
        row: list[Inline] = [Span(layer.label, "name"), str(layer.r)]
        if layer.status != "ok":  # the status replaces the measures
            status = Span(layer.status, "warn" if layer.status == "untrained" else "bad")
            rows.append([*row, *[""] * (len(thresholds) + 3), status])
            continue
        digits = layer_digits(layer)
        row += map(str, energy_ranks_of(layer, report.tau).values())
        row += [sig(layer.stable_rank, digits), sig(layer.effective_rank, digits), percent(layer.utilization)]
        rows.append([*row, sig(layer.fro_norm, digits), Span("±" if layer.borderline else "", "warn")])
    footnote = "± borderline: the energy is so close to a threshold that k may be off by one"
    borderline = any(layer.borderline for layer in report.layers)
    return [
        Heading("All modules", folded=True),
        Table(columns, rows),
        *([dim(footnote)] if borderline else []),
    ]


# ---------------------------------------------------------------- map of modules

HEAT: tuple[Role, ...] = ("heat1", "heat2", "heat3", "heat4", "heat5", "heat6", "heat7", "heat8")
ABSENT, UNTRAINED, BROKEN = Span("·", "dim"), Span("○", "dim"), Span("✗", "dim")
MAX_KINDS = 12
"""Maximum rows of a map; the kinds with the most parameters are drawn."""
WIDE_MAP, MAX_CELL = 36, 4
"""Columns that a map of few layers is stretched to, and the maximum signs per layer."""


def where_blocks(report: AuditReport, view: View) -> list[Block]:
    """Return a map of the largest layer stack, the modules outside, the energy, and the extreme modules."""
    if not report.layers:
        return []
    columns = view.width - BESIDE_MAP if view.width else WIDEST_MAP
    stack = layer_map(report.layers, lambda layer: layer.params, MAX_KINDS, columns)
    statuses = {layer.status for layer in report.layers}
    legend: tuple[str | Span, ...] = (
        f"{k_label(report.tau)} / r in eighths ",
        *map(Span, EIGHTHS, HEAT),
        "  · no module",
        "  ○ untrained" if "untrained" in statuses else "",
        "  ✗ not measured" if statuses - {"ok", "untrained"} else "",
    )
    blocks: list[Block] = [Heading("Modules by layer", aside=legend if stack.rows else "")]
    total = sum(map(_energy, report.layers))
    blocks += (
        map_blocks(stack, k_label(report.tau), total, min(WIDE_MAP, columns), view.rest) if stack.rows else []
    )
    if stack.outside:
        names = first_names([layer.label for layer in stack.outside], SHOWN)
        blocks.append(Paragraph((f"{plural(len(stack.outside), 'module')} outside the map: ", *names)))
    sentence = _gain_sentence(report)
    blocks += [Paragraph(sentence)] if sentence else []
    most, least = (SHOWN_WASTEFUL, SHOWN_FULLEST) if view.width else (LISTED, LISTED)
    spare = wasteful(report, most if view.most is None else view.most)
    full = [layer for layer in fullest(report, least) if layer not in spare]
    ends = [*(("most", layer) for layer in spare), *(("least", layer) for layer in full)]
    table = table_of(
        ends,
        (Column("unused"), lambda end: Span(end[0], "dim")),
        (Column("module"), lambda end: Span(end[1].label, "name")),
        (Column("r", ">"), lambda end: str(end[1].r)),
        (Column(k_label(report.tau), ">"), lambda end: str(end[1].energy_rank_tau)),
        (Column("stable", ">"), lambda end: sig(end[1].stable_rank, layer_digits(end[1]))),
        (Column("unused params", ">"), lambda end: count(_spare_params(end[1]))),
    )
    return [*blocks, table] if ends else blocks


def _gain_sentence(report: AuditReport) -> str:
    """Size of the update and its share per layer; empty if the scale is unknown."""
    gain = report.gain
    if gain is None or not gain.per_layer:
        return ""
    digits = measure_digits(report)
    parts = [f"‖ΔW‖_F {sig(gain.fro_norm_total, digits)}", f"‖ΔW‖₂ ≤ {sig(gain.sigma_max, digits)}"]
    if len(gain.per_layer) > 1:
        top = max(gain.per_layer, key=lambda layer: layer.share)
        stack, _, number = top.layer.rpartition(".")
        stacks = {layer.layer.rpartition(".")[0] for layer in report.layers if layer.layer}
        name = f"layer {number}" if stacks == {stack} else top.layer
        parts += [f"{name} has {percent(top.share)} of the energy", f"HHI {sig(gain.hhi, 2)}"]
    return " · ".join(parts)


def _spare_params(layer: LayerAudit) -> int:
    """Parameters of the directions beyond the energy rank."""
    k = layer.energy_rank_tau
    return 0 if k is None else layer.params // layer.r * (layer.r - k)


def wasteful(report: AuditReport, number: int) -> list[LayerAudit]:
    """Return the modules with the most parameters beyond their energy rank; none without suggestions."""
    ranked = sorted(
        (layer for layer in trained_layers(report) if _spare_params(layer) > 0),
        key=lambda layer: (-_spare_params(layer), layer.stable_rank or 0.0, layer.label),
    )
    return ranked[:number] if report.suggestions is not None else []


def fullest(report: AuditReport, number: int) -> list[LayerAudit]:
    """Return the modules whose energy rank is nearest to r: a smaller rank costs most there."""
    ranked = sorted(
        trained_layers(report),
        key=lambda layer: (-(layer.energy_rank_tau or 0) / layer.r, -(layer.stable_rank or 0.0), layer.label),
    )
    return ranked[:number] if report.suggestions is not None else []


def map_blocks(
    stack: LayerMap[LayerAudit], measure: str, total: float, columns: int, rest: str
) -> list[Block]:
    """Return the map of one layer stack such as `model.layers`: a row per kind of module, a column per layer.

    Each cell shows the share of its rank that a module needs, in eighths. The size of the map is limited: a stack wider
    than the screen has several layers per column, and a cell of several modules (experts, merged columns) shows their
    median. measure: name of the energy rank. total: energy of the whole adapter. columns: least width of the map. rest:
    pointer to the kinds that are left out.
    """
    number = len(stack.columns)
    wide = max(1, min(MAX_CELL, columns // number))
    uniform = len({layer.r for column in stack.columns for layer in column}) == 1
    rows: list[list[Inline]] = []
    most_modules = 1

    def order(row: tuple[str, Sequence[Sequence[LayerAudit]]]) -> int:
        return next(MODULE_TYPES.index(layer.module_type) for cell in row[1] for layer in cell)

    for label, cells in sorted(stack.rows, key=order):  # attention before MLP
        most_modules = max(most_modules, *map(len, cells))
        members = [layer for cell in cells for layer in cell]
        ks = [k for layer in members if layer.status == "ok" and (k := layer.energy_rank_tau) is not None]
        rank = "" if uniform else f" of {number_range(layer.r for layer in members)}"
        spread = [trimmed(median(ks) if ks else None), f"{trimmed(max(ks, default=None))}{rank}"]
        rows.append([Span(label, "name"), _drawn(map(cell_sign, cells), wide), *spread])
    # the share of Σ‖ΔW‖² of each column, in eighths of the largest; no row if the scale is unknown
    sums = [sum(map(_energy, column)) for column in stack.columns]
    top = max(sums)
    if top:
        energy = [Span(block(value / top).text, "dim") if value else ABSENT for value in sums]
        shares = [percent(share / total) for share in (median(sums), top)]
        rows.append([Span("share of energy", "dim"), _drawn(energy, wide), *shares])
    head = Column(ruler(stack.layers, wide), drawing=True)
    merged = f"{stack.merged} layers per column, " if stack.merged > 1 else ""
    several = f"{merged}each cell: median of up to {most_modules} modules"
    return [
        Table([Column(measure), head, Column("median", ">"), Column("max", ">")], rows),
        *more(stack.hidden, "more kind of modules", rest, "more kinds of modules"),
        *([dim(several)] if most_modules > 1 else []),
    ]


def _energy(layer: LayerAudit) -> float:
    return min(layer.fro_norm or 0.0, 1e150) ** 2  # avoid overflow


def _drawn(signs: Iterable[Span], wide: int) -> tuple[Span, ...]:
    """Return the signs of a row, each repeated."""
    return tuple(Span(sign.text * wide, sign.role) for sign in signs)


def ruler(indices: Sequence[int], wide: int) -> str:
    """Return numbers above the columns, as many as fit without touching; the last column is always numbered.

    wide: signs that draw one column.
    """
    length = len(indices) * wide
    last = str(indices[-1])
    last_at = max(0, length - max(len(last), wide))
    step = next(step for step in (1, 2, 4, 5, 8, 10, 16, 20, 40) if step * wide > len(last))
    text = [" "] * (last_at + len(last))
    for position in range(0, len(indices) - 1, step):
        label, start = str(indices[position]), position * wide
        if start + len(label) < last_at:
            text[start : start + len(label)] = label
    text[last_at:] = last
    return "".join(text)


def cell_sign(place: Sequence[LayerAudit]) -> Span:
    """Return the cell for these modules: the median of k/r, or a failure or missing training if there is one."""
    if not place:
        return ABSENT
    if any(layer.status in ("nonfinite", "unsupported") for layer in place):
        return BROKEN
    shares = [Fraction(k, layer.r) for layer in place if (k := layer.energy_rank_tau) is not None]
    return block(median(shares)) if shares else UNTRAINED


def block(share: float | Fraction) -> Span:
    """Return the block for a share in (0, 1], rounded up to eighths."""
    level = min(8, max(1, math.ceil(8 * share)))
    return Span(EIGHTHS[level - 1], HEAT[level - 1])


SECTIONS: tuple[Callable[[AuditReport, View], list[Block]], ...] = (
    title_blocks,
    trust_blocks,
    space_blocks,
    use_blocks,
    dominance_blocks,
    rank_blocks,
    where_blocks,
    caveat_blocks,
    layer_blocks,
)
