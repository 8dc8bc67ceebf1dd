"""Every artifact with a document shows itself in a notebook, as HTML that loads nothing and runs nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bench_sample import bench, three_seeds
from test_audit_document import Reader
from test_audit_text import mistral
from test_comparison_text import unlike
from test_compression_text import budget_plan, padded_report

from gradience.bench.verdict.aggregate import aggregate
from gradience.check import check_configs
from gradience.cli.schema import ArtifactName
from gradience.monitor import monitor_runs
from gradience.report.notebook import DOCUMENTS

RUNS = Path(__file__).parents[1] / "monitor" / "runs"
SAMPLES = {
    "AuditReport": mistral,
    "Bench": lambda: bench(42),
    "BenchAggregate": lambda: aggregate(three_seeds(), ["a", "b", "c"]),
    "CheckReport": lambda: check_configs(r=16, alpha=16, lr=2e-4),
    "ComparisonReport": unlike,
    "CompressionPlan": budget_plan,
    "CompressionReport": padded_report,
    "MonitorReport": lambda: monitor_runs(sorted(RUNS.glob("*.jsonl"))),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_html_is_well_formed_and_alone(name):
    shown = SAMPLES[name]()._repr_html_()
    reader = Reader()
    reader.feed(shown)
    assert reader.open == []
    assert reader.text
    assert not re.search(r"<(script|style|img|link|iframe)|src=|href=|on\w+=|url\(", shown)


def test_what_has_a_document_is_an_artifact():
    assert set(DOCUMENTS) == {*SAMPLES, "BenchForecast"} <= {artifact.model for artifact in ArtifactName}
