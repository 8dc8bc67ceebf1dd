"""`merge_report.json`: the merged adapter as written, its exact error, what is left of each parent, its tests."""

from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

from gradience.files.artifact import Float12, Part, artifact_row
from gradience.reports.base import blocks as doc
from gradience.reports.base.graded import Grade
from gradience.reports.base.numbers import MISSING, number_range, percent, plural, sig, size
from gradience.reports.base.report import HubSource, Report, RunInfo, commit_of
from gradience.reports.compression import RuntimeVerdict, runtime_notes
from gradience.reports.evaluation import EvaluatedAdapter, bound_cell, delta_cell, examples_cell, level_cell

REPORT, DOCUMENT = "merge_report.json", "merge_report.md"
ParentVerdict = Literal[
    "holds on all parents", "holds on some parents", "inconclusive", "not evaluated", "do not merge"
]
MARKS: dict[ParentVerdict, doc.Mark] = {
    "holds on all parents": "good",
    "holds on some parents": "warning",
    "inconclusive": "unknown",
}


def verdict_of(grades: Sequence[Grade | None]) -> ParentVerdict:
    """Return the verdict on a merge with these grades on its parents' examples."""
    if "B" in grades:
        return "holds on some parents" if set(grades) - {"B"} else "holds on all parents"
    if "D" in grades:
        return "do not merge"
    return "not evaluated" if "X" in grades else "inconclusive"


@artifact_row
class MergedModule:
    """One module of the merged adapter. Tuples have an entry for each parent, null if it lacks the module."""

    name: str
    parent_ranks: tuple[int | None, ...]
    rank: int
    """Rank as stored."""
    norm: Float12
    """‖M‖_F of the merge M before it is truncated; M includes the scale."""
    error: Float12 | None
    """‖M − M′‖_F/‖M‖_F of the factors as stored: truncation and rounding; null if M is 0."""


class MergeParent(Part):
    """One of the merged adapters."""

    name: str
    """Name of its folder, or of the folder above it if two folders have the same name."""
    path: str
    sha256: str
    source: HubSource | None = None
    """Hub repository and revision; null for an adapter on disk."""
    weight: float
    modules: int
    smallest_rank: int
    largest_rank: int
    cosine: Float12 | None
    """⟨ΔW_i, M′⟩/(‖ΔW_i‖‖M′‖) over all modules."""
    projection: Float12 | None
    """⟨ΔW_i, M′⟩/‖ΔW_i‖² over all modules: the component of the merge along the update, relative to the update."""


class PredictedKl(Part):
    """Predicted KL per token of the truncated sum from the exact one, on the examples of one calibration."""

    calibration_sha256: str
    kl_per_token: Float12
    high: Float12
    """Upper end of its 95 % interval, which must be below the limit."""


class ParentEvidence(Part):
    """The merged adapter against one parent, on that parent's examples."""

    parent: str
    reference: EvaluatedAdapter
    merged: EvaluatedAdapter
    evaluation: str
    """Folder of the evaluation, relative to that of the merged adapter."""


class ParentTests(Part):
    """Paired comparisons of the merged adapter with each parent."""

    verdict: ParentVerdict
    parents: tuple[ParentEvidence, ...]


class SearchedMerge(Part):
    """One entry of the search grid, on the dev examples."""

    method: str
    weights: tuple[float, ...]
    density: float | None
    deltas: tuple[Float12, ...]
    """Difference from each parent on its dev examples: accuracy as a share; for likelihoods, nats per token gained."""
    chosen: bool


class MergeReport(Report):
    """Several adapters of one base merged into one.

    >>> report = merge_adapters(["my_adapter", "other_adapter"], "merged")
    >>> report.method, report.largest_rank, report.error
    ('linear', 16, 0.0)
    """

    row_field: ClassVar[str] = "modules"
    repair: ClassVar[str] = "merge again: gradience merge A B -o DIR --force"

    schema_: Literal["gradience.merge/1"] = "gradience.merge/1"
    parents: tuple[MergeParent, ...]
    base: str | None
    """Base model that the configs name."""
    output_path: str
    output_sha256: str
    method: str
    density: float | None
    """Share of entries that is kept of each update; null for methods without it."""
    seed: int | None
    """Seed of the entries that DARE drops; null for other methods."""
    requested_rank: int | None
    """Null: the default of the method, or chosen by predicted KL."""
    saved: str
    """Treatment of trained heads, biases or embeddings that differ: refuse or average."""
    largest_rank: int
    dtype: str
    """Storage types of the factors."""
    error: Float12
    """√(Σ‖M − M′‖²/Σ‖M‖²) over all modules: truncation and rounding of the factors as stored."""
    bytes: int
    """Size of the weights file."""
    predicted: tuple[PredictedKl, ...] = ()
    """One for each calibration; empty without."""
    architecture: str | None
    runtimes: tuple[RuntimeVerdict, ...]
    certificate: ParentTests | None = None
    """Null without examples of the parents."""
    search: tuple[SearchedMerge, ...] = ()
    """Results of the search grid on dev examples; empty without a search."""
    modules: tuple[MergedModule, ...]
    notes: tuple[str, ...]
    run: RunInfo

    def screen(self, view: doc.View) -> doc.Document:
        """Return the result, the parents, the search, and the runtimes; on a screen how to test an untested merge."""
        data = " ".join(f"--data {row.name}=rows.jsonl" for row in self.parents)
        return [
            doc.Heading(("Merged into ", doc.Span(self.output_path, "name")), level=1, aside=_method(self)),
            *merge_blocks(self),
            doc.Heading("Search on dev examples"),
            _grid(self),
            doc.Heading("Runtime support"),
            doc.Notes(runtime_notes(row for row in self.runtimes if row.run)),
            *([] if self.certificate else view.next_steps(f"add {data}")),
        ]


