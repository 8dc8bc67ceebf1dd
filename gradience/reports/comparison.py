"""`gradience compare --json`: two adapters, module by module."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Literal

from gradience.files.artifact import Float12, artifact_row
from gradience.reports.base import blocks as doc
from gradience.reports.base.modules import ModuleField, kind_blocks, measure, module_table
from gradience.reports.base.numbers import MISSING, count, number_range, percent, sig
from gradience.reports.base.report import HubSource, Report, RunInfo, commit_of

Presence = Literal["both", "only-a", "only-b", "shapes-differ"]


@artifact_row
class ModuleComparison:
    """One module (or one expert of a stacked one) in both adapters. ΔW includes the scale."""

    name: str
    expert: int | None = None
    presence: Presence
    r_a: int | None = None
    r_b: int | None = None
    shape_a: tuple[int, int] | None = None
    """[m, n] of ΔW_a, if the module cannot be compared: it is missing in B, or its shape differs."""
    shape_b: tuple[int, int] | None = None
    norm_a: Float12 | None = None
    """‖ΔW_a‖_F."""
    norm_b: Float12 | None = None
    relative_difference: Float12 | None = None
    """‖ΔW_a − ΔW_b‖_F/‖ΔW_a‖_F; null if ΔW_a is 0."""
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
    sign_agreement: Float12 | None = None
    """Share of entries with equal signs in both updates, on at most 64 evenly spaced rows of ΔW; 0.5 by chance."""

    @property
    def label(self) -> str:
        """The name, followed by the expert's number if one tensor stacks several."""
        return self.name if self.expert is None else f"{self.name}[{self.expert}]"


class ComparisonReport(Report):
    """Two adapters, module by module and overall.

    >>> report = compare_adapters("my_adapter", "smaller")
    >>> f"{report.kept_energy:.1%}", report.n_both
    ('98.4%', 16)
    """

    row_field: ClassVar[str] = "modules"
    repair: ClassVar[str] = "compare the adapters again: gradience compare A B --json"

    schema_: Literal["gradience.comparison/3"] = "gradience.comparison/3"
    path_a: str
    sha256_a: str
    path_b: str
    sha256_b: str
    source_a: HubSource | None = None
    """Hub repository and revision of A; null for an adapter on disk."""
    source_b: HubSource | None = None
    n_both: int
    n_only_a: int
    n_only_b: int
    n_shapes_differ: int
    relative_difference: Float12 | None
    """√(Σ‖ΔW_a − ΔW_b‖²/Σ‖ΔW_a‖²) over all modules; a module that is missing on one side, or has a different
    shape there, counts as 0."""
    cosine: Float12 | None
    kept_energy: Float12 | None
    """Share of the energy of A inside B's column and row spaces, over all modules."""
    modules: tuple[ModuleComparison, ...]
    notes: tuple[str, ...]
    run: RunInfo

    def screen(self, view: doc.View) -> doc.Document:
        """Return the sections in reading order."""
        return [block for section in SECTIONS for block in section(self, view)]


SHOWN_APART = 9
UNRELATED = 0.5
"""Cosine below which weights are not called similar."""
PRESENCE: dict[Presence, str] = {
    "only-a": "only in A",
    "only-b": "only in B",
    "shapes-differ": "shapes differ",
}


def title_blocks(report: ComparisonReport, view: doc.View) -> list[doc.Block]:
    """Return the difference over all modules, both adapters, and notes."""
    numbers = (
        (report.n_only_a, "only in A"),
        (report.n_only_b, "only in B"),
        (report.n_shapes_differ, "with different shapes"),
    )
    parts = [f"{count(number)} {words}" for number, words in numbers if number]
    apart = f", {', '.join(parts)} (counted as 0 on the other side)" if parts else ""
    facts: list[doc.Fact] = [
        (side, (doc.Span(path, "name"), *(doc.Span(f"  {commit}", "dim") for commit in commit_of(source))))
        for side, path, source in (
            ("A", report.path_a, report.source_a),
            ("B", report.path_b, report.source_b),
        )
    ]
    facts.append(("modules", f"{count(report.n_both)} in both{apart}"))
    title = ("Comparison of ", doc.Span(report.path_a, "name"), " and ", doc.Span(report.path_b, "name"))
    return [
        doc.Heading(title, level=1),
        doc.Paragraph(doc.Span(answer(report), "strong")),
        doc.Facts(facts),
        doc.warned(report.notes),
    ]


