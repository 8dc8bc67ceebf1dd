"""`gradience schema`: the JSON Schema of an artifact."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class ArtifactName(StrEnum):
    """The artifacts that have a schema. A new one is a line here, a line in MODELS, and `make docs`."""

    AUDIT = "audit"
    COMPRESSION = "compression"
    COMPRESSION_PLAN = "compression_plan"
    COMPARISON = "comparison"
    MONITOR = "monitor"
    CHECK = "check"
    BENCH = "bench"
    BENCH_AGGREGATE = "bench_aggregate"
    BENCH_PLAN = "bench_plan"
    BENCH_FORECAST = "bench_forecast"
    TRAINING = "training"
    STAGE = "stage"


MODELS = {
    ArtifactName.AUDIT: ("gradience.artifacts.audit", "AuditReport"),
    ArtifactName.COMPRESSION: ("gradience.artifacts.compression", "CompressionReport"),
    ArtifactName.COMPRESSION_PLAN: ("gradience.artifacts.compression", "CompressionPlan"),
    ArtifactName.COMPARISON: ("gradience.artifacts.comparison", "ComparisonReport"),
    ArtifactName.MONITOR: ("gradience.artifacts.monitor", "MonitorReport"),
    ArtifactName.CHECK: ("gradience.artifacts.check", "CheckReport"),
    ArtifactName.BENCH: ("gradience.artifacts.bench", "Bench"),
    ArtifactName.BENCH_AGGREGATE: ("gradience.artifacts.bench_aggregate", "BenchAggregate"),
    ArtifactName.BENCH_PLAN: ("gradience.artifacts.bench_plan", "BenchPlan"),
    ArtifactName.BENCH_FORECAST: ("gradience.artifacts.forecast", "BenchForecast"),
    ArtifactName.TRAINING: ("gradience.artifacts.training", "TrainingReport"),
    ArtifactName.STAGE: ("gradience.artifacts.stage", "StageManifest"),
}
"""Where the model of each artifact lives; imported when asked for."""


def schema(artifact: Annotated[ArtifactName, typer.Argument(help="Which artifact.")]) -> None:
    """Print the JSON Schema of an artifact.

    The same files are in the repository, under docs/schemas/.
    """
    print(schema_text(artifact), end="")


def schema_text(artifact: ArtifactName) -> str:
    """The schema as it is printed and committed: indented JSON and a final newline."""
    import json
    from importlib import import_module

    from gradience.artifacts.base import json_schema

    module, name = MODELS[artifact]
    return json.dumps(json_schema(getattr(import_module(module), name)), indent=2, ensure_ascii=False) + "\n"
