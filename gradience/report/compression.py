"""A compression's plan and its report -> the screen. It answers, in this order: what is saved, what is lost, who can
load it, where it is lost, how it was written, and what this does not show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradience.artifacts.compression import CompressionPlan, CompressionReport
from gradience.report.compression_document import compression_markdown
from gradience.report.compression_facts import (
    QUALITY,
    Module,
    Total,
    carried,
    config_changes,
    encoding_sentence,
    factors_sentence,
    family_rows,
    left_as_they_are,
    lists,
    losses,
    nothing_truncated,
    padded,
    peft_sentence,
    planned_encoding,
    rank_change,
    shown_error,
    spread,
    totals,
    worst,
    zeros_sentence,
)
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
from gradience.report.numbers import count, percent, plural
from gradience.report.runtimes import Group, sections

__all__ = ["compression_markdown", "compression_text", "plan_text"]

MIN_WIDTH, MAX_WIDTH = 80, 100
LABEL, VALUE = 19, 11
"""Columns of a figure's name, and of the figure before and after."""
SHOWN_FAMILIES, SHOWN_WORST, SHOWN_NAMES = 12, 5, 3
SHORT_CHANGE = 44
"""Columns of a changed field of the config."""
VERDICT_MARKS = {"loads": "✓", "wrong scale": "✗", "wrong meaning": "✗", "refuses": "✗", "not run": "?"}
VERDICT_STYLES = {"loads": "good", "wrong scale": "bad", "wrong meaning": "bad", "refuses": "warn"}


def plan_text(plan: CompressionPlan, *, width: int | None = None, color: bool = False) -> str:
    """What `--dry-run` prints."""
    width = clamped(width)
    what = f"Plan: {display_sentence(plan.criterion)}. Nothing was written."
    return page(
        [
            line(Span(fit(display_name(plan.adapter_path), width), "strong")),
            *paragraph(what, width, indent=0),
        ],
        totals_lines("What would be saved?", totals(plan)),
        lost_lines("What would be lost?", plan, width),
        where_lines(plan.modules, width, left_as_they_are(plan), dropped_names(plan)),
        planned_lines(plan, width),
        [
            *caveat_lines(width),
            *next_line(
                "--output DIR in place of --dry-run · --json > plan.json, and --plan plan.json", width
            ),
        ],
        color=color,
    )


def compression_text(report: CompressionReport, *, width: int | None = None, color: bool = False) -> str:
    """What `gradience compress` prints, about 50 lines."""
    width = clamped(width)
    return page(
        title_lines(report, width),
        [*totals_lines("What is saved?", totals(report)), *paragraph_of(zeros_sentence(report), width)],
        lost_lines("What is lost?", report, width),
        runtime_lines(report, width),
        where_lines(report.modules, width, [], []),
        written_lines(report, width),
        [*caveat_lines(width), *next_line("gradience compare · compression_report.md · --layers", width)],
        color=color,
    )


def clamped(width: int | None) -> int:
    """The screen is laid out for 80 columns and does not grow beyond 100."""
    return max(MIN_WIDTH, min(width or MIN_WIDTH, MAX_WIDTH))


def page(*parts: Sequence[Line], color: bool) -> str:
    """Sections with an empty line between them; empty sections are left out."""
    lines: list[Line] = []
    for part in parts:
        if part:
            lines += [*([[]] if lines else []), *part]
    return render(lines, color=color)


def heading(text: str) -> Line:
    return line(Span(text, "heading"))


def title_lines(report: CompressionReport, width: int) -> list[Line]:
    """Output, source, criterion, digests."""
    source = f"from {display_name(report.source_path)} · {display_sentence(report.criterion)}"
    digests = f"sha256 {report.output_sha256[:12]} from {report.source_sha256[:12]}"
    return [
        line(Span(fit(display_name(report.output_path), width), "strong")),
        *paragraph(source, width, indent=0),
        line(Span(digests, "dim")),
    ]


# ---------------------------------------------------------------- what is saved, what is lost?


def totals_lines(title: str, rows: Sequence[Total]) -> list[Line]:
    """Before, after, change."""
    table: list[list[Cell]] = [[Span(title, "heading"), Span("before", "dim"), Span("after", "dim")]]
    for row in rows:
        style = "good" if row.change.endswith("saved") else "dim"
        table.append([f"  {row.label}", row.before, Span(row.after, "strong"), Span(row.change, style)])
    return columns(table, "<>><", indent=0, widths=(LABEL + 2, VALUE - 1, VALUE - 1))


def lost_lines(title: str, made: CompressionPlan | CompressionReport, width: int) -> list[Line]:
    """Energy and errors of the whole adapter."""
    lines = [heading(title)]
    for row in losses(made):
        first = [Span(f"  {row.label:<{LABEL}}"), Span(f"  {row.value:>{VALUE}}", "strong"), Span("  ")]
        lines += paragraph(row.meaning, width, first=first, indent=LABEL + VALUE + 6)
    return [*lines, *paragraph_of(nothing_truncated(made.modules), width)]


def paragraph_of(sentence: str, width: int) -> list[Line]:
    """Nothing where there is nothing to say."""
    return paragraph(sentence, width) if sentence else []


# ---------------------------------------------------------------- who loads it?


