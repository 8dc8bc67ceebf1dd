"""The plan of a compression, and `compression_report.json`: what was written, and exactly what was lost."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from gradience.files.artifact import ROW_CONFIG, Float12, Part
from gradience.reports.base.encodings import ENCODING_NAMES
from gradience.reports.base.prediction import CurvePoint, Prediction
from gradience.reports.base.report import Report
from gradience.reports.base.run import RunInfo
from gradience.reports.base.source import HubSource, InitialAdapter

Encoding = Annotated[str, Field(json_schema_extra=lambda schema: schema.update(enum=list(ENCODING_NAMES)))]
"""How ranks and scales are written: one of ENCODING_NAMES."""
Verdict = Literal["loads", "wrong scale", "wrong meaning", "refuses", "not run"]


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class ModulePlan:
    """What is to become of one LoRA module (all experts of a stacked tensor share one rank)."""

    name: str
    old_rank: int
    new_rank: int
    """0: the module is left out."""
    old_params: int
    new_params: int
    old_bytes: int
    new_bytes: int
    kept_energy: Float12 | None
    """Σσ² kept / Σσ²; null for an untrained module."""
    predicted_error: Float12 | None
    """‖ΔW − ΔW′‖_F/‖ΔW‖_F before storage rounding; null for an untrained module."""
    norm: Float12 | None
    """‖ΔW‖_F; null where α is unknown."""
    scale: Float12 | None = None
    """s, which stays what it is; null where α is unknown."""
    fixed: str = ""
    """Why the module keeps its rank whatever the criterion says; empty otherwise."""


class CompressionPlan(Report):
    """Ranks for every module, and what they are predicted to cost: a pure function of an audit and a criterion.

    >>> plan = compress_adapter("my_adapter", reduction=0.5, dry_run=True)
    >>> f"{plan.reduction:.0%}", f"{plan.predicted_error:.1%}"
    ('50%', '9.2%')
    """

    row_field: ClassVar[str] = "modules"
    repair: ClassVar[str] = (
        "print a new plan with `gradience compress --dry-run --json`, and edit nothing but new_rank"
    )

    schema_: Literal["gradience.compression_plan/1"] = Field(
        default="gradience.compression_plan/1", alias="schema"
    )
    adapter_path: str
    adapter_sha256: str
    format: str = "peft"
    """Of the adapter, as its audit has it."""
    criterion: str
    """In words, e.g. `energy ≥ 0.9 per module, ranks from 1, 2, 4, 8`."""
    modules: tuple[ModulePlan, ...]
    old_params: int
    new_params: int
    old_bytes: int
    new_bytes: int
    reduction: Float12
    """1 − new_params / old_params (LoRA factors only)."""
    kept_energy: Float12
    """Σ over modules of the kept ‖ΔW‖_F² / Σ‖ΔW‖_F² (of ‖B·A‖_F² where α is unknown). With a calibration 1 −
    predicted_error², which may fall below 0: its components are not orthogonal."""
    predicted_error: Float12
    """√(1 − kept_energy)."""
    max_rank: int
    old_max_lora_rank: int | None
    """vLLM's permitted max_lora_rank that the adapter needs now."""
    new_max_lora_rank: int | None
    initial_sha256: str | None = None
    """Of the initial adapter that the update is the difference to; null where there is none."""
    calibration_sha256: str | None = None
    """Of the calibration that its components come from; null for those of the SVD."""
    prediction: Prediction | None = None
    """Null without a calibration, and where it is withheld."""
    prediction_withheld: str = ""
    """Why there is a calibration and no prediction."""
    curve: tuple[CurvePoint, ...] = ()
    """Predictions at other sizes, from large to small; empty without a prediction."""


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class ModuleResult:
    """One module as written."""

    name: str
    old_rank: int
    new_rank: int
    stored_rank: int
    """Rank on disk: larger than new_rank where the encoding pads with zeros."""
    scale: Float12
    """s, the same before and after."""
    folded: Float12
    """Factor that B absorbed because the config cannot say this scale; 1 where none was needed."""
    dtype: str
    unchanged: bool
    """True where both factors were copied byte for byte."""
    kept_energy: Float12 | None
    predicted_error: Float12 | None
    measured_error: Float12 | None
    """‖ΔW − ΔW′‖_F/‖ΔW‖_F of the factors as stored; null for an untrained module."""
    output_error: Float12 | None = None
    """DoRA only: ‖W′ − W″‖_F/‖W′ − W‖_F of the whole layers, magnitude and base weight included."""
    old_params: int
    new_params: int
    old_bytes: int
    new_bytes: int
    method: Literal["gram", "qr", "copy", "dropped"]


