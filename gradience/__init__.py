"""Gradience: how much of its rank does a LoRA adapter use?

Public names are imported on first use (PEP 562), so that `import gradience` costs nothing and
never loads numpy, pydantic or torch.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
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
    from gradience.plan.calibrated import ToKl
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

# A new public name is one line above, in the imports, and one here.
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


@cache
def _homes() -> dict[str, str]:
    """Return the module of each public name, by the imports at the top of this file."""
    import ast
    from inspect import getsource

    tree = ast.parse(getsource(sys.modules[__name__]))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def __getattr__(name: str) -> Any:
    """The public name `name`, imported from the module it lives in."""
    if name not in __all__:
        raise AttributeError(f"module 'gradience' has no attribute {name!r}")
    value = getattr(importlib.import_module(_homes()[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
