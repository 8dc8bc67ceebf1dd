"""Several audits -> one table, in the order given; of the steps of one run also how rank use moved."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence

from gradience.ranks import max_lora_rank_step, percentile
from gradience.report.audit.series import Refused, by_step, step_number, why_no_series
from gradience.report.audit.view import energy_ranks_of, k_label, measure_digits, trained_layers
from gradience.report.incomplete import incompleteness
from gradience.reports.audit import AuditReport, LayerAudit
from gradience.reports.base import terminal
from gradience.reports.base.blocks import (
    Block,
    Column,
    Document,
    Heading,
    Inline,
    Note,
    Notes,
    Paragraph,
    Span,
    Table,
)
from gradience.reports.base.numbers import (
    MISSING,
    count,
    max_lora_rank,
    number_range,
    percent,
    plural,
    sig,
    trimmed,
)
from gradience.reports.base.view import first_names

BAR = 6
FORCING = 5
"""Adapters that the line on serving names."""


def trend_text(
    entries: Sequence[AuditReport | Refused],
    *,
    width: int | None = None,
    color: bool = False,
    layers: bool = False,
) -> str:
    """What `gradience audit` prints for several adapters."""
    return terminal.render(trend_blocks(entries, layers=layers), width=width, color=color)


def trend_blocks(entries: Sequence[AuditReport | Refused], *, layers: bool = False) -> Document:
    """One row per adapter, refused ones too, in the order given; with `layers` also each module's energy rank in each.

    At least one entry is a report.
    """
    reports = [entry for entry in entries if isinstance(entry, AuditReport)]
    threshold = shared_tau(reports)
    paths = [entry.adapter.path if isinstance(entry, AuditReport) else entry.path for entry in entries]
    named = list(zip(short_names(paths), entries, strict=True))
    notes = trend_notes(named)
    return [
        *title_blocks(len(entries), common_folder(paths), reports),
        *trend_table(named, reports, threshold),
        *serving_blocks(named),
        *([Notes(notes)] if notes else []),
        *(module_blocks(entries, threshold) if layers else []),
    ]


def title_blocks(number: int, folder: str, reports: Sequence[AuditReport]) -> list[Block]:
    """How many, where, how many were refused, and whether they are a series."""
    where: tuple[str | Span, ...] = (" in ", Span(folder, "name")) if folder else ()
    refused = number - len(reports)
    part = f", {count(refused)} of them refused" if refused else ""
    against = why_no_series(reports)
    kind = f"not a series: {against}" if against else "steps of one run"
    return [
        Heading((plural(number, "adapter"), *where, part), level=1),
        Paragraph(Span(f"in the order given, {kind}", "dim")),
    ]


def trend_table(
    named: Sequence[tuple[str, AuditReport | Refused]], reports: Sequence[AuditReport], threshold: float
) -> list[Block]:
    """The table; of a series also the change from the first to the last step. Then what its columns are."""
    series = by_step(reports) if len(reports) > 1 and why_no_series(reports) is None else []
    label = k_label(threshold)
    columns = [
        Column("adapter"),
        Column("r", ">"),
        Column(label, ">"),
        Column("p90", ">"),
        Column(f"{label}/r", drop=1),
        Column("stable", ">"),
        Column("‖ΔW‖_F", ">", drop=2),
        Column("suggest", ">"),
        *([Column("same k", ">")] if series else []),
        Column(),
    ]
    rows: list[list[Inline]] = []
    for name, entry in named:
        if isinstance(entry, Refused):
            cells: list[Inline] = [*[""] * (len(columns) - 2), Span(f"refused: {entry.code}", "bad")]
        else:
            cells = trend_row(entry, series[-1] if series else None, threshold)
        rows.append([Span(name, "name"), *cells])
    change = change_row(series[0], series[-1], threshold) if series else []
    if any(change):
        steps = f"step {step_number(series[0])} to {step_number(series[-1])}"
        rows.append([Span(text, "dim") for text in (steps, *change)])
    said = ["bars: █ median, ▓ p90, ░ r", "suggest: from median / from p90"]
    said += [f"same k: modules with the {label} of the last step"] if series else []
    flagged = any(of(report, severity) for report in reports for severity in ("error", "warning"))
    said += ["✗, !: errors, warnings of its audit"] if flagged else []
    return [
        Heading("How much of its rank does each use?", aside="medians over trained modules"),
        Table(columns, rows),
        Paragraph(Span("; ".join(said), "dim")),
    ]


def trend_row(report: AuditReport, last: AuditReport | None, threshold: float) -> list[Inline]:
    """The columns after the name. last: of the series, with which the energy ranks are compared."""
    ks = energy_ranks(report, threshold)
    digits = measure_digits(report)
    top = max((layer.r for layer in report.layers), default=1)
    median, p90 = middle_and_p90(ks)
    counts = {"✗": len(of(report, "error")), "!": len(of(report, "warning"))}
    flags = " ".join(f"{mark}{number}" for mark, number in counts.items() if number)
    same = agreement(ks, energy_ranks(last, threshold)) if last is not None and report is not last else None
    return [
        number_range(layer.r for layer in report.layers),
        Span(trimmed(median), "strong"),
        trimmed(p90),
        small_bar(median, p90, top),
        sig(report.stable_rank_median, digits),
        sig(report.gain.fro_norm_total if report.gain else None, digits),
        suggested(report),
        *([] if last is None else ["" if same is None else percent(same)]),
        Span(flags, "warn"),
    ]


def serving_blocks(named: Sequence[tuple[str, AuditReport | Refused]]) -> list[Block]:
    """Which adapters force vLLM's max_lora_rank when all are served together, and what the others need.

    Nothing where all need the same.
    """
    largest = {
        name: max(layer.r for layer in entry.layers)
        for name, entry in named
        if isinstance(entry, AuditReport) and entry.layers
    }
    steps = {name: max_lora_rank_step(rank) or math.inf for name, rank in largest.items()}
    if len(set(steps.values())) < 2:
        return []
    top = max(steps.values())
    forcing = [name for name, step in steps.items() if step == top]
    rest = max(step for step in steps.values() if step < top)
    need = max_lora_rank(None if top == math.inf else int(top))
    said = f"vLLM max_lora_rank {need} because of "
    return [Paragraph((said, *first_names(forcing, FORCING), f"; the others need {rest}"))]


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
    return Span("█" * low + "▓" * (high - low) + "░" * (BAR - high), "info")


def suggested(report: AuditReport) -> str:
    """`4 / 8`: the uniform ranks of the median and of p90."""
    plan = report.suggestions
    return f"{plan.median.rank} / {plan.p90.rank}" if plan else MISSING


def shared_tau(reports: Sequence[AuditReport]) -> float:
    """The threshold of all reports; 0.90, which every report knows, where they differ."""
    thresholds = {report.tau for report in reports}
    return thresholds.pop() if len(thresholds) == 1 else 0.90


def energy_ranks(report: AuditReport, threshold: float) -> dict[str, int]:
    """Energy rank of each trained module at `threshold`, by name; empty where the report does not tell it."""
    ks = (
        (layer.label, energy_ranks_of(layer, report.tau).get(threshold)) for layer in trained_layers(report)
    )
    return {name: k for name, k in ks if k is not None}


def agreement(mine: Mapping[str, int], its: Mapping[str, int]) -> float | None:
    """Share of the modules in both that have the same energy rank in both."""
    shared = [name for name in mine if name in its]
    return sum(mine[name] == its[name] for name in shared) / len(shared) if shared else None


def change_row(first: AuditReport, last: AuditReport, threshold: float) -> list[str]:
    """The columns after the name: differences of ranks, ratio of norms."""
    before, after = energy_ranks(first, threshold), energy_ranks(last, threshold)
    medians, p90s = zip(middle_and_p90(before), middle_and_p90(after), strict=True)
    digits = min(measure_digits(first), measure_digits(last))
    norms = [report.gain.fro_norm_total if report.gain else 0.0 for report in (first, last)]
    ratio = f"× {sig(norms[1] / norms[0], digits)}" if norms[0] and norms[1] else ""
    return [
        "",
        difference(medians[0], medians[1], 4),
        difference(p90s[0], p90s[1], 4),
        "",
        difference(first.stable_rank_median, last.stable_rank_median, digits),
        ratio,
    ]


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
    return [os.path.relpath(path, folder) if folder else path for path in paths]


# ---------------------------------------------------------------- what to know, module by module


def trend_notes(named: Iterable[tuple[str, AuditReport | Refused]]) -> list[Note]:
    """Incomplete audits, errors, and files that are one and the same."""
    first_with: dict[str, str] = {}
    notes: list[Note] = []
    for name, report in named:
        if isinstance(report, Refused):
            continue  # its row says so, and its error stands on stderr
        shown = Span(name, "name")
        missing = incompleteness(report)
        said = [f"incomplete: {missing}"] if missing else of(report, "error")
        notes += [Note("error", (shown, f": {message}")) for message in said]
        digest = report.adapter.sha256
        if digest in first_with:
            twin = Span(first_with[digest], "name")
            notes.append(Note("warning", (shown, " has the same bytes as ", twin, ": no second measurement")))
        first_with.setdefault(digest, name)
    return notes


def module_blocks(entries: Sequence[AuditReport | Refused], threshold: float) -> list[Block]:
    """Each module's energy rank in each adapter; columns are numbered by the rows of the table above."""
    numbered = [(i, entry) for i, entry in enumerate(entries, start=1) if isinstance(entry, AuditReport)]
    ks = [energy_ranks(report, threshold) for _, report in numbered]
    layers: dict[str, list[LayerAudit]] = {}
    for _, report in numbered:
        for layer in report.layers:
            layers.setdefault(layer.label, []).append(layer)
    columns = [Column("module"), Column("r", ">"), *(Column(f"#{i}", ">") for i, _ in numbered)]
    rows: list[list[Inline]] = [
        [
            Span(name, "name"),
            number_range(layer.r for layer in members),
            *(str(k.get(name, MISSING)) for k in ks),
        ]
        for name, members in layers.items()
    ]
    return [Heading(f"{k_label(threshold)} of each module"), Table(columns, rows)]