def merge_blocks(report: MergeReport) -> list[doc.Block]:
    """Return the verdict with the comparisons behind it, the size, the error, the warnings, and the parents."""
    ranks = number_range(row.rank for row in report.modules)
    sentence = (
        f"LoRA rank {ranks} in {plural(len(report.modules), 'module')}, {size(report.bytes)}. Truncation and"
        f" rounding changed the merged update by {percent(report.error)} of its norm."
    )
    for row in report.predicted:
        kl = f"{sig(row.kl_per_token)} nats, at most {sig(row.high)}"
        sentence += f" Predicted KL/token from the exact sum: {kl}."
    tested = doc.table_of(
        report.certificate.parents if report.certificate else (),
        (doc.Column("parent"), lambda row: doc.Span(row.parent, "name")),
        (doc.Column("examples", ">", drop=1), lambda row: examples_cell(row.merged)),
        (doc.Column("parent's own", ">"), lambda row: level_cell(row.reference)),
        (doc.Column("merged", ">"), lambda row: level_cell(row.merged)),
        (doc.Column("Δ", ">"), lambda row: delta_cell(row.merged)),
        (doc.Column("95 % bound", ">", drop=2), lambda row: bound_cell(row.merged)),
        (doc.Column("grade"), lambda row: row.merged.grade or MISSING),
    )
    parents = doc.table_of(
        report.parents,
        (doc.Column("parent"), lambda row: doc.Span(row.name, "name")),
        (doc.Column("weight", ">"), lambda row: f"{row.weight:g}"),
        (doc.Column("rank", ">"), lambda row: number_range((row.smallest_rank, row.largest_rank))),
        (doc.Column("cosine with the merge", ">"), lambda row: sig(row.cosine)),
        (doc.Column("strength", ">"), lambda row: sig(row.projection)),
    )
    return [
        doc.Notes([_verdict(report)]),
        doc.Paragraph(sentence),
        doc.warned(report.notes),
        doc.Heading("Test on each parent's examples"),
        tested,
        doc.Heading("Parents"),
        parents,
        doc.dim("strength: component of the merge along the parent's update, relative to that update"),
    ]


def card_blocks(report: MergeReport) -> list[doc.Block]:
    """Return what a model card says: the method, the digests of the parents, and the result."""
    method = f"{plural(len(report.parents), 'adapter')} merged by gradience merge ({_method(report)})."
    files = [
        (row.name, f"sha256 {', '.join([row.sha256, *commit_of(row.source)])}") for row in report.parents
    ]
    return [doc.Heading("Merge"), doc.Paragraph(method), doc.Facts(files), *merge_blocks(report)]


def _method(report: MergeReport) -> str:
    """Return `ties, weights 1, 1, density 0.5`."""
    density = "" if report.density is None else f", density {report.density:g}"
    seed = "" if report.seed is None else f", seed {report.seed}"
    return f"{report.method}, weights {_listed(row.weight for row in report.parents)}{density}{seed}"


def _listed(weights: Iterable[float]) -> str:
    return ", ".join(f"{weight:g}" for weight in weights)


def _verdict(report: MergeReport) -> doc.Note:
    tests = report.certificate
    if tests is None:
        return doc.Note("unknown", "Accuracy was not tested, and weights do not show it.")
    reasons: list[doc.Inline] = [
        (doc.Span(row.parent, "name"), f": {row.merged.grade}, {row.merged.reason}") for row in tests.parents
    ]
    mark, verdict = MARKS.get(tests.verdict, "error"), tests.verdict.capitalize()
    lower = [row.parent for row in tests.parents if row.merged.grade == "C" and row.merged.is_lower]
    if lower and mark == "unknown":
        mark, verdict = "warning", f"{verdict} at this margin, but less accurate than {' and '.join(lower)}"
    return doc.Note(mark, verdict, reasons)


def _grid(report: MergeReport) -> doc.Block:
    deltas = [
        (doc.Column(f"Δ {parent.name}", ">"), lambda row, place=place: f"{100 * row.deltas[place]:+.1f}")
        for place, parent in enumerate(report.parents)
    ]
    return doc.table_of(
        report.search,
        (doc.Column("method"), lambda row: row.method),
        (doc.Column("weights", ">"), lambda row: _listed(row.weights)),
        (doc.Column("density", ">"), lambda row: MISSING if row.density is None else f"{row.density:g}"),
        *deltas,
        (doc.Column(""), lambda row: "chosen" if row.chosen else ""),
    )