class RuntimeVerdict(Part):
    """What a runtime makes of this file, where the same was run: its version, architecture and kinds of tensors."""

    runtime: str
    version: str
    verdict: Verdict
    """`wrong scale` and `wrong meaning`: it loads the file without a word, and computes something else than PEFT."""
    why: str
    """What it refuses, gets wrong, needs, or was not run with."""
    run: str
    """Where the runs are described; empty where there was none."""


class PeftCheck(Part):
    """PEFT loaded the folder on a skeleton of the base model: nothing made anew, nothing left aside."""

    peft: str
    """Version, as are the next two."""
    torch: str
    transformers: str
    modules: int
    """LoRA modules (or parameters) that PEFT made, each with the rank and the scale of this report."""
    tensors: int
    """Tensors of the file, each in the loaded model bit for bit."""


class CompressionReport(Report):
    """`compression_report.json`: what was written, and exactly what was lost.

    >>> report = CompressionReport.read("smaller/compression_report.json")
    >>> f"{report.reduction:.0%}", f"{report.measured_error:.1%}"
    ('50%', '12.6%')
    """

    row_field: ClassVar[str] = "modules"

    schema_: Literal["gradience.compression/2"] = Field(default="gradience.compression/2", alias="schema")
    source_path: str
    source_sha256: str
    source: HubSource | None = None
    """Where on the hub the original was read; null for one on the disk."""
    output_path: str
    output_sha256: str
    format: str = "peft"
    """In which it is written: peft, mlx or diffusers."""
    criterion: str
    encoding: Encoding
    encoding_reason: str
    modules: tuple[ModuleResult, ...]
    dropped: tuple[str, ...]
    """Modules at rank 0: left out of the file, and of the targets in the config."""
    kept_energy: Float12
    predicted_error: Float12
    """For the whole adapter: √(Σ‖ΔW − ΔW′‖² / Σ‖ΔW‖²) in exact arithmetic."""
    measured_error: Float12
    """The same for the factors as stored."""
    old_params: int
    new_params: int
    """LoRA parameters on disk (with the zeros of a padded encoding)."""
    reduction: Float12
    old_bytes: int
    """Size of the weight files."""
    new_bytes: int
    old_max_lora_rank: int | None
    new_max_lora_rank: int | None
    carried_tensors: int
    """Tensors copied byte for byte beside the factors."""
    stripped: tuple[str, ...] = ()
    """Tensors left out: on request, of other adapters in the file, and copies that PEFT does not read."""
    renamed: int = 0
    """Tensors that had another name than the one PEFT saves, under which they are written."""
    carried_files: tuple[str, ...]
    """Files copied byte for byte."""
    annotated_files: tuple[str, ...] = ()
    """Carried files that describe the original, with a block on top that says so."""
    left_out_files: tuple[str, ...]
    """Files of the source that are not in the output: they describe the old weights, or are pickles."""
    initial: InitialAdapter | None = None
    """What the update is the difference to; null where there is none."""
    calibration_sha256: str | None = None
    """As in the plan, as are the next three."""
    prediction: Prediction | None = None
    prediction_withheld: str = ""
    curve: tuple[CurvePoint, ...] = ()
    config_changes: dict[str, str]
    """Field of adapter_config.json -> `old -> new`, shortened."""
    peft_check: PeftCheck | None = None
    """Null where it was not asked for."""
    architecture: str | None
    """Class of the base model; null where neither the adapter nor a config.json on this machine names it."""
    runtimes: tuple[RuntimeVerdict, ...]
    warnings: tuple[str, ...] = ()
    run: RunInfo
