"""`gradience compare --json`: two adapters, module by module."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from gradience.files.artifact import ROW_CONFIG, Float12, Part
from gradience.reports.base.report import Report
from gradience.reports.base.run import RunInfo
from gradience.reports.base.source import HubSource

Presence = Literal["both", "only-a", "only-b", "shapes-differ"]
Independence = Literal["independent", "same-start", "near-copies", "truncation", "not-comparable"]


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class ModuleComparison:
    """One module (or one expert of a stacked one) in both adapters. ΔW includes the scale."""

    name: str
    expert: int | None = None
    presence: Presence
    r_a: int | None = None
    r_b: int | None = None
    shape_a: tuple[int, int] | None = None
    """[m, n] of ΔW_a, where the module cannot be compared: the other adapter lacks it, or has another shape."""
    shape_b: tuple[int, int] | None = None
    norm_a: Float12 | None = None
    """‖ΔW_a‖_F."""
    norm_b: Float12 | None = None
    relative_difference: Float12 | None = None
    """‖ΔW_a − ΔW_b‖_F/‖ΔW_a‖_F; null where ΔW_a is 0."""
    cosine: Float12 | None = None
    """⟨ΔW_a, ΔW_b⟩/(‖ΔW_a‖‖ΔW_b‖)."""
    kept_energy: Float12 | None = None
    """‖P_b ΔW_a Q_b‖²/‖ΔW_a‖², P_b and Q_b projecting on the column and row space of ΔW_b."""
    compared_dimensions: int | None = None
    """k: the smaller of both energy ranks k@90; the overlaps are of the k leading directions."""
    left_overlap: Float12 | None = None
    """Mean squared cosine of the principal angles between the leading output directions: 1 same, 0 orthogonal."""
    right_overlap: Float12 | None = None
    """The same for the leading input directions."""
    largest_angle: Float12 | None = None
    """Largest principal angle of both sides, in degrees."""
    cosine_lora_A: Float12 | None = None
    """Cosine between the stored factors A (`lora_A`) of the two adapters, where their shapes agree."""
    cosine_lora_B: Float12 | None = None
    """The same for the factors B (`lora_B`)."""


class Replicates(Part):
    """Are these two runs independent? Factors of independent runs are nearly orthogonal (random A)."""

    verdict: Independence
    """`truncation`: one adapter is a truncation of the other, so that the question does not arise."""
    cosine_lora_A_median: Float12 | None
    cosine_lora_B_median: Float12 | None
    reason: str


class ComparisonReport(Report):
    """Two adapters, module by module and overall.

    >>> report = compare_adapters("my_adapter", "smaller")
    >>> f"{report.kept_energy:.1%}", report.n_both
    ('98.4%', 16)
    """

    row_field: ClassVar[str] = "modules"
    repair: ClassVar[str] = "compare the adapters again: gradience compare A B --json"

    schema_: Literal["gradience.comparison/2"] = Field(default="gradience.comparison/2", alias="schema")
    path_a: str
    sha256_a: str
    path_b: str
    sha256_b: str
    source_a: HubSource | None = None
    """Where on the hub A was read; null for one on the disk."""
    source_b: HubSource | None = None
    n_both: int
    n_only_a: int
    n_only_b: int
    n_shapes_differ: int
    relative_difference: Float12 | None
    """√(Σ‖ΔW_a − ΔW_b‖²/Σ‖ΔW_a‖²) over all modules; one that a side lacks, or has in another
    shape, counts as 0 there."""
    cosine: Float12 | None
    kept_energy: Float12 | None
    """Share of the energy of A inside B's column and row spaces, over all modules."""
    replicates: Replicates
    modules: tuple[ModuleComparison, ...]
    notes: tuple[str, ...]
    run: RunInfo
