"""Several audits -> one table: how rank use moved, for instance over the checkpoints of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from gradience.artifacts.audit import AuditReport, LayerAudit
from gradience.ranks import percentile
from gradience.report.audit_facts import (
    incompleteness,
    k_label,
    measure_digits,
    trained_layers,
)
from gradience.report.names import display_name, display_sentence
from gradience.report.numbers import MISSING, count, number_range, percent, sig, trimmed
from gradience.report.terminal import Line, Span, columns, columns_width, fit, line, paragraph, render

MIN_WIDTH = 80
BAR = 6


def trend_text(
    reports: Sequence[AuditReport],
    *,
    width: int | None = MIN_WIDTH,
    color: bool = False,
    layers: bool = False,
) -> str:
    """One row an adapter, in the order given; with `layers`, also each module's energy rank in each adapter.

    width None: names in full, for a file or a pipe.
    """
    threshold = shared_tau(reports)
    lines = [*title_lines(reports, threshold), [], *trend_lines(reports, threshold, width)]
    notes = note_lines(reports, width)
    lines += [[], *notes] if notes else []
    lines += [[], *module_lines(reports, threshold, width)] if layers else []
    return render(lines, color=color)


def title_lines(reports: Sequence[AuditReport], threshold: float) -> list[Line]:
    """How many, where, and what the columns are."""
    folder = common_folder([report.adapter.path for report in reports])
    where = f" in {display_name(folder)}" if folder else ""
    label = k_label(threshold)
    return [
        line(Span(f"{count(len(reports))} adapters{where}", "strong")),
        line(Span(f"{label}, stable rank: medians over trained modules; bars: █ median, ▓ p90, ░ r", "dim")),
        line(Span(f"suggest: from median / from p90; same k: modules with the {label} of the last", "dim")),
    ]


def trend_lines(reports: Sequence[AuditReport], threshold: float, width: int | None) -> list[Line]:
    """The table itself, and the change from the first to the last."""
    label = k_label(threshold)
    head = [
        Span(text, "dim")
        for text in ("r", label, "p90", f"{label}/r", "stable", "‖ΔW‖_F", "suggest", "same k")
    ]
    rows = [head, *(trend_row(report, reports[-1], threshold) for report in reports)]
    change = change_row(reports[0], reports[-1], threshold)
    rows += [change] if any(cell.text for cell in change) else []
    names = short_names([report.adapter.path for report in reports])
    if width is not None:
        names = [fit(name, max(12, width - 2 - columns_width(rows, gap=2))) for name in names]
    labels = [Span(""), *(Span(name, "name") for name in names), Span("first to last", "dim")]
    table = [[name, *row] for name, row in zip(labels, rows, strict=False)]
    return columns(table, "<>>><>>>><", gap=2)


def trend_row(report: AuditReport, last: AuditReport, threshold: float) -> list[Span]:
    """The columns after the name."""
    ks = energy_ranks(report, threshold)
    digits = measure_digits(report)
    top = max((layer.r for layer in report.layers), default=1)
    median, p90 = (
        (float(percentile(ks.values(), 50)), float(percentile(ks.values(), 90))) if ks else (None, None)
    )
    counts = {"✗": len(of(report, "error")), "!": len(of(report, "warning"))}
    flags = " ".join(f"{mark}{number}" for mark, number in counts.items() if number)
    return [
        Span(number_range(layer.r for layer in report.layers)),
        Span(trimmed(median), "strong"),
        Span(trimmed(p90)),
        small_bar(median, p90, top),
        Span(sig(report.stable_rank_median, digits)),
        Span(sig(report.gain.fro_norm_total if report.gain else None, digits)),
        Span(suggested(report)),
        Span(percent(agreement(ks, energy_ranks(last, threshold))) if report is not last else ""),
        Span(flags, "warn"),
    ]


def of(report: AuditReport, severity: str) -> list[str]:
    """Messages of the findings of one severity."""
    return [finding.message for finding in report.findings if finding.severity == severity]


def small_bar(median: float | None, p90: float | None, top: int) -> Span:
    """Median and p90 on the scale 0 … r."""
    if median is None or p90 is None:
        return Span("")
    low = max(1, round(BAR * median / top))
    high = max(low, round(BAR * p90 / top))
    return Span("█" * low + "▓" * (high - low) + "░" * (BAR - high), "bar1")


def suggested(report: AuditReport) -> str:
    """`4 / 8`: the uniform ranks of the median and of p90."""
    plan = report.suggestions
    return f"{plan.median.rank} / {plan.p90.rank}" if plan else MISSING


def shared_tau(reports: Sequence[AuditReport]) -> float:
    """The threshold of all reports; 0.90, which every report knows, where they differ."""
    found = {report.tau for report in reports}
    return found.pop() if len(found) == 1 else 0.90


def energy_ranks(report: AuditReport, threshold: float) -> dict[str, int]:
    """Energy rank of each trained module at `threshold`, by name; empty where the report does not tell it."""
    standard: dict[float, Callable[[LayerAudit], int | None]] = {
        0.90: lambda layer: layer.energy_rank_90,
        0.95: lambda layer: layer.energy_rank_95,
        0.99: lambda layer: layer.energy_rank_99,
    }
    standard[report.tau] = lambda layer: layer.energy_rank_tau
    k = standard.get(threshold)
    if k is None:
        return {}
    return {layer.label: value for layer in trained_layers(report) if (value := k(layer)) is not None}


def agreement(mine: Mapping[str, int], its: Mapping[str, int]) -> float | None:
    """Share of the modules in both that have the same energy rank in both."""
    shared = [name for name in mine if name in its]
    return sum(mine[name] == its[name] for name in shared) / len(shared) if shared else None


def change_row(first: AuditReport, last: AuditReport, threshold: float) -> list[Span]:
    """Differences of ranks, ratio of norms."""
    before, after = energy_ranks(first, threshold), energy_ranks(last, threshold)
    medians = [float(percentile(ks.values(), 50)) if ks else None for ks in (before, after)]
    p90s = [float(percentile(ks.values(), 90)) if ks else None for ks in (before, after)]
    digits = min(measure_digits(first), measure_digits(last))
    norms = [report.gain.fro_norm_total if report.gain else 0.0 for report in (first, last)]
    ratio = f"× {sig(norms[1] / norms[0], digits)}" if norms[0] and norms[1] else ""
    cells = [
        "",
        difference(medians[0], medians[1], 4),
        difference(p90s[0], p90s[1], 4),
        "",
        difference(first.stable_rank_median, last.stable_rank_median, digits),
        ratio,
    ]
    return [Span(cell, "dim") for cell in cells]


def difference(before: float | None, after: float | None, digits: int) -> str:
    """`+2`, `−0.31`, `0`; never more digits than the larger of the two has."""
    if before is None or after is None:
        return ""
    places = max(0, digits - len(str(int(max(abs(before), abs(after))))))
    text = f"{round(after - before, places):+.{places}f}"
    text = text.rstrip("0").rstrip(".") if places else text
    return "0" if text in ("+", "-", "+0", "-0") else text.replace("-", "−")


# ---------------------------------------------------------------- names


def common_folder(paths: Sequence[str]) -> str:
    """The folder that all lie in, "" where there is none to speak of."""
    parents = [os.path.dirname(path) for path in paths]
    try:
        return os.path.commonpath(parents)
    except ValueError:  # absolute beside relative paths
        return ""


def short_names(paths: Sequence[str]) -> list[str]:
    """Paths without the common folder."""
    folder = common_folder(paths)
    return [display_name(os.path.relpath(path, folder) if folder else path) for path in paths]


# ---------------------------------------------------------------- what to know, module by module


def note_lines(reports: Sequence[AuditReport], width: int | None) -> list[Line]:
    """Incomplete audits, files that are one and the same, and adapters that do not have the same modules."""
    names = short_names([report.adapter.path for report in reports])
    first_with: dict[str, str] = {}
    modules = [frozenset(layer.label for layer in report.layers) for report in reports]
    lines: list[Line] = []

    def note(mark: str, style: str, text: str) -> None:
        first = line("  ", Span(mark, style), " ")
        lines.extend(paragraph(display_sentence(text), width or MIN_WIDTH, first=first, indent=4))

    for report, name in zip(reports, names, strict=True):
        missing = incompleteness(report)
        if missing:
            note("✗", "bad", f"{name}: incomplete: {missing}")
        for message in () if missing else of(report, "error"):
            note("✗", "bad", f"{name}: {message}")
        digest = report.adapter.sha256
        if digest in first_with:
            note("!", "warn", f"{name} has the same bytes as {first_with[digest]}: no second measurement")
        first_with.setdefault(digest, name)
    different = sum(found != modules[-1] for found in modules)
    if different:
        note(
            "!",
            "warn",
            f"{count(different)} of {count(len(reports))} do not have the modules of the last one",
        )
    return lines


def module_lines(reports: Sequence[AuditReport], threshold: float, width: int | None) -> list[Line]:
    """Each module's energy rank in each adapter, numbered in the order of the table above."""
    ks = [energy_ranks(report, threshold) for report in reports]
    layers: dict[str, LayerAudit] = {}
    for report in reports:
        for layer in report.layers:
            layers.setdefault(layer.label, layer)
    head = [Span(text, "dim") for text in ("module", "r", *(f"#{i}" for i in range(1, len(reports) + 1)))]
    rows = [
        [str(layer.r), *(str(found.get(name, MISSING)) for found in ks)] for name, layer in layers.items()
    ]
    names = [display_name(name) for name in layers]
    if width is not None:
        names = [fit(name, max(20, width - columns_width([head[1:], *rows], gap=1))) for name in names]
    table: list[list[str | Span]] = [list(head)]
    table += [[Span(name, "name"), *row] for name, row in zip(names, rows, strict=True)]
    title = line(Span(f"{k_label(threshold)} of each module", "strong"))
    return [title, *columns(table, "<" + ">" * (len(reports) + 1), indent=0, gap=1)]
