"""Reports of calibrate and distill from real runs, as if a language model had read the rows; and their forecasts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from gradience.reports.calibration import CalibrationForecast, CalibrationReport, ExcludedModule
from gradience.reports.distill import DistillForecast, DistillReport

KEPT = Path(__file__).parents[1] / "benchmarks" / "results" / "minilm_prompts"
ROWS: dict[str, Any] = {
    "kind": "causal_lm",
    "duplicates": 1,
    "given_completions": 200,
    "sampled_completions": 56,
    "completion_tokens": 64,
    "truncated": 2,
    "scored_tokens": 900,
    "max_length": 2048,
}
FORECAST: dict[str, Any] = {
    "adapter_path": "smaller",
    "base": "base",
    "kind": "causal_lm",
    "rows": 256,
    "duplicates": 0,
    "sampled_completions": 56,
    "longest": 120,
    "batch_size": 8,
    "process_bytes": 9000,
    "weights_bytes": 50000,
    "held_bytes": 2000,
}


def calibration_report() -> CalibrationReport:
    kept = CalibrationReport.read(KEPT / "calibrate.json")
    dependent = replace(kept.modules[0], components=kept.modules[0].rank - 1)
    excluded = ExcludedModule(name="model.conv", reason="a convolution")
    changes = {"modules": (dependent, *kept.modules[1:]), "excluded": (excluded,)}
    return kept.model_copy(update=ROWS | changes)


def calibration_forecast() -> CalibrationForecast:
    return CalibrationForecast(**FORECAST, selection_rows=128, modules=11, batch_bytes=3000)


def distill_report() -> DistillReport:
    return DistillReport.read(KEPT / "distill_report.json").model_copy(update=ROWS)


def distill_forecast() -> DistillForecast:
    facts = {"training_rows": 160, "stopping_rows": 32, "held_out_rows": 64, "steps": 100}
    passes = {"forward_examples": 2560, "backward_examples": 800}
    return DistillForecast(
        **FORECAST, **facts, **passes, teacher_path="my_adapter", teacher_params=1000, trained_params=250
    )