def runtime_lines(report: CompressionReport, width: int) -> list[Line]:
    """Which runtimes load this file, as far as the same was run."""
    lines = [heading("Which runtimes load it?")]
    for section in sections(report):
        lines += paragraph(display_sentence(f"{section.title}:"), width, style="dim")
        for group in section.groups:
            lines += group_lines(group, width)
    return lines


def group_lines(group: Group, width: int) -> list[Line]:
    """A mark, and the sentence."""
    mark = Span(VERDICT_MARKS[group.verdict], VERDICT_STYLES.get(group.verdict, "dim"))
    return paragraph(display_sentence(group.sentence), width, first=[Span("  "), mark, Span(" ")], indent=4)


# ---------------------------------------------------------------- where?


def where_lines(
    modules: Sequence[Module], width: int, notes: Iterable[str], dropped: Sequence[str]
) -> list[Line]:
    """One row a family, who loses most, and what is unusual."""
    lines = [*family_lines(modules, width), *worst_lines(modules, width)]
    said = [*([sentence] if (sentence := spread(modules)) else []), *notes]
    for sentence in said:
        lines += paragraph(display_sentence(sentence), width, style="dim")
    if dropped:
        label = f"{plural(len(dropped), 'module')} would be left out (rank 0): "
        lines += paragraph(label + some(dropped), width)
    return lines


def dropped_names(plan: CompressionPlan) -> list[str]:
    """Modules at rank 0."""
    return [module.name for module in plan.modules if module.new_rank == 0]


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(display_name(name) for name in names[:SHOWN_NAMES])
    rest = len(names) - SHOWN_NAMES
    return f"{shown} and {count(rest)} more" if rest > 0 else shown


def family_lines(modules: Sequence[Module], width: int) -> list[Line]:
    """Ranks, parameters, kept energy and worst error of each family."""
    rows, hidden = family_rows(modules, SHOWN_FAMILIES)
    on_disk = padded(modules)
    titles = ("", "rank", *(("on disk",) if on_disk else ()), "parameters", "kept, median", "worst error")
    right: list[list[Cell]] = [[Span(text, "dim") for text in titles]]
    for row in rows:
        stored = [row.stored or row.ranks.rpartition(" ")[2]] if on_disk else []
        number = Span(f"× {count(row.modules)}", "dim")
        right.append([number, Span(row.ranks, "strong"), *stored, count(row.new_params), row.kept, row.error])
    room = width - columns_width(right, gap=2)
    left = [Span("Where?", "heading")]
    families = fit_names([display_name(row.family) for row in rows], room - 2)
    left += [Span(f"  {family}") for family in families]
    lines = columns(
        [[name, *row] for name, row in zip(left, right, strict=True)], "<" + ">" * len(titles), indent=0
    )
    if hidden:
        lines.append(line(Span(f"  … {plural(hidden, 'more kind')} of modules: --layers", "dim")))
    return lines


def worst_lines(modules: Sequence[Module], width: int) -> list[Line]:
    """Who loses most."""
    found = worst(modules, SHOWN_WORST)
    if not found:
        return []
    right: list[list[Cell]] = [[Span(text, "dim") for text in ("rank", "energy kept", "error")]]
    right += [[rank_change(module), percent(module.kept_energy), shown_error(module)] for module in found]
    room = width - 2 - columns_width(right, gap=2)
    names = [Span(name, "name") for name in fit_names([display_name(module.name) for module in found], room)]
    left = [Span("loses most", "dim"), *names]
    return columns([[name, *row] for name, row in zip(left, right, strict=True)], "<>>>")


# ---------------------------------------------------------------- how is it written?


def planned_lines(plan: CompressionPlan, width: int) -> list[Line]:
    """The encoding that it would get."""
    sentence = planned_encoding(plan)
    if not sentence:
        return []
    return [heading("How would it be written?"), *paragraph(sentence, width)]


def written_lines(report: CompressionReport, width: int) -> list[Line]:
    """Encoding, config, and what happened to everything else."""
    rows = [("encoding", encoding_sentence(report)), ("factors", factors_sentence(report))]
    rows += [("config", "; ".join(short_changes(report)) or "as it was"), ("carried", carried(report))]
    rows += [("loaded", peft_sentence(report))] if report.peft_check else []
    lines = [heading("How was it written?")]
    for label, text in rows:
        lines += labelled(label, text, width)
    for label, names in lists(report):
        lines += paragraph(f"{label}: {some(names)}", width)
    for warning in report.warnings:
        first = [Span("  "), Span("!", "warn"), Span(" ")]
        lines += paragraph(display_sentence(warning), width, first=first, indent=4)
    return lines


def labelled(label: str, text: str, width: int) -> list[Line]:
    return paragraph(display_sentence(text), width, first=[Span(f"  {label:<10}", "dim")], indent=12)


def short_changes(report: CompressionReport) -> list[str]:
    """`r 64 → 16`, each cut to a part of a line."""
    return [
        f"{display_name(name, SHORT_CHANGE)} {display_name(change, SHORT_CHANGE)}"
        for name, change in config_changes(report)
    ]


# ---------------------------------------------------------------- what it does not show


def caveat_lines(width: int) -> list[Line]:
    """The limits."""
    return [heading("What does this not show?"), *paragraph(QUALITY, width)]


def next_line(text: str, width: int) -> list[Line]:
    """What to do next."""
    return paragraph(text, width, first=[Span("  Next: ")], indent=8, style="dim")
