"""A calibration's report and its forecast, as they would be written."""

from __future__ import annotations

from gradience.reports.base.run import Stopwatch
from gradience.reports.calibration import (
    CalibratedModule,
    CalibrationForecast,
    CalibrationReport,
    ExcludedModule,
)


def calibration_report() -> CalibrationReport:
    modules = tuple(
        CalibratedModule(
            name=f"model.layers.{place}.self_attn.q_proj",
            rank=8,
            components=8 - place % 2,
            scale=2.0,
            importance=0.01 / (place + 1),
            weighted_energy_rank_90=place % 4 + 1,
        )
        for place in range(10)
    )
    return CalibrationReport(
        adapter_path="adapter",
        adapter_sha256="a" * 64,
        base="base",
        base_sha256="b" * 64,
        quantization=None,
        dtype="float32",
        device="cpu",
        kind="causal_lm",
        prompts="rows.jsonl",
        prompts_sha256="c" * 64,
        prompt_ids=tuple(f"{place:016x}" for place in range(256)),
        rows=256,
        duplicates=1,
        selection_rows=128,
        given_completions=200,
        sampled_completions=56,
        completion_tokens=64,
        truncated=2,
        scored_tokens=900,
        seed=42,
        batch_size=8,
        max_length=2048,
        ridge=1e-4,
        modules=modules,
        excluded=(ExcludedModule(name="model.conv", reason="a convolution"),),
        run=Stopwatch().run_info(),
    )


def calibration_forecast() -> CalibrationForecast:
    return CalibrationForecast(
        adapter_path="adapter",
        base="base",
        kind="causal_lm",
        rows=256,
        duplicates=0,
        selection_rows=128,
        sampled_completions=56,
        longest=120,
        batch_size=8,
        modules=11,
        file_bytes=1000,
        process_bytes=9000,
        weights_bytes=50000,
        held_bytes=2000,
        batch_bytes=3000,
    )
