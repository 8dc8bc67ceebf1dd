"""Several audits -> one table, in the order given; of the steps of one run also how rank use moved."""

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
from gradience.report.lines import (
    Line,
    Span,
    cells,
    columns,
    columns_width,
    fit_names,
    line,
    pad,
    paragraph,
    render,
)
from gradience.report.names import display_name, display_sentence
from gradience.report.numbers import MISSING, count, number_range, percent, plural, sig, trimmed
from gradience.report.series import Refused, by_step, step_number, why_no_series

MIN_WIDTH, MAX_TEXT = 80, 100
BAR = 6


def trend_text(
    entries: Sequence[AuditReport | Refused],
    *,
    width: int | None = MIN_WIDTH,
    color: bool = False,
    layers: bool = False,
) -> str:
    """One row an adapter, refused ones too, in the order given; with `layers`, also each module's energy rank in each.

    At least one report is needed. width None: names in full, for a file or a pipe.
    """
    reports = [entry for entry in entries if isinstance(entry, AuditReport)]
    threshold = shared_tau(reports)
    lines = [*title_lines(entries, threshold), [], *trend_lines(entries, threshold, width)]
    notes = note_lines(entries, width)
    lines += [[], *notes] if notes else []
    lines += [[], *module_lines(entries, threshold, width)] if layers else []
    return render(lines, color=color)


def paths_of(entries: Sequence[AuditReport | Refused]) -> list[str]:
    return [entry.path if isinstance(entry, Refused) else entry.adapter.path for entry in entries]


def title_lines(entries: Sequence[AuditReport | Refused], threshold: float) -> list[Line]:
    """How many, how many were refused, where, whether they are a series, and what the columns are."""
    reports = [entry for entry in entries if isinstance(entry, AuditReport)]
    folder = common_folder(paths_of(entries))
    where = f" in {display_name(folder)}" if folder else ""
    refused = len(entries) - len(reports)
    part = f", {count(refused)} of them refused" if refused else ""
    against = why_no_series(reports)
    kind = (
        f"in the order given, not a series: {against}" if against else "in the order given: steps of one run"
    )
    label = k_label(threshold)
    lines = [
        line(Span(f"{plural(len(entries), 'adapter')}{where}{part}", "strong")),
        line(Span(kind, "dim")),
        line(Span(f"{label}, stable rank: medians over trained modules; bars: █ median, ▓ p90, ░ r", "dim")),
    ]
    same = "" if against else f"; same k: modules with the {label} of the last step"
    found = any(of(report, severity) for report in reports for severity in ("error", "warning"))
    lines.append(line(Span(f"suggest: from median / from p90{same}", "dim")))
    return [*lines, line(Span("✗, !: errors, warnings of its audit", "dim"))] if found else lines


def trend_lines(entries: Sequence[AuditReport | Refused], threshold: float, width: int | None) -> list[Line]:
    """The table itself; of a series also the change from the first to the last step."""
    reports = [entry for entry in entries if isinstance(entry, AuditReport)]
    series = by_step(reports) if len(reports) > 1 and why_no_series(reports) is None else []
    label = k_label(threshold)
    titles = ("r", label, "p90", f"{label}/r", "stable", "‖ΔW‖_F", "suggest", "same k" if series else "")
    last = series[-1] if series else None
    rows = [[Span(text, "dim") for text in titles]]
    rows += [trend_row(entry, last, threshold) if isinstance(entry, AuditReport) else [] for entry in entries]
    names = names_in(entries, rows, width)
    change = change_row(series[0], series[-1], threshold) if series else []
    if any(cell.text for cell in change):
        rows.append(change)
        names.append(f"step {step_number(series[0])} to {step_number(series[-1])}")
    first = [Span(""), *(Span(name, "name") for name in names[: len(entries)])]
    first += [Span(name, "dim") for name in names[len(entries) :]]
    lines = columns([[name, *row] for name, row in zip(first, rows, strict=True)], "<>>><>>>><", gap=2)
    room = max(cells(name) for name in names)
    for i, entry in enumerate(entries, start=1):
        if isinstance(entry, Refused):
            lines[i] = [Span("  "), *pad(first[i], room, "<"), Span(f"  refused: {entry.code}", "bad")]
    return lines


