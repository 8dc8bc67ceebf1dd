"""Several audits in one table, in the order given; for steps of one run also the change in use of rank."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gradience.ranks import max_lora_rank_step, percentile
from gradience.reports.audit import (
    AuditReport,
    LayerAudit,
    energy_ranks_of,
    incompleteness,
    k_label,
    measure_digits,
    trained_layers,
)
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
    dim,
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
"""Characters of a small bar."""
FORCING = 5
"""Maximum number of adapters that the line on serving names."""
_STEP = re.compile(r"(checkpoint|ckpt|global_step|step|iter|epoch)([-_=]?)(\d{1,18})", re.IGNORECASE)


class RefusedAdapter(NamedTuple):
    """An adapter that could not be audited, listed at its position."""

    path: str
    code: str


class NumberedStep(NamedTuple):
    """A step number in a path, and the path without it. Steps of one run differ only in the number."""

    run: str
    number: int


def step_of(path: str) -> NumberedStep | None:
    """Return the last step number in the path.

    >>> step_of("run/checkpoint-200")
    NumberedStep(run='run/checkpoint-#', number=200)
    """
    matches = list(_STEP.finditer(os.path.normpath(path)))
    if not matches:
        return None
    last = matches[-1]
    start, end = last.span(3)
    return NumberedStep(f"{last.string[:start]}#{last.string[end:]}", int(last[3]))


def step_number(report: AuditReport) -> int | None:
    """Return the step number in the adapter's path."""
    step = step_of(report.adapter.path)
    return step.number if step else None


def why_no_series(reports: Sequence[AuditReport]) -> str | None:
    """Return None if base, modules and names match steps of one run, otherwise the reason why they do not."""
    steps = [step_of(report.adapter.path) for report in reports]
    if None in steps or len({step.run for step in steps if step}) > 1:
        return "their names have no step numbers of one run"
    if len({step.number for step in steps if step}) < len(steps):
        return "a step number is repeated"
    bases = {report.adapter.base_model for report in reports}
    if None in bases:
        return "the base model is not named"
    if len(bases) > 1:
        return "different base models"
    modules = {frozenset((layer.label, layer.shape) for layer in report.layers) for report in reports}
    return "different modules" if len(modules) > 1 else None


def by_step(reports: Sequence[AuditReport]) -> list[AuditReport]:
    """Return the reports of a series, the earliest step first."""
    return sorted(reports, key=lambda report: step_number(report) or 0)


def common_folder(paths: Sequence[str]) -> str:
    """Return the common parent folder, or "" if there is none."""
    try:
        return os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # absolute and relative paths
        return ""


def short_names(paths: Sequence[str]) -> list[str]:
    """Return paths without the common folder."""
    folder = common_folder(paths)
    return [os.path.relpath(path, folder) if folder else path for path in paths]


def trend_text(
    entries: Sequence[AuditReport | RefusedAdapter],
    *,
    width: int | None = None,
    color: bool = False,
    layers: bool = False,
) -> str:
    """Return the screen of `gradience audit` for several adapters."""
    from gradience.reports.base import terminal

    return terminal.render(trend_blocks(entries, layers=layers), width=width, color=color)


def trend_blocks(entries: Sequence[AuditReport | RefusedAdapter], *, layers: bool = False) -> Document:
    """Return one row per adapter, refused ones too, in the order given; with `layers` also each module's energy rank.

    At least one entry is a report.
    """
    reports = [entry for entry in entries if isinstance(entry, AuditReport)]
    thresholds = {report.tau for report in reports}
    tau = thresholds.pop() if len(thresholds) == 1 else 0.90  # a threshold of every report
    paths = [entry.adapter.path if isinstance(entry, AuditReport) else entry.path for entry in entries]
    named = list(zip(short_names(paths), entries, strict=True))
    folder, refused = common_folder(paths), len(entries) - len(reports)
    where: tuple[str | Span, ...] = (" in ", Span(folder, "name")) if folder else ()
    against = why_no_series(reports)
    kind = f"not a series: {against}" if against else "steps of one run"
    title = (
        plural(len(entries), "adapter"),
        *where,
        f", {count(refused)} refused" if refused else "",
    )
    notes = _notes(named)
    return [
        Heading(title, level=1),
        dim(f"in the order given, {kind}"),
        *_table(named, reports, tau),
        *_serving(named),
        *([Notes(notes)] if notes else []),
        *(_modules(entries, tau) if layers else []),
    ]


