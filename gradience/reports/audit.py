"""`audit.json`: what an audit found, module by module and overall.

Definitions are those of docs/measures.md. A measure that does not exist (an untrained module has no
stable rank) is null, never 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from gradience.adapters.families import ModuleType
from gradience.adapters.keys import Kind
from gradience.files.artifact import ROW_CONFIG, Float12, Part, interruptible, visible_json
from gradience.reports.base.finding import Finding
from gradience.reports.base.prediction import MeasuredEffects
from gradience.reports.base.report import Report
from gradience.reports.base.run import RunInfo
from gradience.reports.base.source import HubSource, InitialAdapter

Status = Literal["ok", "untrained", "nonfinite", "unsupported"]
Setting = bool | int | float | str | list[str] | list[int] | list[list[int]] | dict[str, list[int]]
"""A value of adapter_config.json."""


class DoraChange(Part):
    """What a DoRA module does to its weight: ΔW = m·(W + s·B·A)/‖W + s·B·A‖ − W."""

    magnitude: Float12
    """‖m − m₀‖₂/‖m₀‖₂, where m₀ are the norms of W's rows."""
    fro_norm: Float12
    """‖ΔW‖_F."""
    sigma_max: Float12
    """‖ΔW‖₂, as exact as ‖W‖₂."""


class Dominance(Part):
    """One module, or one expert of it."""

    name: str
    weight_norm: Float12
    """‖W‖_F."""
    weight_sigma_max: Float12
    """‖W‖₂: at most `tolerance` of the block below the truth."""
    spectral: Float12
    """‖ΔW‖₂/‖W‖₂."""
    frobenius: Float12
    """‖ΔW‖_F/‖W‖_F."""
    dora: DoraChange | None = None
    """Null where the update is s·B·A; else both ratios are those of this update."""


class NotCompared(Part):
    """A module whose weight was not read, and why."""

    name: str
    reason: str


class BaseComparison(Part):
    """The update beside the weights of the base model."""

    base: str
    """What was given."""
    quantization: str | None = None
    """How its weights are packed, as its config.json or the names of its tensors tell; null where they are not."""
    tolerance: Float12
    """Relative, of every ‖W‖₂."""
    spectral_median: Float12 | None
    spectral_p90: Float12 | None
    frobenius_median: Float12 | None
    frobenius_p90: Float12 | None
    above_10_percent: Float12 | None
    """Share of the modules with ‖ΔW‖₂ > 0.1·‖W‖₂."""
    above_30_percent: Float12 | None
    frobenius_above_10_percent: Float12 | None = None
    """Share of the modules with ‖ΔW‖_F > 0.1·‖W‖_F."""
    frobenius_above_30_percent: Float12 | None = None
    modules: tuple[Dominance, ...]
    not_compared: tuple[NotCompared, ...]


class AdapterInfo(Part):
    """The adapter as found on disk, and what its config says."""

    path: str
    """Where it was read from: a path, or the name on the hub."""
    format: str
    """`peft` (a folder with adapter_config.json) or `safetensors` (a single file without a config)."""
    sha256: str
    """Digest of the weights: of the file, or of the digests of the shards in the order of their names."""
    bytes: int
    """Size of the weights on disk."""
    dtypes: tuple[str, ...] = ()
    """Storage types of the LoRA factors, as safetensors names them."""
    adapter_name: str | None = None
    """The adapter's name where the keys carry one (`lora_A.<name>.weight`)."""
    base_model: str | None = None
    """`base_model_name_or_path`, shown only, never opened."""
    r: int | None = None
    """Rank as declared in the config; the truth is in the tensors (`layers[].r`)."""
    lora_alpha: float | None = None
    use_rslora: bool = False
    use_dora: bool = False
    init: str = "true"
    """`init_lora_weights` as written."""
    task_type: str | None = None
    peft_type: str | None = None
    peft_version: str | None = None
    source: HubSource | None = None
    """Where on the hub it was read; null for one on the disk."""
    pickle: bool = False
    """The weights were read from a pickle, in a process of its own."""
    initial: InitialAdapter | None = None
    """What the update is the difference to, where its training changed the base at the start; then r, α, parameters
    and spectra are those of the difference."""
    settings: dict[str, Setting] = Field(default_factory=dict)
    """What else the config says that another training must be told: `modules_to_save`, `bias`, `lora_dropout` …"""