def names_in(
    entries: Sequence[AuditReport | Refused], rows: Sequence[Sequence[Span]], width: int | None
) -> list[str]:
    """Names without the common folder, cut to what the columns leave."""
    names = short_names(paths_of(entries))
    return names if width is None else fit_names(names, max(12, width - 2 - columns_width(rows, gap=2)))


def trend_row(report: AuditReport, last: AuditReport | None, threshold: float) -> list[Span]:
    """The columns after the name. last: of the series, with which the energy ranks are compared."""
    ks = energy_ranks(report, threshold)
    digits = measure_digits(report)
    top = max((layer.r for layer in report.layers), default=1)
    median, p90 = middle_and_p90(ks)
    counts = {"✗": len(of(report, "error")), "!": len(of(report, "warning"))}
    flags = " ".join(f"{mark}{number}" for mark, number in counts.items() if number)
    same = agreement(ks, energy_ranks(last, threshold)) if last is not None and report is not last else None
    return [
        Span(number_range(layer.r for layer in report.layers)),
        Span(trimmed(median), "strong"),
        Span(trimmed(p90)),
        small_bar(median, p90, top),
        Span(sig(report.stable_rank_median, digits)),
        Span(sig(report.gain.fro_norm_total if report.gain else None, digits)),
        Span(suggested(report)),
        Span("" if same is None else percent(same)),
        Span(flags, "warn"),
    ]


def middle_and_p90(ks: Mapping[str, int]) -> tuple[float | None, float | None]:
    """Median and 90th percentile of energy ranks; None where there are none."""
    if not ks:
        return None, None
    return float(percentile(ks.values(), 50)), float(percentile(ks.values(), 90))


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
    medians, p90s = zip(middle_and_p90(before), middle_and_p90(after), strict=True)
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


def note_lines(entries: Sequence[AuditReport | Refused], width: int | None) -> list[Line]:
    """Incomplete audits, errors, and files that are one and the same."""
    first_with: dict[str, str] = {}
    lines: list[Line] = []

    def note(mark: str, style: str, text: str) -> None:
        first = line("  ", Span(mark, style), " ")
        room = min(width or MIN_WIDTH, MAX_TEXT)
        lines.extend(paragraph(display_sentence(text), room, first=first, indent=4))

    for report, name in zip(entries, short_names(paths_of(entries)), strict=True):
        if isinstance(report, Refused):
            continue  # its row says so, and its error stands on stderr
        missing = incompleteness(report)
        if missing:
            note("✗", "bad", f"{name}: incomplete: {missing}")
        for message in () if missing else of(report, "error"):
            note("✗", "bad", f"{name}: {message}")
        digest = report.adapter.sha256
        if digest in first_with:
            note("!", "warn", f"{name} has the same bytes as {first_with[digest]}: no second measurement")
        first_with.setdefault(digest, name)
    return lines


def module_lines(entries: Sequence[AuditReport | Refused], threshold: float, width: int | None) -> list[Line]:
    """Each module's energy rank in each adapter; columns are numbered by the rows of the table above."""
    numbered = [(i, entry) for i, entry in enumerate(entries, start=1) if isinstance(entry, AuditReport)]
    ks = [energy_ranks(report, threshold) for _, report in numbered]
    layers: dict[str, list[LayerAudit]] = {}
    for _, report in numbered:
        for layer in report.layers:
            layers.setdefault(layer.label, []).append(layer)
    head = [Span(text, "dim") for text in ("module", "r", *(f"#{i}" for i, _ in numbered))]
    rows = [
        [number_range(layer.r for layer in found), *(str(k.get(name, MISSING)) for k in ks)]
        for name, found in layers.items()
    ]
    names = [display_name(name) for name in layers]
    if width is not None:
        names = fit_names(names, max(20, width - columns_width([head[1:], *rows], gap=1)))
    table: list[list[str | Span]] = [list(head)]
    table += [[Span(name, "name"), *row] for name, row in zip(names, rows, strict=True)]
    title = line(Span(f"{k_label(threshold)} of each module", "strong"))
    return [title, *columns(table, "<" + ">" * (len(numbered) + 1), indent=0, gap=1)]
