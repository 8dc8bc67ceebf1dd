"""A Bench run -> the screen: one seed, all seeds, or several runs in one table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradience.artifacts.bench import Bench, VariantResult
from gradience.artifacts.bench_aggregate import BenchAggregate, VariantSummary
from gradience.report.bench_document import aggregate_markdown, bench_markdown
from gradience.report.bench_facts import (
    AS_EXPECTED,
    LORA_ONLY,
    NOISE,
    NOT_AS_EXPECTED,
    PAIRED,
    SMOKE,
    SMOKE_STATUS,
    Table,
    aggregate_table,
    audit_sentence,
    best_sentence,
    certifiable_sentence,
    data_sentence,
    head_reasons,
    policy_sentence,
    probe_line,
    probe_sentence,
    seed_table,
    summary_table,
    trouble_sentences,
    why_lines,
)
from gradience.report.lines import Cell, Line, Span, columns, fit, line, paragraph, render
from gradience.report.names import display_name, display_sentence

__all__ = ["aggregate_markdown", "aggregate_text", "bench_markdown", "bench_text", "summary_text"]

MIN_WIDTH, MAX_WIDTH = 80, 110
STYLES = {
    "PASS": "good",
    "FAIL": "bad",
    "ERROR": "bad",
    "INCONCLUSIVE": "warn",
    "UNDERTRAINED": "warn",
    "SKIPPED": "dim",
    SMOKE_STATUS: "warn",
    AS_EXPECTED: "good",
    NOT_AS_EXPECTED: "bad",
}


def bench_text(bench: Bench, *, width: int | None = None, color: bool = False) -> str:
    """What `gradience bench run` prints for one seed."""
    width = _clamped(width)
    variants, controls = bench.candidates, bench.controls
    title = f"{bench.model} on {bench.data.task}, seed {bench.seed}"
    lines = [
        *_head(title, bench.status, bench.smoke, width),
        *paragraph(best_sentence(bench.status, bench.best), width, indent=0),
        *_sentences(bench.reasons if bench.status != "PASS" else (), width),
        [],
        *_fact("data", data_sentence(bench.data.task, bench.data.splits, bench.data.eval_role), width),
        *_fact("probe", probe_sentence(bench.probe) if bench.probe else "none", width),
        *(
            _fact("", "; ".join(found), width)
            if bench.probe and (found := trouble_sentences(bench.probe))
            else []
        ),
        *_fact("audit", audit_sentence(bench), width),
        [],
        *_tables(seed_table(variants), seed_table(controls)),
        *_closing(
            [*variants, *filter(_unmade, controls)],
            bench.reasons,
            (policy_sentence(bench.policy), *bench.notes),
            width,
        ),
    ]
    return render(lines, color=color)


def aggregate_text(report: BenchAggregate, *, width: int | None = None, color: bool = False) -> str:
    """What `gradience bench aggregate` prints."""
    width = _clamped(width)
    variants, controls = report.candidates, report.controls
    title = f"{report.model} on {report.task}, seeds {', '.join(map(str, report.planned_seeds))}"
    lines = [
        *_head(title, report.status, False, width),
        *paragraph(best_sentence(report.status, report.best), width, indent=0),
        *_sentences(head_reasons(report), width),
        [],
        *_fact("data", data_sentence(report.task, report.splits, report.eval_role), width),
        *_fact("probe", probe_line(report), width),
        *(_sentences([f"Certifiable: {certifiable_sentence(report)}."], width) if report.certifiable else []),
        [],
        *_tables(aggregate_table(variants), aggregate_table(controls)),
        *_closing(
            [*variants, *filter(_unmade, controls)],
            (),
            (policy_sentence(report.policy), *report.notes),
            width,
        ),
    ]
    return render(lines, color=color)


def summary_text(results: Sequence[Bench | BenchAggregate], *, color: bool = False) -> str:
    """What `gradience bench summary` prints."""
    return render(_styled(summary_table(results), status=6), color=color)


def _clamped(width: int | None) -> int:
    return max(MIN_WIDTH, min(width or MIN_WIDTH, MAX_WIDTH))


def _head(title: str, status: str, smoke: bool, width: int) -> list[Line]:
    shown = fit(display_name(title), width - len(status) - 2)
    lines = [line(Span(status, STYLES[status]), Span("  "), Span(shown, "strong"))]
    return [*lines, *paragraph(SMOKE, width, indent=0, style="warn")] if smoke else lines


def _fact(label: str, text: str, width: int) -> list[Line]:
    first = [Span(f"{label:<7}", "dim")]
    return paragraph(display_sentence(text), width, first=first, indent=7)


def _sentences(texts: Iterable[str], width: int) -> list[Line]:
    return [found for text in texts for found in paragraph(display_sentence(text), width, indent=0)]


def _tables(variants: Table, controls: Table) -> list[Line]:
    lines = _styled(variants)
    if controls.rows:
        lines += [
            [],
            line(
                Span("Controls", "heading"), Span("  not candidates: they show what the test can see", "dim")
            ),
        ]
        lines += _styled(controls)
    return [*lines, []]


def _styled(table: Table, status: int = 1) -> list[Line]:
    rows: list[list[Cell]] = [[Span(cell, "dim") for cell in table.head]]
    for row in table.rows:
        cells: list[Cell] = [display_name(cell) for cell in row]
        cells[status] = Span(row[status], STYLES.get(row[status], ""))
        rows.append(cells)
    return columns(rows, table.align, indent=0, gap=1)


def _unmade(control: VariantResult | VariantSummary) -> bool:
    """Whether a reader must learn why there is no result; what a FAIL of a control means, its column says."""
    return control.status not in ("PASS", "FAIL")


def _closing(
    variants: Sequence[VariantResult] | Sequence[VariantSummary],
    said: Sequence[str],
    notes: Iterable[str],
    width: int,
) -> list[Line]:
    lines: list[Line] = []
    for names, reasons in why_lines(variants, said):
        lines += _hanging(f"{names}: ", reasons, width)
    lines += [[]] if lines else []
    for text in (*notes, f"{PAIRED} {LORA_ONLY}", NOISE):
        lines += paragraph(display_sentence(text), width, indent=0, style="dim")
    return lines


def _hanging(names: str, text: str, width: int) -> list[Line]:
    """The names, and the text behind and below them, indented by two."""
    return paragraph(display_sentence(names + text), width, first=[Span("· ", "dim")], indent=2)
