"""Every artifact with a schema, by short name: `audit` is `gradience.audit/3`. Add new artifacts here.

In a JSON Schema, each field is described by the docstring below it. The sources are read only when a schema is
requested: reading them for every class would take longer than reading a small adapter.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from gradience.files.artifact import Artifact
from gradience.settings import field_docstrings

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
    "evaluation_sets": "gradience.reports.evaluation:EvaluationSetsReport",
    "evaluation_plan": "gradience.reports.evaluation:EvaluationPlan",
    "shrink": "gradience.reports.shrink:ShrinkReport",
    "shrink_plan": "gradience.reports.shrink:ShrinkPlan",
    "shrink_forecast": "gradience.reports.shrink:ShrinkForecast",
    "kept_records": "gradience.reports.evaluation:KeptRecords",
    "ledger": "gradience.reports.evaluation:Ledger",
    "training": "gradience.reports.training:TrainingReport",
    "stage": "gradience.reports.training:StageManifest",
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


# ---------------------------------------------------------------- JSON Schemas


def json_schema(artifact: type[Artifact]) -> dict[str, Any]:
    """Return the JSON Schema of an artifact, as committed under docs/schemas/; without the example of its docstring."""
    schema = artifact.model_json_schema(by_alias=True, mode="serialization", schema_generator=DescribedFields)
    if schema.pop("$ref", None):  # a report that holds reports of its kind
        schema = {**schema["$defs"][artifact.__name__], **schema}
    schema["description"] = schema["description"].partition("\n\n")[0]
    return {"$id": artifact.schema_id, **schema}


class DescribedFields(GenerateJsonSchema):
    """A schema generator of pydantic that takes the descriptions of fields from the sources."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        return _described(schema["cls"], super().model_schema(schema))

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        return _described(schema["cls"], super().dataclass_schema(schema))


def _described(cls: type[Any], schema: JsonSchemaValue) -> JsonSchemaValue:
    fields = getattr(cls, "model_fields", {})
    for ancestor in reversed(cls.__mro__):
        if ancestor.__module__.startswith("gradience."):
            for (owner, name), text in field_docstrings(ancestor.__module__).items():
                if owner == ancestor.__name__:
                    alias = fields[name].alias if name in fields else None
                    schema.get("properties", {}).get(alias or name, {})["description"] = text
    return schema