class TensorNote(Part):
    """One tensor that was not audited, and why."""

    tensor: str
    reason: str
    params: int


class Coverage(Part):
    """Every tensor of the file in exactly one of three groups; the parameters add up to the file."""

    tensors: int
    """Tensors in the file."""
    params: int
    """Parameters in the file: audited + other + unaudited."""
    audited_params: int
    """Parameters of the LoRA factors that were measured."""
    other_params: int
    """Parameters that are understood but are no low-rank update (heads, biases, magnitudes, saved modules)."""
    unaudited_params: int
    """Parameters that could not be measured or are unknown."""
    other: tuple[TensorNote, ...] = ()
    unaudited: tuple[TensorNote, ...] = ()


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class LayerAudit:
    """One LoRA module (or one expert of a stacked module). Shapes: A (r, n), B (m, r), ΔW = s·B·A (m, n)."""

    name: str
    """Path inside the base model, e.g. `model.layers.0.self_attn.q_proj`."""
    module_type: ModuleType
    family: str
    """The path behind the layer, e.g. `self_attn.q_proj`, expert numbers as `*`: what the module is called in every
    layer. Modules of one family are compared with each other."""
    layer: str | None
    """Path of the transformer layer it belongs to, e.g. `model.layers.0`; null outside the layers."""
    layer_index: int | None
    kind: Kind
    expert: int | None = None
    """Index of the expert, where one tensor stacks several."""
    groups: int = 1
    """Groups of a grouped convolution (its B is block-diagonal)."""
    r: int
    """Allocated rank: the inner dimension of the tensors."""
    declared_r: int | None = None
    """The rank that config and rank_pattern give this module."""
    alpha: float | None = None
    scale: Float12 | None = None
    """s = α/r, or α/√r with rsLoRA; null where α is unknown."""
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
    """stable rank / r. Mostly measures 1/r on real adapters: read rank_use beside it."""
    rank_use: Float12 | None = None
    """(stable rank − 1)/(r − 1): 0 for one direction, 1 for r equal ones; null at r = 1."""
    null_stable_rank: Float12 | None = None
    """Stable rank that random Gaussian factors of these shapes have (mean over simulated draws)."""
    null_position: Float12 | None = None
    """(stable rank − 1)/(null stable rank − 1): near 1 means that the factors look random."""
    energy_rank_90: int | None = None
    """Fewest directions that hold 90 % of Σσ²."""
    energy_rank_95: int | None = None
    energy_rank_99: int | None = None
    energy_rank_tau: int | None = None
    """The same at the threshold `tau` of the report."""
    energy_margin: Float12 | None = None
    """Smallest distance between a threshold and the energy held just below or at its rank."""
    borderline: bool = False
    """True where an energy rank could change within the error of computation or of storage rounding."""
    sigma_max: Float12 | None = None
    """‖ΔW‖₂; null where α is unknown."""
    fro_norm: Float12 | None = None
    """‖ΔW‖_F; null where α is unknown."""
    singular_values: tuple[Float12, ...] = ()
    """σ of ΔW, descending (of B·A where α is unknown)."""
    method: Literal["gram", "qr"] | None = None
    """`gram`: Gram products and an eigenproblem; `qr`: QR of both factors and an SVD of the core."""
    eta: Float12 | None = None
    """‖A‖₂‖B‖₂/σ₁(BA) (an upper bound): how much cancels in the product."""
    error_bound: Float12 | None = None
    """Relative error of stable rank, effective rank and σ₁ in exact arithmetic terms (storage rounding apart)."""
    storage_error: Float12 | None = None
    """Relative change of the stable rank that rounding the factors to their storage type may cause."""

    @property
    def label(self) -> str:
        """The name; with the expert's number where one tensor stacks several: `…experts.down_proj[3]`."""
        return self.name if self.expert is None else f"{self.name}[{self.expert}]"