def answer(report: ComparisonReport) -> str:
    """Return a sentence with the difference between the updates and the limits of that comparison."""
    advice = "Similar weights do not prove similar answers: evaluate both adapters."
    if report.cosine is not None and report.cosine < UNRELATED:
        advice = "This does not show how similar their answers are: evaluate both adapters."
    if report.relative_difference is None or report.cosine is None:
        return f"The updates cannot be compared as a whole: A or B is untrained. {advice}"
    differ = f"The updates of A and B differ by {percent(report.relative_difference)} of A's norm"
    return f"{differ} (cosine {sig(report.cosine)}). {advice}"


def _ranks(modules: Sequence[ModuleComparison]) -> str:
    """Return `8`, `8 : 1–2` for A and B, `8 : –` if one of them lacks the modules."""
    ranks_a = number_range(module.r_a for module in modules if module.r_a is not None)
    ranks_b = number_range(module.r_b for module in modules if module.r_b is not None)
    return ranks_a if ranks_a == ranks_b else f"{ranks_a} : {ranks_b}"


def _why_apart(modules: Sequence[ModuleComparison]) -> str:
    """Return `only in A`, or `shapes differ (64 × 48 : 64 × 96)` with those of ΔW in A and in B."""
    (module,) = modules
    both = filter(None, (module.shape_a, module.shape_b) if module.presence == "shapes-differ" else ())
    shapes = " : ".join(f"{rows} × {columns}" for rows, columns in both)
    return f"{PRESENCE[module.presence]} ({shapes})" if shapes else PRESENCE[module.presence]


def _single(modules: Iterable[ModuleComparison]) -> list[tuple[str, list[ModuleComparison]]]:
    """Return a row for each module."""
    return [(module.label, [module]) for module in modules]


def _hundredths(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def error_outside(compared: ModuleComparison) -> float | None:
    """Return the error of A limited to the directions of B: √(1 − kept energy); None if A or B is untrained."""
    return None if compared.kept_energy is None else math.sqrt(max(0.0, 1 - compared.kept_energy))


RANK: ModuleField[ModuleComparison] = (doc.Column("rank A : B", ">"), _ranks)


def _fields(modules: Sequence[ModuleComparison]) -> tuple[ModuleField[ModuleComparison], ...]:
    return (
        RANK,
        measure(modules, "difference", lambda module: module.relative_difference, percent),
        measure(modules, "cosine", lambda module: module.cosine, sig),
        measure(modules, "outside", error_outside, percent),
        measure(modules, "output", lambda module: module.left_overlap, _hundredths, drop=1),
        measure(modules, "input", lambda module: module.right_overlap, _hundredths, drop=2),
    )


def where_blocks(report: ComparisonReport, view: doc.View) -> list[doc.Block]:
    """Return medians of each kind, and the modules that could not be compared."""
    legend = "difference: ‖ΔW_A − ΔW_B‖/‖ΔW_A‖; cosine: 1 for the same direction, 0 for orthogonal updates"
    if any(module.left_overlap is not None for module in report.modules):
        legend += (
            "; outside: share of A's norm outside the directions of B; output, input: overlap of the leading output and"
            " input directions (1: the same, 0: none)"
        )
    blocks = kind_blocks(report.modules, lambda module: 1, view, *_fields(report.modules))
    apart = [row for row in report.modules if row.presence != "both"]
    shown = apart[: SHOWN_APART if view.brief else None]
    return [
        doc.Heading("Modules", aside="medians of each kind"),
        *blocks,
        doc.dim(legend),
        module_table("not compared", _single(shown), RANK, (doc.Column(), _why_apart)),
        *doc.more(
            len(apart) - len(shown), "more module not compared", view.rest, "more modules not compared"
        ),
    ]


def next_blocks(report: ComparisonReport, view: doc.View) -> list[doc.Block]:
    """Return the command that evaluates both adapters, on the screen."""
    path_a, path_b = view.path(0, report.path_a), view.path(1, report.path_b)
    evaluate = f"gradience evaluate {path_a} {path_b} --data rows.jsonl -o evaluated"
    return view.next_steps(evaluate)


def layer_blocks(report: ComparisonReport, view: doc.View) -> list[doc.Block]:
    """Return every module that was compared, on request."""
    both = [module for module in report.modules if module.presence == "both"] if view.full else []
    return [doc.Heading("All modules"), module_table("module", _single(both), *_fields(both))]


SECTIONS: tuple[Callable[[ComparisonReport, doc.View], list[doc.Block]], ...] = (
    title_blocks,
    where_blocks,
    layer_blocks,
    next_blocks,
)
