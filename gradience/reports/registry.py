"""Every kind of artifact that has a schema, by the name in it: `audit` is `gradience.audit/2`. A new one is a line here
and `make docs`."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradience.files.artifact import Artifact
    from gradience.reports.base.report import Report


class ArtifactName(StrEnum):
    """Name, and where the model lives."""

    module: str
    model: str

    def __new__(cls, value: str, module: str, model: str) -> ArtifactName:
        member = str.__new__(cls, value)
        member._value_ = value
        member.module, member.model = module, model
        return member

    AUDIT = "audit", "gradience.reports.audit", "AuditReport"
    COMPRESSION = "compression", "gradience.reports.compression", "CompressionReport"
    COMPRESSION_PLAN = "compression_plan", "gradience.reports.compression", "CompressionPlan"
    CALIBRATION = "calibration", "gradience.reports.calibration", "CalibrationReport"
    CALIBRATION_FORECAST = "calibration_forecast", "gradience.reports.calibration", "CalibrationForecast"
    DISTILL = "distill", "gradience.reports.distill", "DistillReport"
    DISTILL_FORECAST = "distill_forecast", "gradience.reports.distill", "DistillForecast"
    CONVERSION = "conversion", "gradience.reports.conversion", "ConversionReport"
    COMPARISON = "comparison", "gradience.reports.comparison", "ComparisonReport"
    FLEET = "fleet", "gradience.reports.fleet", "FleetReport"
    FLEET_COMPRESSION = "fleet_compression", "gradience.reports.fleet_compression", "FleetCompression"
    FLEET_ROW = "fleet_row", "gradience.reports.fleet", "FleetRow"
    EVIDENCE = "evidence", "gradience.reports.evidence", "EvidenceReport"
    MONITOR = "monitor", "gradience.reports.monitor", "MonitorReport"
    CHECK = "check", "gradience.reports.check", "CheckReport"
    BENCH = "bench", "gradience.reports.bench", "Bench"
    BENCH_AGGREGATE = "bench_aggregate", "gradience.reports.bench", "BenchAggregate"
    BENCH_PLAN = "bench_plan", "gradience.reports.bench_plan", "BenchPlan"
    BENCH_FORECAST = "bench_forecast", "gradience.reports.forecast", "BenchForecast"
    BENCH_STATUS = "bench_status", "gradience.reports.bench_status", "BenchStatus"
    POWER = "power", "gradience.reports.power", "PowerReport"
    DIGESTS = "digests", "gradience.files.digests", "Digests"
    VERIFICATION = "verification", "gradience.reports.verification", "Verification"
    EVALUATION = "evaluation", "gradience.reports.evaluation", "EvaluationReport"
    EVALUATION_FORECAST = "evaluation_forecast", "gradience.reports.evaluation", "EvaluationForecast"
    EVALUATION_PREVIEW = "evaluation_preview", "gradience.reports.evaluation", "EvaluationPreview"
    SHRINK = "shrink", "gradience.reports.shrink", "ShrinkReport"
    SHRINK_PLAN = "shrink_plan", "gradience.reports.shrink", "ShrinkPlan"
    SHRINK_FORECAST = "shrink_forecast", "gradience.reports.shrink", "ShrinkForecast"
    KEPT_RECORDS = "kept_records", "gradience.reports.evaluation", "KeptRecords"
    TRAINING = "training", "gradience.reports.training", "TrainingReport"
    STAGE = "stage", "gradience.reports.stage", "StageManifest"

    def load(self) -> type[Artifact]:
        """Import and return the model."""
        artifact: type[Artifact] = getattr(import_module(self.module), self.model)
        return artifact


def reports() -> dict[str, type[Report]]:
    """Return every report by the name of its class. Importing them all takes a second: for lists, not for a verb."""
    from gradience.reports.base.report import Report

    models = [name.load() for name in ArtifactName]
    return {model.__name__: model for model in models if issubclass(model, Report)}
