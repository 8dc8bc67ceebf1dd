"""Every report as text, Markdown and HTML; importing this module lets reports show themselves.

`import gradience` does so as soon as a public name brings a report, so that nothing below imports the faces. What a
report consists of is imported when one is drawn.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

from gradience.errors import UsageError, did_you_mean
from gradience.reports.base.blocks import Document
from gradience.reports.base.report import Faces, Report

DOCUMENTS = {
    "AuditReport": "audit:audit_blocks",
    "Bench": "bench:bench_blocks",
    "BenchAggregate": "bench:aggregate_blocks",
    "BenchForecast": "forecast:forecast_blocks",
    "CalibrationReport": "calibration:calibration_blocks",
    "CheckReport": "check:check_blocks",
    "ComparisonReport": "comparison:comparison_blocks",
    "CompressionPlan": "compression:compression_blocks",
    "CompressionReport": "compression:compression_blocks",
    "ConversionReport": "conversion:conversion_blocks",
    "EvidenceReport": "evidence:evidence_blocks",
    "EvaluationForecast": "evaluation:evaluation_forecast_blocks",
    "EvaluationPreview": "forecast:preview_blocks",
    "EvaluationReport": "evaluation:evaluation_blocks",
    "FleetCompression": "fleet_compression:fleet_compression_blocks",
    "FleetReport": "fleet:fleet_blocks",
    "DistillReport": "distill:distill_blocks",
    "MonitorReport": "monitor:monitor_blocks",
    "PowerReport": "power:power_blocks",
    "ShrinkForecast": "shrink:shrink_forecast_blocks",
    "ShrinkReport": "shrink:shrink_blocks",
    "Verification": "verification:verification_blocks",
}
"""What a report is called -> the module of this room, and its function that returns the blocks."""
BACKENDS = ("plotly", "matplotlib")
"""What draws plots: modules of plots/ with a function `figure_of`."""
PRINTED = 30
"""Lines of a report that is printed; Markdown and HTML are whole."""


def blocks_of(report: Report) -> Document:
    """Return all that there is to say about a report."""
    blocks: Document = resolve_name(f"gradience.report.{DOCUMENTS[type(report).__name__]}")(report)
    return blocks


def to_text(report: Report) -> str:
    """Return the first sections for a terminal of 80 columns, and how many lines there are beyond `PRINTED`."""
    from gradience.reports.base import terminal

    lines = terminal.render(blocks_of(report), width=terminal.DEFAULT_WIDTH).splitlines()
    if len(lines) <= PRINTED:
        return "\n".join(lines)
    room = PRINTED - 2
    ends = [number for number in range(room // 2, room + 1) if not lines[number]]  # of whole sections
    shown = lines[: ends[-1] if ends else room]
    return "\n".join([*shown, "", f"… {len(lines) - len(shown)} more lines in to_markdown()"])


def to_markdown(report: Report) -> str:
    """Return the report as GitHub-flavoured Markdown."""
    from gradience.reports.base import markdown

    return markdown.render(blocks_of(report))


def to_html(report: Report) -> str:
    """Return all of the report as HTML without plots."""
    from gradience.reports.base import html

    return html.render(blocks_of(report))


def to_notebook(report: Report) -> str:
    """Return what a notebook shows: the first sections and a plot."""
    from gradience.report import notebook

    return notebook.to_notebook(report)


def to_figure(report: Report, kind: str | None, backend: str) -> Any:
    """Return a plot of the report, drawn by plotly or matplotlib. Raises UsageError (`no-plot`, `no-backend`)."""
    from gradience.report.plots.kinds import plot_of

    if backend not in BACKENDS:
        raise UsageError(
            f"no backend {backend!r}",
            code="no-backend",
            hint=did_you_mean(str(backend), BACKENDS) or "plotly",
        )
    plot = plot_of(report, kind)
    return resolve_name(f"gradience.report.plots.{backend}:figure_of")([plot])


Report.faces = Faces(to_text, to_markdown, to_notebook, to_figure)
