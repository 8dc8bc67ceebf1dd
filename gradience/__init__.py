"""Gradience: how much of its rank does a LoRA adapter use?

Public names are imported on first use (PEP 562), so that `import gradience` costs nothing and
never loads numpy, pydantic or torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradience.audit.adapter import audit_adapter
    from gradience.bench.verb import run_bench
    from gradience.calibrate.verb import calibrate_adapter
    from gradience.card import update_card
    from gradience.check import check_config
    from gradience.compare.adapters import compare_adapters
    from gradience.compress.adapter import compress_adapter
    from gradience.convert.verb import convert_adapter
    from gradience.distill.verb import distill_adapter
    from gradience.errors import (
        EngineError,
        GradienceError,
        IncompleteError,
        InputError,
        LockedError,
        MissingExtra,
        NetworkError,
        OutputError,
        ReadError,
        UsageError,
        VerificationError,
        WrongType,
    )
    from gradience.evaluate.verb import evaluate_adapters
    from gradience.evidence.verb import compare_logs
    from gradience.fleet.batch import compress_fleet
    from gradience.fleet.verb import audit_fleet
    from gradience.live import SpectralTracker
    from gradience.live.callback import GradienceCallback
    from gradience.merge.verb import merge_adapters
    from gradience.monitor import monitor_runs
    from gradience.plan.calibrated import ToDrop, ToKl
    from gradience.plan.compression import plan_compression
    from gradience.plan.criteria import ToBudget, ToEnergy, ToRank, ToRanks, ToSuggestion
    from gradience.reports.audit import AuditReport
    from gradience.reports.bench import Bench, BenchAggregate
    from gradience.reports.calibration import Calibration, CalibrationReport
    from gradience.reports.check import CheckReport
    from gradience.reports.comparison import ComparisonReport
    from gradience.reports.compression import CompressionPlan, CompressionReport
    from gradience.reports.conversion import ConversionReport
    from gradience.reports.distill import DistillReport
    from gradience.reports.evaluation import EvaluationReport
    from gradience.reports.evaluation_sets import EvaluationSetsReport
    from gradience.reports.evidence import EvidenceReport
    from gradience.reports.fleet import FleetReport
    from gradience.reports.fleet_compression import FleetCompression
    from gradience.reports.merge import MergeReport
    from gradience.reports.monitor import MonitorReport
    from gradience.reports.shrink import ShrinkReport
    from gradience.reports.strength import StrengthReport
    from gradience.shrink.verb import shrink_adapter
    from gradience.telemetry import TelemetryReader, TelemetryWriter
    from gradience.verification.verb import verify

__version__ = "0.2.0"

# Public name -> the module it lives in. A new public name is one line here, one above, one in __all__.
_HOME = {
    "AuditReport": "gradience.reports.audit",
    "Bench": "gradience.reports.bench",
    "BenchAggregate": "gradience.reports.bench",
    "Calibration": "gradience.reports.calibration",
    "CalibrationReport": "gradience.reports.calibration",
    "CheckReport": "gradience.reports.check",
    "ComparisonReport": "gradience.reports.comparison",
    "CompressionPlan": "gradience.reports.compression",
    "CompressionReport": "gradience.reports.compression",
    "ConversionReport": "gradience.reports.conversion",
    "EngineError": "gradience.errors",
    "EvaluationReport": "gradience.reports.evaluation",
    "EvaluationSetsReport": "gradience.reports.evaluation_sets",
    "EvidenceReport": "gradience.reports.evidence",
    "FleetCompression": "gradience.reports.fleet_compression",
    "FleetReport": "gradience.reports.fleet",
    "GradienceCallback": "gradience.live.callback",
    "GradienceError": "gradience.errors",
    "DistillReport": "gradience.reports.distill",
    "IncompleteError": "gradience.errors",
    "InputError": "gradience.errors",
    "LockedError": "gradience.errors",
    "MergeReport": "gradience.reports.merge",
    "MissingExtra": "gradience.errors",
    "MonitorReport": "gradience.reports.monitor",
    "NetworkError": "gradience.errors",
    "OutputError": "gradience.errors",
    "ReadError": "gradience.errors",
    "ShrinkReport": "gradience.reports.shrink",
    "StrengthReport": "gradience.reports.strength",
    "SpectralTracker": "gradience.live",
    "TelemetryReader": "gradience.telemetry",
    "TelemetryWriter": "gradience.telemetry",
    "ToBudget": "gradience.plan.criteria",
    "ToDrop": "gradience.plan.calibrated",
    "ToEnergy": "gradience.plan.criteria",
    "ToKl": "gradience.plan.calibrated",
    "ToRank": "gradience.plan.criteria",
    "ToRanks": "gradience.plan.criteria",
    "ToSuggestion": "gradience.plan.criteria",
    "UsageError": "gradience.errors",
    "VerificationError": "gradience.errors",
    "WrongType": "gradience.errors",
    "audit_adapter": "gradience.audit.adapter",
    "audit_fleet": "gradience.fleet.verb",
    "calibrate_adapter": "gradience.calibrate.verb",
    "check_config": "gradience.check",
    "compare_adapters": "gradience.compare.adapters",
    "compare_logs": "gradience.evidence.verb",
    "compress_adapter": "gradience.compress.adapter",
    "compress_fleet": "gradience.fleet.batch",
    "convert_adapter": "gradience.convert.verb",
    "evaluate_adapters": "gradience.evaluate.verb",
    "distill_adapter": "gradience.distill.verb",
    "merge_adapters": "gradience.merge.verb",
    "monitor_runs": "gradience.monitor",
    "plan_compression": "gradience.plan.compression",
    "run_bench": "gradience.bench.verb",
    "shrink_adapter": "gradience.shrink.verb",
    "update_card": "gradience.card",
    "verify": "gradience.verification.verb",
}

__all__ = [
    "AuditReport",
    "Bench",
    "BenchAggregate",
    "Calibration",
    "CalibrationReport",
    "CheckReport",
    "ComparisonReport",
    "CompressionPlan",
    "CompressionReport",
    "ConversionReport",
    "DistillReport",
    "EngineError",
    "EvaluationReport",
    "EvaluationSetsReport",
    "EvidenceReport",
    "FleetCompression",
    "FleetReport",
    "GradienceCallback",
    "GradienceError",
    "IncompleteError",
    "InputError",
    "LockedError",
    "MergeReport",
    "MissingExtra",
    "MonitorReport",
    "NetworkError",
    "OutputError",
    "ReadError",
    "ShrinkReport",
    "SpectralTracker",
    "StrengthReport",
    "TelemetryReader",
    "TelemetryWriter",
    "ToBudget",
    "ToDrop",
    "ToEnergy",
    "ToKl",
    "ToRank",
    "ToRanks",
    "ToSuggestion",
    "UsageError",
    "VerificationError",
    "WrongType",
    "audit_adapter",
    "audit_fleet",
    "calibrate_adapter",
    "check_config",
    "compare_adapters",
    "compare_logs",
    "compress_adapter",
    "compress_fleet",
    "convert_adapter",
    "distill_adapter",
    "evaluate_adapters",
    "merge_adapters",
    "monitor_runs",
    "plan_compression",
    "run_bench",
    "shrink_adapter",
    "update_card",
    "verify",
]


def __getattr__(name: str) -> Any:
    """The public name `name`, imported from the module it lives in."""
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module 'gradience' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