def _table(
    named: Sequence[tuple[str, AuditReport | RefusedAdapter]], reports: Sequence[AuditReport], tau: float
) -> list[Block]:
    """Return the table, with a row of changes from the first to the last step for a series, and its legend."""
    series = by_step(reports) if len(reports) > 1 and why_no_series(reports) is None else []
    label = k_label(tau)
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
        if isinstance(entry, RefusedAdapter):
            cells: list[Inline] = [*[""] * (len(columns) - 2), Span(f"refused: {entry.code}", "bad")]
        else:
            cells = _cells(entry, series[-1] if series else None, tau)
        rows.append([Span(name, "name"), *cells])
    change = _change(series[0], series[-1], tau) if series else []
    if any(change):
        steps = f"step {step_number(series[0])} to {step_number(series[-1])}"
        rows.append([Span(text, "dim") for text in (steps, *change)])
    legend = ["bars: █ median, ▓ p90, ░ r", "suggest: rank from the median / from p90"]
    legend += [f"same k: modules with the {label} of the last step"] if series else []
    flagged = any(
        finding.severity in ("error", "warning") for report in reports for finding in report.findings
    )
    legend += ["✗, !: errors and warnings in the audit"] if flagged else []
    return [
        Heading("Use of rank", aside="medians over trained modules"),
        Table(columns, rows),
        dim("; ".join(legend)),
    ]


def _cells(report: AuditReport, last: AuditReport | None, tau: float) -> list[Inline]:
    """Return the columns after the name. last: the last report of a series, whose energy ranks are the reference."""
    ks, digits, plan = _energy_ranks(report, tau), measure_digits(report), report.suggestions
    median, p90 = _median_and_p90(ks)
    bar = ""
    if median is not None and p90 is not None:  # on the scale 0 … r
        top = max((layer.r for layer in report.layers), default=1)
        low = max(1, round(BAR * median / top))
        high = max(low, round(BAR * p90 / top))
        bar = "█" * low + "▓" * (high - low) + "░" * (BAR - high)
    same = []
    if last is not None:
        of_last = {} if report is last else _energy_ranks(last, tau)
        shared = [name for name in ks if name in of_last]
        equal = sum(ks[name] == of_last[name] for name in shared)
        same = [percent(equal / len(shared)) if shared else ""]
    severities = [finding.severity for finding in report.findings]
    flags = {"✗": severities.count("error"), "!": severities.count("warning")}
    return [
        number_range(layer.r for layer in report.layers),
        Span(trimmed(median), "strong"),
        trimmed(p90),
        Span(bar, "info") if bar else Span(""),
        sig(report.stable_rank_median, digits),
        sig(report.gain.fro_norm_total if report.gain else None, digits),
        f"{plan.median.rank} / {plan.p90.rank}" if plan else MISSING,
        *same,
        Span(" ".join(f"{mark}{number}" for mark, number in flags.items() if number), "warn"),
    ]


def _energy_ranks(report: AuditReport, tau: float) -> dict[str, int]:
    """Return the energy rank of each trained module at `tau`, by name; empty if the report does not have it."""
    ks = ((layer.label, energy_ranks_of(layer, report.tau).get(tau)) for layer in trained_layers(report))
    return {name: k for name, k in ks if k is not None}


def _median_and_p90(ks: Mapping[str, int]) -> tuple[float | None, float | None]:
    if not ks:
        return None, None
    return float(percentile(ks.values(), 50)), float(percentile(ks.values(), 90))


