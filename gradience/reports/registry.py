"""Every artifact with a schema, by short name: `audit` is `gradience.audit/3`. Add new artifacts here."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradience.files.artifact import Artifact
    from gradience.reports.base.report import Report

ARTIFACTS = {
    "audit": "gradience.reports.audit:AuditReport",
    "compression": "gradience.reports.compression:CompressionReport",
    "compression_plan": "gradience.reports.compression:CompressionPlan",
    "calibration": "gradience.reports.calibration:CalibrationReport",
    "calibration_forecast": "gradience.reports.calibration:CalibrationForecast",
    "distill": "gradience.reports.distill:DistillReport",
    "distill_forecast": "gradience.reports.distill:DistillForecast",
    "merge": "gradience.reports.merge:MergeReport",
    "conversion": "gradience.reports.conversion:ConversionReport",
    "comparison": "gradience.reports.comparison:ComparisonReport",
    "fleet": "gradience.reports.fleet:FleetReport",
    "fleet_compression": "gradience.reports.fleet:FleetCompression",
    "fleet_row": "gradience.reports.fleet:FleetRow",
    "evidence": "gradience.reports.evidence:EvidenceReport",
    "monitor": "gradience.reports.monitor:MonitorReport",
    "check": "gradience.reports.check:CheckReport",
    "bench": "gradience.reports.bench:Bench",
    "bench_aggregate": "gradience.reports.bench:BenchAggregate",
    "bench_plan": "gradience.reports.bench_plan:BenchPlan",
    "bench_forecast": "gradience.reports.forecast:BenchForecast",
    "bench_status": "gradience.reports.bench_status:BenchStatus",
    "digests": "gradience.files.digests:Digests",
    "verification": "gradience.reports.verification:Verification",
    "evaluation": "gradience.reports.evaluation:EvaluationReport",
    "evaluation_forecast": "gradience.reports.evaluation:EvaluationForecast",
    "evaluation_sets": "gradience.reports.evaluation_sets:EvaluationSetsReport",
    "evaluation_plan": "gradience.reports.evaluation_sets:EvaluationPlan",
    "shrink": "gradience.reports.shrink:ShrinkReport",
    "shrink_plan": "gradience.reports.shrink:ShrinkPlan",
    "shrink_forecast": "gradience.reports.shrink:ShrinkForecast",
    "kept_records": "gradience.reports.evaluation:KeptRecords",
    "ledger": "gradience.reports.evaluation:Ledger",
    "training": "gradience.reports.training:TrainingReport",
    "stage": "gradience.reports.stage:StageManifest",
}
"""Name -> import path of the model."""


def model_of(name: str) -> type[Artifact]:
    """Import and return the model of an artifact."""
    model: type[Artifact] = resolve_name(ARTIFACTS[name])
    return model


def reports() -> dict[str, type[Report]]:
    """Return every report by class name. Importing all takes 0.3 s: use it for lists, not in single commands."""
    from gradience.reports.base.report import Report

    models = map(model_of, ARTIFACTS)
    return {model.__name__: model for model in models if issubclass(model, Report)}
