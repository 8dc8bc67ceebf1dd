"""Artifacts in a notebook: importing this module lets them show themselves as HTML.

`import gradience` does so as soon as a public name brings an artifact, so that nothing below imports the faces.
"""

from __future__ import annotations

import importlib

from gradience.artifacts.base import Artifact

DOCUMENTS = {
    "AuditReport": ("audit", "audit_blocks"),
    "Bench": ("bench", "bench_blocks"),
    "BenchAggregate": ("bench", "aggregate_blocks"),
    "BenchForecast": ("forecast", "forecast_blocks"),
    "CheckReport": ("check", "check_blocks"),
    "ComparisonReport": ("comparison", "comparison_blocks"),
    "CompressionPlan": ("compression", "compression_blocks"),
    "CompressionReport": ("compression", "compression_blocks"),
    "MonitorReport": ("monitor", "monitor_blocks"),
}
"""What the artifact is called -> the module of this room, and its function that returns the blocks."""


def draw(artifact: Artifact) -> str | None:
    """Return the artifact as HTML; None for one that has no document, which a notebook shows as text."""
    if type(artifact).__name__ not in DOCUMENTS:
        return None
    from gradience.report import html

    module, function = DOCUMENTS[type(artifact).__name__]
    blocks = getattr(importlib.import_module(f"gradience.report.{module}"), function)
    return html.render(blocks(artifact))


Artifact.draw = staticmethod(draw)