def _change(first: AuditReport, last: AuditReport, tau: float) -> list[str]:
    """Return the columns after the name: differences of ranks, ratio of norms."""
    before, after = (_median_and_p90(_energy_ranks(report, tau)) for report in (first, last))
    digits = min(measure_digits(first), measure_digits(last))
    norms = [report.gain.fro_norm_total if report.gain else 0.0 for report in (first, last)]
    return [
        "",
        difference(before[0], after[0], 4),
        difference(before[1], after[1], 4),
        "",
        difference(first.stable_rank_median, last.stable_rank_median, digits),
        f"× {sig(norms[1] / norms[0], digits)}" if norms[0] and norms[1] else "",
    ]


def difference(before: float | None, after: float | None, digits: int) -> str:
    """Return `+2`, `−0.31`, `0`; never with more digits than the larger of the two values."""
    if before is None or after is None:
        return ""
    places = max(0, digits - len(str(int(max(abs(before), abs(after))))))
    text = f"{round(after - before, places):+.{places}f}"
    text = text.rstrip("0").rstrip(".") if places else text
    return "0" if text in ("+", "-", "+0", "-0") else text.replace("-", "−")


def _serving(named: Sequence[tuple[str, AuditReport | RefusedAdapter]]) -> list[Block]:
    """Return the adapters that force vLLM's max_lora_rank when all are served together; empty if all need the same."""
    steps = {
        name: max_lora_rank_step(max(layer.r for layer in entry.layers)) or math.inf
        for name, entry in named
        if isinstance(entry, AuditReport) and entry.layers
    }
    if len(set(steps.values())) < 2:
        return []
    top = max(steps.values())
    forcing = [name for name, step in steps.items() if step == top]
    rest = max(step for step in steps.values() if step < top)
    need = max_lora_rank(None if top == math.inf else int(top))
    because = f"vLLM max_lora_rank {need} because of "
    return [Paragraph((because, *first_names(forcing, FORCING), f"; the others need {rest}"))]


def _notes(named: Sequence[tuple[str, AuditReport | RefusedAdapter]]) -> list[Note]:
    """Return notes on incomplete audits, errors, and identical files."""
    first_with: dict[str, str] = {}
    notes: list[Note] = []
    for name, report in named:
        if isinstance(report, RefusedAdapter):
            continue  # its row shows the refusal, and stderr the error
        shown = Span(name, "name")
        missing = incompleteness(report)
        errors = [finding.message for finding in report.findings if finding.severity == "error"]
        messages = [f"incomplete: {missing}"] if missing else errors
        notes += [Note("error", (shown, f": {message}")) for message in messages]
        digest = report.adapter.sha256
        if digest in first_with:
            twin = Span(first_with[digest], "name")
            notes.append(
                Note("warning", (shown, " has the same bytes as ", twin, " (not an independent measurement)"))
            )
        first_with.setdefault(digest, name)
    return notes


def _modules(entries: Sequence[AuditReport | RefusedAdapter], tau: float) -> list[Block]:
    """Return each module's energy rank in each adapter; columns are numbered by the rows of the table above."""
    numbered = [(i, entry) for i, entry in enumerate(entries, start=1) if isinstance(entry, AuditReport)]
    ks = [_energy_ranks(report, tau) for _, report in numbered]
    layers: dict[str, list[LayerAudit]] = {}
    for _, report in numbered:
        for layer in report.layers:
            layers.setdefault(layer.label, []).append(layer)
    columns = [Column("module"), Column("r", ">"), *(Column(f"#{i}", ">") for i, _ in numbered)]
    rows: list[list[Inline]] = []
    for name, members in layers.items():
        ranks = number_range(layer.r for layer in members)
        rows.append([Span(name, "name"), ranks, *(str(k.get(name, MISSING)) for k in ks)])
    return [Heading(f"{k_label(tau)} of each module"), Table(columns, rows)]