class Suggestion(Part):
    """One uniform rank for the whole adapter."""

    unrounded: Float12
    """The evidence before rounding: the median or 90th percentile of the energy ranks."""
    rank: int
    params: int
    """LoRA parameters at this rank (each module capped at its own rank)."""
    bytes: int
    reduction: Float12
    """1 − params / params now."""
    decided_by: Literal["evidence", "grid", "cap"]
    """`grid`: rounded up to an allowed rank; `cap`: the allocated rank; `evidence`: already an allowed rank."""
    max_lora_rank: int | None
    """vLLM's smallest permitted max_lora_rank that holds it; null above 512."""


class PerLayer(Part):
    """An explicit rank for every module, and the α that keeps its scale."""

    rank_pattern: dict[str, int]
    """Anchored, escaped keys as PEFT's LoraConfig reads them."""
    alpha_pattern: dict[str, int | float]
    """Empty where α is unknown."""
    r: int
    """The largest of the ranks: what `LoraConfig(r=…)` should say."""
    lora_alpha: int | float | None
    """α of a module with that rank."""
    params: int
    bytes: int
    reduction: Float12
    max_lora_rank: int | None


class Suggestions(Part):
    """Hypotheses about smaller ranks. They rest on the energy of the weights, which is crude evidence."""

    tau: float
    """Energy threshold used: the `tau` of the report."""
    allowed_ranks: tuple[int, ...]
    """Ranks that may be suggested, up to the largest of the adapter."""
    current_max_rank: int
    current_max_lora_rank: int | None
    """vLLM's permitted max_lora_rank that the adapter needs now."""
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
    """How large the update is and where it sits."""

    fro_norm_total: Float12
    """√Σ‖ΔW‖_F²."""
    sigma_max: Float12
    """Largest ‖ΔW‖₂ of a module."""
    per_layer: tuple[LayerGain, ...]
    top_modules: tuple[str, ...]
    """Modules with the largest ‖ΔW‖_F, at most ten."""
    top_modules_share: Float12
    """Energy share of the top 10 % of modules."""
    hhi: Float12
    """Σ share² over layers: 1/L when even, 1 when one layer has everything."""


class AuditReport(Report):
    """`audit.json`: how much of its rank an adapter uses, module by module.

    >>> report = audit_adapter("my_adapter")
    >>> AuditReport.read(report.save("audit.json")) == report
    True
    >>> len(report.to_dataframe())
    16
    """

    row_field: ClassVar[str] = "layers"
    repair: ClassVar[str] = "audit the adapter again: gradience audit ADAPTER --output FILE"

    schema_: Literal["gradience.audit/2"] = Field(default="gradience.audit/2", alias="schema")
    adapter: AdapterInfo
    total_lora_params: int
    """Parameters of the audited A and B factors."""
    coverage: Coverage
    n_layers: int
    """LoRA modules (each expert of a stacked tensor counts)."""
    n_trained: int
    """Modules with a measurable update: the ones that means and percentiles are over."""
    tau: float
    """Energy threshold of `energy_rank_tau`, which the suggestions rest on."""
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
    """Null where none may be made (nothing trained, or B·A is not the update); `findings` says why."""
    by_type: dict[ModuleType, TypeSummary]
    gain: Gain | None = None
    """Null where the scale is unknown."""
    evidence: dict[str, str]
    """What the suggestions rest on, the best evidence first."""
    effects: MeasuredEffects | None = None
    """Null without a calibration."""
    base: BaseComparison | None = None
    """Null without the base model's weights."""
    layers: tuple[LayerAudit, ...]
    findings: tuple[Finding, ...]
    run: RunInfo

    def rank_pattern(self) -> dict[str, int]:
        """`rank_pattern` of the per-layer suggestion for PEFT's LoraConfig; empty without a suggestion."""
        return dict(self.suggestions.per_layer.rank_pattern) if self.suggestions else {}

    def json_chunks(self) -> Iterator[str]:
        """The same text as `to_json(indent=None)`, a few modules at a time (50,000 of them make a long string)."""
        from pydantic import TypeAdapter

        head = self.model_copy(update={"layers": ()}).to_json(indent=None)
        before, after = head.split('"layers":[]', maxsplit=1)
        yield before + '"layers":['
        adapter: TypeAdapter[Any] = TypeAdapter(LayerAudit)
        for index, layer in enumerate(self.layers):
            with interruptible():
                text = visible_json(adapter.dump_json(layer).decode())
            yield ("," if index else "") + text
        yield "]" + after
