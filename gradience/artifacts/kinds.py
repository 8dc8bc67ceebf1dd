"""Every kind of artifact that has a schema, by the name in it: `audit` is `gradience.audit/2`. A new one is a line here
and `make docs`."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradience.artifacts.base import Artifact


class ArtifactName(StrEnum):
    """Name, and where the model lives."""

    module: str
    model: str

    def __new__(cls, value: str, module: str, model: str) -> ArtifactName:
        member = str.__new__(cls, value)
        member._value_ = value
        member.module, member.model = module, model
        return member

    AUDIT = "audit", "gradience.artifacts.audit", "AuditReport"
    COMPRESSION = "compression", "gradience.artifacts.compression", "CompressionReport"
    COMPRESSION_PLAN = "compression_plan", "gradience.artifacts.compression", "CompressionPlan"
    CALIBRATION = "calibration", "gradience.artifacts.calibration", "CalibrationReport"
    CALIBRATION_FORECAST = "calibration_forecast", "gradience.artifacts.calibration", "CalibrationForecast"
    HEAL = "heal", "gradience.artifacts.heal", "HealReport"
    HEAL_FORECAST = "heal_forecast", "gradience.artifacts.heal", "HealForecast"
    CONVERSION = "conversion", "gradience.artifacts.conversion", "ConversionReport"
    COMPARISON = "comparison", "gradience.artifacts.comparison", "ComparisonReport"
    FLEET = "fleet", "gradience.artifacts.fleet", "FleetReport"
    FLEET_COMPRESSION = "fleet_compression", "gradience.artifacts.fleet_compression", "FleetCompression"
    FLEET_ROW = "fleet_row", "gradience.artifacts.fleet", "FleetRow"
    EVIDENCE = "evidence", "gradience.artifacts.evidence", "EvidenceReport"
    MONITOR = "monitor", "gradience.artifacts.monitor", "MonitorReport"
    CHECK = "check", "gradience.artifacts.check", "CheckReport"
    BENCH = "bench", "gradience.artifacts.bench", "Bench"
    BENCH_AGGREGATE = "bench_aggregate", "gradience.artifacts.bench_aggregate", "BenchAggregate"
    BENCH_PLAN = "bench_plan", "gradience.artifacts.bench_plan", "BenchPlan"
    BENCH_FORECAST = "bench_forecast", "gradience.artifacts.forecast", "BenchForecast"
    BENCH_STATUS = "bench_status", "gradience.artifacts.bench_status", "BenchStatus"
    POWER = "power", "gradience.artifacts.power", "PowerReport"
    DIGESTS = "digests", "gradience.artifacts.digests", "Digests"
    VERIFICATION = "verification", "gradience.artifacts.verification", "Verification"
    EVALUATION = "evaluation", "gradience.artifacts.evaluation", "EvaluationReport"
    EVALUATION_FORECAST = "evaluation_forecast", "gradience.artifacts.evaluation", "EvaluationForecast"
    EVALUATION_PREVIEW = "evaluation_preview", "gradience.artifacts.evaluation", "EvaluationPreview"
    SHRINK = "shrink", "gradience.artifacts.shrink", "ShrinkReport"
    SHRINK_PLAN = "shrink_plan", "gradience.artifacts.shrink", "ShrinkPlan"
    SHRINK_FORECAST = "shrink_forecast", "gradience.artifacts.shrink", "ShrinkForecast"
    KEPT_RECORDS = "kept_records", "gradience.artifacts.evaluation", "KeptRecords"
    TRAINING = "training", "gradience.artifacts.training", "TrainingReport"
    STAGE = "stage", "gradience.artifacts.stage", "StageManifest"

    def load(self) -> type[Artifact]:
        """Import and return the model."""
        artifact: type[Artifact] = getattr(import_module(self.module), self.model)
        return artifact
