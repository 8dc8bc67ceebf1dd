"""A comparison of two adapters -> the screen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from gradience.adapters.keys import family_of
from gradience.artifacts.comparison import ComparisonReport, ModuleComparison
from gradience.report.names import display_name, display_sentence
from gradience.report.numbers import number_range, percent, sig
from gradience.report.terminal import Cell, Line, Span, columns, fit, line, paragraph, render

WIDTH = 80
PRESENCE = {"only-a": "only in A", "only-b": "only in B", "shapes-differ": "shapes differ"}
VERDICTS = {
    "independent": ("✓", "good", "independent runs"),
    "same-start": ("!", "warn", "not independent: the same start"),
    "near-copies": ("!", "warn", "not independent: nearly the same adapter"),
    "not-comparable": ("·", "dim", "independence cannot be told"),
}


def comparison_text(
    report: ComparisonReport, *, width: int | None = None, color: bool = False, layers: bool = False
) -> str:
    """Totals, independence, one row a family; with `layers` one row a module."""
    width = max(WIDTH, min(width or WIDTH, 100))
    mark, style, words = VERDICTS[report.replicates.verdict]
    cosines = ""
    if report.replicates.cosine_A_median is not None:
        cosines = (
            f" (median |cosine| of A {sig(report.replicates.cosine_A_median, 2)}, "
            f"of B {sig(report.replicates.cosine_B_median, 2)})"
        )
    lines: list[Line] = [
        line(Span("A  ", "dim"), Span(fit(display_name(report.path_a), width - 3), "strong")),
        line(Span("B  ", "dim"), Span(fit(display_name(report.path_b), width - 3), "strong")),
        *paragraph(matching(report), width, indent=0, style="dim"),
        [],
        line("  difference   ", Span(sig(report.relative_difference), "strong"), "  ‖ΔW_A − ΔW_B‖/‖ΔW_A‖"),
        line("  cosine       ", Span(sig(report.cosine), "strong"), "  between the two updates"),
        line(
            "  kept energy  ",
            Span(percent(report.kept_energy), "strong"),
            "  of A inside the directions of B",
        ),
        *paragraph(
            f"{words}: {report.replicates.reason}{cosines}",
            width,
            first=[Span("  "), Span(mark, style), Span(" ")],
            indent=4,
        ),
        [],
    ]
    lines += module_lines(report.modules, width) if layers else family_lines(report.modules)
    for note in report.notes:
        lines += paragraph(display_sentence(note), width, first=[Span("  ! ", "warn")], indent=4)
    return render(lines, color=color)


def matching(report: ComparisonReport) -> str:
    """How many modules could be compared."""
    parts = [f"{report.n_both} modules in both"]
    parts += [f"{report.n_only_a} only in A"] if report.n_only_a else []
    parts += [f"{report.n_only_b} only in B"] if report.n_only_b else []
    parts += [f"{report.n_shapes_differ} with different shapes"] if report.n_shapes_differ else []
    return " · ".join(parts)


HEAD = ("rank", "difference", "cosine", "kept", "overlap", "angle")
LEGEND = (
    "overlap: mean squared cosine between the leading directions (k@90 of the smaller), output and input side; "
    "angle: the largest principal angle."
)


def family_lines(modules: Sequence[ModuleComparison]) -> list[Line]:
    """Medians by family."""
    grouped: dict[str, list[ModuleComparison]] = defaultdict(list)
    for module in modules:
        grouped[family_of(module.name)].append(module)
    table: list[list[Cell]] = [[Span("modules (medians)", "heading"), *(Span(text, "dim") for text in HEAD)]]
    for family, members in grouped.items():
        table.append([fit(f"{display_name(family)} × {len(members)}", 30), *cells_of(members)])
    return [*columns(table, "<>>>>>>"), *paragraph(LEGEND, WIDTH, style="dim")]


def module_lines(modules: Sequence[ModuleComparison], width: int) -> list[Line]:
    """One row a module."""
    table: list[list[Cell]] = [[Span("module", "heading"), *(Span(text, "dim") for text in HEAD)]]
    for module in modules:
        name = module.name if module.expert is None else f"{module.name}[{module.expert}]"
        shown = Span(fit(display_name(name), width - 50), "name")
        if module.presence == "both":
            table.append([shown, *cells_of([module])])
        else:
            table.append([shown, PRESENCE[module.presence]])
    return [*columns(table, "<>>>>>>"), *paragraph(LEGEND, width, style="dim")]


def cells_of(members: Sequence[ModuleComparison]) -> list[Cell]:
    """Ranks, and the medians of what was compared."""
    ranks_a = number_range(module.r_a for module in members if module.r_a is not None)
    ranks_b = number_range(module.r_b for module in members if module.r_b is not None)
    left, right = middle(members, "left_overlap"), middle(members, "right_overlap")
    angle = middle(members, "largest_angle")
    return [
        ranks_a if ranks_a == ranks_b else f"{ranks_a} : {ranks_b}",
        sig(middle(members, "relative_difference")),
        sig(middle(members, "cosine")),
        percent(middle(members, "kept_energy")),
        f"{sig(left, 2)} {sig(right, 2)}",
        "–" if angle is None else f"{angle:.0f}°",
    ]


def middle(members: Sequence[ModuleComparison], name: str) -> float | None:
    """Median over the modules that have the figure."""
    values = [value for module in members if (value := getattr(module, name)) is not None]
    return median(values) if values else None
