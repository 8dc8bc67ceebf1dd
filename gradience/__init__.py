"""Gradience: how much of its rank does a LoRA adapter use?

Public names are imported on first use (PEP 562), so that `import gradience` costs nothing and
never loads numpy, pydantic or torch.
"""

import importlib
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

# A new public name is one line here.
if TYPE_CHECKING:
    from gradience.audit.adapter import audit_adapter as audit_adapter
    from gradience.bench.verb import run_bench as run_bench
    from gradience.calibrate.verb import calibrate_adapter as calibrate_adapter
    from gradience.card import update_card as update_card
    from gradience.check import check_config as check_config
    from gradience.compare.adapters import compare_adapters as compare_adapters
    from gradience.compress.adapter import compress_adapter as compress_adapter
    from gradience.convert.verb import convert_adapter as convert_adapter
    from gradience.distill.verb import distill_adapter as distill_adapter
    from gradience.errors import EngineError as EngineError
    from gradience.errors import GradienceError as GradienceError
    from gradience.errors import IncompleteError as IncompleteError
    from gradience.errors import InputError as InputError
    from gradience.errors import LockedError as LockedError
    from gradience.errors import MissingExtra as MissingExtra
    from gradience.errors import NetworkError as NetworkError
    from gradience.errors import OutputError as OutputError
    from gradience.errors import ReadError as ReadError
    from gradience.errors import UsageError as UsageError
    from gradience.errors import VerificationError as VerificationError
    from gradience.errors import WrongType as WrongType
    from gradience.evaluate.verb import evaluate_adapters as evaluate_adapters
    from gradience.evidence.verb import compare_logs as compare_logs
    from gradience.fleet.verb import audit_fleet as audit_fleet
    from gradience.fleet.verb import compress_fleet as compress_fleet
    from gradience.live import SpectralTracker as SpectralTracker
    from gradience.live.callback import GradienceCallback as GradienceCallback
    from gradience.merge.verb import merge_adapters as merge_adapters
    from gradience.monitor import monitor_runs as monitor_runs
    from gradience.plan.compression import ToKl as ToKl
    from gradience.plan.compression import plan_compression as plan_compression
    from gradience.plan.criteria import ToBudget as ToBudget
    from gradience.plan.criteria import ToEnergy as ToEnergy
    from gradience.plan.criteria import ToRank as ToRank
    from gradience.plan.criteria import ToRanks as ToRanks
    from gradience.plan.criteria import ToSuggestion as ToSuggestion
    from gradience.reports.audit import AuditReport as AuditReport
    from gradience.reports.bench import Bench as Bench
    from gradience.reports.bench import BenchAggregate as BenchAggregate
    from gradience.reports.calibration import Calibration as Calibration
    from gradience.reports.calibration import CalibrationReport as CalibrationReport
    from gradience.reports.check import CheckReport as CheckReport
    from gradience.reports.comparison import ComparisonReport as ComparisonReport
    from gradience.reports.compression import CompressionPlan as CompressionPlan
    from gradience.reports.compression import CompressionReport as CompressionReport
    from gradience.reports.conversion import ConversionReport as ConversionReport
    from gradience.reports.distill import DistillReport as DistillReport
    from gradience.reports.evaluation import EvaluationReport as EvaluationReport
    from gradience.reports.evaluation import EvaluationSetsReport as EvaluationSetsReport
    from gradience.reports.evidence import EvidenceReport as EvidenceReport
    from gradience.reports.fleet import FleetCompression as FleetCompression
    from gradience.reports.fleet import FleetReport as FleetReport
    from gradience.reports.merge import MergeReport as MergeReport
    from gradience.reports.monitor import MonitorReport as MonitorReport
    from gradience.reports.shrink import ShrinkReport as ShrinkReport
    from gradience.shrink.verb import shrink_adapter as shrink_adapter
    from gradience.telemetry import TelemetryReader as TelemetryReader
    from gradience.telemetry import TelemetryWriter as TelemetryWriter
    from gradience.verification.verb import verify as verify

__version__ = "0.2.0"


@cache
def _homes() -> dict[str, str]:
    """Return the module of each public name, by the imports at the top of this file."""
    import ast
    from inspect import getsource

    tree = ast.parse(getsource(sys.modules[__name__]))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {
        alias.name: node.module
        for node in imports
        for alias in node.names
        if node.module and node.module.startswith("gradience.")
    }


def __getattr__(name: str) -> Any:
    """The public name `name`, imported from the module it lives in."""
    if name == "__all__":
        return sorted(_homes())
    homes = (
        {} if name.startswith("__") else _homes()
    )  # reading the source of a module looks for its __wrapped__
    if name not in homes:
        raise AttributeError(f"module 'gradience' has no attribute {name!r}")
    value = getattr(importlib.import_module(homes[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*_homes(), *(name for name in globals() if name.startswith("__"))})
