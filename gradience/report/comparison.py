"""A comparison of two adapters -> the screen. It answers: how far apart are the updates, are the runs independent,
where do they differ, and what this does not show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median

from gradience.adapters.families import family_of
from gradience.artifacts.comparison import ComparisonReport, ModuleComparison
from gradience.report.lines import (
    Cell,
    Line,
    Span,
    columns,
    columns_width,
    fit,
    fit_names,
    line,
    paragraph,
    render,
)
from gradience.report.names import display_name, display_sentence
from gradience.report.numbers import MISSING, count, number_range, percent, plural, sig

MIN_WIDTH, MAX_TEXT = 80, 100
"""Sentences do not grow beyond 100 columns, where they are hard to read; tables take what the terminal has."""
LABEL, VALUE = 12, 8
SHOWN_FAMILIES, SHOWN_FURTHEST, SHOWN_NAMES = 12, 5, 3
MIN_NAME = 20
PRESENCE = {"only-a": "only in A", "only-b": "only in B", "shapes-differ": "shapes differ"}
VERDICTS = {
    "independent": ("✓", "good", "yes"),
    "same-start": ("!", "warn", "no, they share their start"),
    "near-copies": ("!", "warn", "no, they are nearly the same"),
    "truncation": ("·", "info", ""),
    "not-comparable": ("?", "dim", "that cannot be told"),
}
HEAD = ("rank", "difference", "cosine", "kept", "overlap", "angle")
LEGEND = (
    "kept: energy of A inside the directions of B; overlap: mean squared cosine between the leading directions "
    "(k@90 of the smaller), on the output and the input side; angle: the largest principal angle"
)
QUALITY = "Whether both answer alike: directions of equal energy can matter very differently to a task. Evaluate both."


def comparison_text(
    report: ComparisonReport, *, width: int | None = None, color: bool = False, layers: bool = False
) -> str:
    """The screen; with `layers`, also one row a module. width None: names of modules in full, for a file or a pipe."""
    room = max(MIN_WIDTH, width or MIN_WIDTH)
    text = min(room, MAX_TEXT)
    more = "" if layers else ": --layers"
    parts = [
        title_lines(report, room),
        distance_lines(report, text),
        independence_lines(report, text),
        where_lines(report, room, more),
        [line(Span("What does this not show?", "heading")), *paragraph(QUALITY, text)],
    ]
    parts += [module_lines(report.modules, width)] if layers else []
    return render([spans for part in parts for spans in [*part, []]][:-1], color=color)


def title_lines(report: ComparisonReport, room: int) -> list[Line]:
    """Both adapters, how many modules could be compared, and what stands in the way of more."""
    lines: list[Line] = []
    for label, path, digest in (("A", report.path_a, report.sha256_a), ("B", report.path_b, report.sha256_b)):
        tail = f"  sha256 {digest[:12]}"
        name = fit(display_name(path), room - 3 - len(tail))
        lines.append(line(Span(f"{label}  ", "dim"), Span(name, "strong"), Span(tail, "dim")))
    width = min(room, MAX_TEXT)
    lines += paragraph(matching(report), width, indent=0)
    for note in report.notes:
        lines += paragraph(display_sentence(note), width, first=[Span("! ", "warn")], indent=2)
    return lines


def matching(report: ComparisonReport) -> str:
    """How many modules could be compared."""
    parts = [f"{plural(report.n_both, 'module')} in both"]
    parts += [f"{count(report.n_only_a)} only in A"] if report.n_only_a else []
    parts += [f"{count(report.n_only_b)} only in B"] if report.n_only_b else []
    parts += [f"{count(report.n_shapes_differ)} with different shapes"] if report.n_shapes_differ else []
    return " · ".join(parts)


def distance_lines(report: ComparisonReport, width: int) -> list[Line]:
    """The three figures over all modules; one that a side lacks, or has in another shape, counts as 0 there."""
    apart = report.n_only_a + report.n_only_b + report.n_shapes_differ
    over = "over all modules"
    if apart:
        over += f"; {count(apart)} without a counterpart {'counts' if apart == 1 else 'count'} as 0 there"
    rows = [
        ("difference", sig(report.relative_difference), f"‖ΔW_A − ΔW_B‖/‖ΔW_A‖ {over}"),
        ("cosine", sig(report.cosine), "between the updates: 1 same direction, 0 orthogonal"),
        ("kept energy", percent(report.kept_energy), "of A inside the directions of B"),
    ]
    lines = [line(Span("How far apart are the updates?", "heading"))]
    for label, value, meaning in rows:
        first = [Span(f"  {label:<{LABEL}}"), Span(f"{value:>{VALUE}}", "strong"), Span("  ")]
        lines += paragraph(meaning, width, first=first, indent=LABEL + VALUE + 4)
    return lines


def independence_lines(report: ComparisonReport, width: int) -> list[Line]:
    """Are these replicates of one experiment? Of an adapter and a truncation of it nobody asks that."""
    found = report.replicates
    mark, style, words = VERDICTS[found.verdict]
    cosines = ""
    if found.cosine_A_median is not None and found.cosine_B_median is not None:
        cosines = (
            f" (median |cosine| between the factors: A {sig(found.cosine_A_median, 2)}, "
            f"B {sig(found.cosine_B_median, 2)})"
        )
    if found.verdict == "truncation":
        title, text = "What are they to each other?", found.reason
    else:
        title, text = "Are they independent runs?", f"{words}: {found.reason}{cosines}"
    return [
        line(Span(title, "heading")),
        *paragraph(
            display_sentence(text),
            width,
            first=[Span("  "), Span(mark, style), Span(" ")],
            indent=4,
        ),
    ]


# ---------------------------------------------------------------- where?


def where_lines(report: ComparisonReport, room: int, more: str) -> list[Line]:
    """Medians by family, the modules that are furthest apart, and those that could not be compared."""
    width = min(room, MAX_TEXT)
    lines = [*family_lines(report.modules, room, more), *furthest_lines(report.modules, room)]
    lines += paragraph(LEGEND, width, style="dim") if report.n_both else []
    for presence, words in PRESENCE.items():
        apart = [module for module in report.modules if module.presence == presence]
        if apart:
            rest = f" and {count(len(apart) - SHOWN_NAMES)} more{more}" if len(apart) > SHOWN_NAMES else ""
            lines += paragraph(f"{words}: {', '.join(map(named, apart[:SHOWN_NAMES]))}{rest}", width)
    return lines


def named(module: ModuleComparison) -> str:
    """The name; of one that has another shape in B also both shapes."""
    return f"{display_name(module.name)}{shapes_of(module)}"


def shapes_of(module: ModuleComparison) -> str:
    """` (64 × 48 : 64 × 96)`: ΔW in A and B, where they differ."""
    if module.presence != "shapes-differ" or not (module.shape_a and module.shape_b):
        return ""
    return " ({} × {} : {} × {})".format(*module.shape_a, *module.shape_b)


def family_lines(modules: Iterable[ModuleComparison], room: int, more: str) -> list[Line]:
    """One row a family, the largest families first where there are too many."""
    grouped: dict[str, list[ModuleComparison]] = defaultdict(list)
    for module in modules:
        grouped[family_of(module.name)].append(module)
    largest = sorted(grouped, key=lambda family: (-len(grouped[family]), family))[:SHOWN_FAMILIES]
    shown = [family for family in grouped if family in set(largest)]
    right: list[list[Cell]] = [[Span(""), *(Span(text, "dim") for text in HEAD)]]
    for family in shown:
        right.append([Span(f"× {count(len(grouped[family]))}", "dim"), *cells_of(grouped[family])])
    families = fit_names([display_name(family) for family in shown], room - columns_width(right, gap=1) - 2)
    names = [Span("Where?  medians", "heading"), *(Span(f"  {family}") for family in families)]
    lines = columns(
        [[name, *row] for name, row in zip(names, right, strict=True)], "<>>>>>>>", indent=0, gap=1
    )
    hidden = len(grouped) - len(shown)
    if hidden:
        lines.append(line(Span(f"  … {plural(hidden, 'more kind')} of modules{more}", "dim")))
    return lines


def furthest_lines(modules: Iterable[ModuleComparison], room: int) -> list[Line]:
    """The modules that differ most, where there is a choice."""
    able = [module for module in modules if module.relative_difference]
    if len(able) < 2:
        return []
    ranked = sorted(able, key=lambda module: (-(module.relative_difference or 0.0), label_of(module)))
    found = ranked[:SHOWN_FURTHEST]
    right: list[list[Cell]] = [[Span(text, "dim") for text in HEAD[:4]]]
    right += [cells_of([module])[:4] for module in found]
    labels = fit_names(
        [display_name(label_of(module)) for module in found], room - 2 - columns_width(right, gap=2)
    )
    names = [Span("differ most", "dim"), *(Span(label, "name") for label in labels)]
    return columns([[name, *row] for name, row in zip(names, right, strict=True)], "<>>>>")


def module_lines(modules: Sequence[ModuleComparison], width: int | None) -> list[Line]:
    """One row a module."""
    rows: list[list[Cell]] = [[Span(text, "dim") for text in HEAD]]
    rows += [cells_of([module]) if module.presence == "both" else [ranks_of([module])] for module in modules]
    used = columns_width(rows, gap=1)
    names = [display_name(label_of(module)) for module in modules]
    if width is not None:
        names = fit_names(names, max(MIN_NAME, width - used))
    first = [Span("module", "dim"), *(Span(name, "name") for name in names)]
    table = [[name, *row] for name, row in zip(first, rows, strict=True)]
    head, *lines = columns(table, "<>>>>>>", indent=0, gap=1)
    return [
        head,
        *([*cells, Span(apart(module), "warn")] for cells, module in zip(lines, modules, strict=True)),
    ]


def apart(module: ModuleComparison) -> str:
    """Why a module was not compared; empty for one that was."""
    if module.presence == "both":
        return ""
    return f"  {PRESENCE[module.presence]}{shapes_of(module)}"


def label_of(module: ModuleComparison) -> str:
    """The name; with the expert's number where one tensor stacks several."""
    return module.name if module.expert is None else f"{module.name}[{module.expert}]"


def cells_of(members: Sequence[ModuleComparison]) -> list[Cell]:
    """Ranks, and the medians of what was compared."""
    left, right = middle(members, "left_overlap"), middle(members, "right_overlap")
    angle = middle(members, "largest_angle")
    return [
        ranks_of(members),
        sig(middle(members, "relative_difference")),
        sig(middle(members, "cosine")),
        percent(middle(members, "kept_energy")),
        MISSING if left is None else f"{left:.2f} {right:.2f}",
        MISSING if angle is None else f"{angle:.0f}°",
    ]


def ranks_of(members: Sequence[ModuleComparison]) -> str:
    """`8`, `8 : 1–2` for A and B, or the ranks of the one that has the module."""
    ranks_a = number_range(module.r_a for module in members if module.r_a is not None)
    ranks_b = number_range(module.r_b for module in members if module.r_b is not None)
    return ranks_a if ranks_a == ranks_b else f"{ranks_a} : {ranks_b}"


def middle(members: Sequence[ModuleComparison], name: str) -> float | None:
    """Median over the modules that have the figure."""
    values = [value for module in members if (value := getattr(module, name)) is not None]
    return median(values) if values else None
