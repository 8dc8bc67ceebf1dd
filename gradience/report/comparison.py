"""A comparison of two adapters as a document: how far apart are the updates, are the runs independent, where do they
differ, and what does this not show? A section is one function and one line in SECTIONS."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gradience.reports.base import terminal
from gradience.reports.base.blocks import (
    Block,
    Column,
    Document,
    Facts,
    Heading,
    Inline,
    Mark,
    Note,
    Notes,
    Paragraph,
    Span,
    figures,
)
from gradience.reports.base.modules import NUMBER, Measure, by_kind, measure, module_table, single
from gradience.reports.base.numbers import MISSING, count, number_range, percent, plural, sig
from gradience.reports.base.source import commit_of
from gradience.reports.base.view import DOCUMENT, View, more
from gradience.reports.comparison import ComparisonReport, Independence, ModuleComparison, Presence

Modules = Sequence[ModuleComparison]

SHOWN_KINDS, SHOWN_FURTHEST, SHOWN_APART = 12, 5, 3
PRESENCE: dict[Presence, str] = {
    "only-a": "only in A",
    "only-b": "only in B",
    "shapes-differ": "shapes differ",
}
INDEPENDENCE: dict[Independence, tuple[Mark, str]] = {
    "independent": ("good", "yes: "),
    "same-start": ("warning", "no, they share their start: "),
    "near-copies": ("warning", "no, they are nearly the same: "),
    "truncation": ("info", ""),
    "not-comparable": ("unknown", "not comparable: "),
}
LEGEND: tuple[tuple[str, Inline], ...] = (
    ("kept", "energy of A inside the directions of B"),
    (
        "output, input",
        "mean squared cosine between the k leading directions on that side, k the smaller k@90",
    ),
    ("angle", "the largest principal angle between them"),
)
QUALITY = "Whether both answer alike: directions of equal energy can matter very differently to a task. Evaluate both."


def comparison_text(
    report: ComparisonReport, *, width: int | None = None, color: bool = False, layers: bool = False
) -> str:
    """Return what `gradience compare` prints.

    width: columns of the terminal; None for a file or a pipe. layers: whole lists and every module, and nothing
    points to `--layers`.
    """
    view = View(brief=not layers, layers=layers)
    return terminal.render(comparison_blocks(report, view), width=width, color=color)


def comparison_blocks(report: ComparisonReport, view: View = DOCUMENT) -> Document:
    """Return the sections, in the order of the questions that a reader has."""
    return [block for section in SECTIONS for block in section(report, view)]


def title_blocks(report: ComparisonReport, view: View) -> list[Block]:
    """Return both adapters, how many modules could be compared, and what stands in the way of more."""
    numbers = (
        (report.n_only_a, "only in A"),
        (report.n_only_b, "only in B"),
        (report.n_shapes_differ, "with different shapes"),
    )
    parts = [f"{plural(report.n_both, 'module')} in both"]
    parts += [f"{count(number)} {what}" for number, what in numbers if number]
    sides = (
        ("A", report.path_a, report.sha256_a, report.source_a),
        ("B", report.path_b, report.sha256_b, report.source_b),
    )
    adapters: list[tuple[str, Inline]] = [
        (
            side,
            (
                Span(path, "name"),
                Span("  " + " · ".join([f"sha256 {digest[:12]}", *commit_of(source)]), "dim"),
            ),
        )
        for side, path, digest, source in sides
    ]
    blocks: list[Block] = [Heading("Comparison", level=1), Facts(adapters), Paragraph(" · ".join(parts))]
    return [*blocks, Notes([Note("warning", note) for note in report.notes])] if report.notes else blocks


def distance_blocks(report: ComparisonReport, view: View) -> list[Block]:
    """Return the three figures over all modules; one that a side lacks, or has in another shape, counts as 0 there."""
    apart = report.n_only_a + report.n_only_b + report.n_shapes_differ
    over = "over all modules"
    if apart:
        modules = plural(apart, "module without a counterpart counts", "modules without a counterpart count")
        over += f"; {modules} as 0 on the other side"
    rows = (
        ("difference", sig(report.relative_difference), f"‖ΔW_A − ΔW_B‖ / ‖ΔW_A‖ {over}"),
        ("cosine", sig(report.cosine), "between the updates: 1 same direction, 0 orthogonal"),
        ("kept energy", percent(report.kept_energy), "of A inside the directions of B"),
    )
    return [Heading("How far apart are the updates?"), figures(rows)]


def independence_blocks(report: ComparisonReport, view: View) -> list[Block]:
    """Return whether these are replicates of one experiment; of an adapter and a truncation of it nobody asks that."""
    replicates = report.replicates
    mark, answer = INDEPENDENCE[replicates.verdict]
    truncation = replicates.verdict == "truncation"
    cosines = []
    if (
        not truncation
        and replicates.cosine_lora_A_median is not None
        and replicates.cosine_lora_B_median is not None
    ):
        a, b = sig(replicates.cosine_lora_A_median, 2), sig(replicates.cosine_lora_B_median, 2)
        cosines = [f"median |cosine| between the factors: A {a}, B {b}"]
    return [
        Heading("How are they related?" if truncation else "Are they independent runs?"),
        Notes([Note(mark, f"{answer}{replicates.reason}", cosines)]),
    ]


# ---------------------------------------------------------------- measures of one module, or of several


def _hundredths(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _degrees(value: float | None) -> str:
    return MISSING if value is None else f"{value:.0f}°"


def ranks(modules: Modules) -> str:
    """Return `8`, `8 : 1–2` for A and B, `8 : –` where one lacks them."""
    ranks_a = number_range(module.r_a for module in modules if module.r_a is not None)
    ranks_b = number_range(module.r_b for module in modules if module.r_b is not None)
    return ranks_a if ranks_a == ranks_b else f"{ranks_a} : {ranks_b}"


def _why_apart(module: ModuleComparison) -> str:
    """`only in A`; `shapes differ (64 × 48 : 64 × 96)`, those of ΔW in A and in B."""
    why = PRESENCE[module.presence]
    if module.presence != "shapes-differ" or not (module.shape_a and module.shape_b):
        return why
    return f"{why} ({' : '.join('{} × {}'.format(*shape) for shape in (module.shape_a, module.shape_b))})"


RANK: Measure[ModuleComparison] = Measure(Column("rank", ">"), ranks)
WHY_APART: Measure[ModuleComparison] = Measure(Column(), lambda modules: _why_apart(modules[0]))
DISTANCE: tuple[Measure[ModuleComparison], ...] = (
    RANK,
    measure("difference", lambda module: module.relative_difference, sig),
    measure("cosine", lambda module: module.cosine, sig),
    measure("kept", lambda module: module.kept_energy, percent),
)
EVERYTHING: tuple[Measure[ModuleComparison], ...] = (
    *DISTANCE,
    measure("output", lambda module: module.left_overlap, _hundredths, drop=3),
    measure("input", lambda module: module.right_overlap, _hundredths, drop=2),
    measure("angle", lambda module: module.largest_angle, _degrees, drop=1),
)


# ---------------------------------------------------------------- where?


def where_blocks(report: ComparisonReport, view: View) -> list[Block]:
    """Return medians of each kind, the modules that differ most, and those that could not be compared."""
    kinds, hidden = by_kind(report.modules, lambda module: 1, SHOWN_KINDS if view.brief else None)
    return [
        Heading("Where?", aside="medians of each kind"),
        module_table("kind", kinds, (NUMBER, *EVERYTHING)),
        *more(hidden, "more kind of modules", view.rest, "more kinds of modules"),
        *_furthest(report.modules),
        *([Facts(LEGEND)] if any(module.left_overlap is not None for module in report.modules) else []),
        *_apart(report.modules, view),
    ]


def _furthest(modules: Modules) -> list[Block]:
    """The modules that differ most, where there is a choice."""
    different = [module for module in modules if module.relative_difference]
    if len(different) < 2:
        return []
    different.sort(key=lambda module: (-(module.relative_difference or 0.0), label_of(module)))
    return [module_table("differ most", single(different[:SHOWN_FURTHEST], label_of), DISTANCE)]


def _apart(modules: Modules, view: View) -> list[Block]:
    """The modules that only one side has, or that have other shapes there."""
    groups = [[module for module in modules if module.presence == presence] for presence in PRESENCE]
    most = SHOWN_APART if view.brief else None
    shown = [module for group in groups for module in group[:most]]
    if not shown:
        return []
    hidden = sum(map(len, groups)) - len(shown)
    return [
        module_table("not compared", single(shown, label_of), (RANK, WHY_APART)),
        *more(hidden, "more that is not compared", view.rest, "more that are not compared"),
    ]


def label_of(module: ModuleComparison) -> str:
    """Return the name; with the expert's number where one tensor stacks several."""
    return module.name if module.expert is None else f"{module.name}[{module.expert}]"


def caveat_blocks(report: ComparisonReport, view: View) -> list[Block]:
    """Return what no comparison shows."""
    return [Heading("What does this not show?"), Paragraph(QUALITY)]


def layer_blocks(report: ComparisonReport, view: View) -> list[Block]:
    """Return every module that was compared, where that is asked for."""
    both = [module for module in report.modules if module.presence == "both"]
    if not view.layers or not both:
        return []
    return [Heading("Every module"), module_table("module", single(both, label_of), EVERYTHING)]


SECTIONS: tuple[Callable[[ComparisonReport, View], list[Block]], ...] = (
    title_blocks,
    distance_blocks,
    independence_blocks,
    where_blocks,
    caveat_blocks,
    layer_blocks,
)
