"""A distillation's report and its forecast, as they would be written."""

from __future__ import annotations

from gradience.reports.base.run import Stopwatch
from gradience.reports.distill import DistillCheck, DistillForecast, DistillReport, HeldOutRow, MeanKl


def distill_report() -> DistillReport:
    checks = [(0, 0.03), (10, 0.02), (20, 0.012), (30, 0.013)]
    return DistillReport(
        adapter_path="smaller",
        adapter_sha256="a" * 64,
        teacher_path="my_adapter",
        teacher_sha256="b" * 64,
        output_path="distilled",
        output_sha256="c" * 64,
        base="base",
        base_sha256="d" * 64,
        quantization=None,
        dtype="float32",
        device="cpu",
        kind="causal_lm",
        prompts="rows.jsonl",
        prompts_sha256="e" * 64,
        rows=256,
        duplicates=1,
        training_rows=160,
        stopping_rows=32,
        held_out_rows=64,
        scored_tokens=900,
        given_completions=200,
        sampled_completions=56,
        completion_tokens=64,
        truncated=2,
        seed=42,
        batch_size=8,
        max_length=2048,
        lr=3e-4,
        planned_steps=100,
        steps=30,
        best_step=20,
        improved=True,
        teacher_params=1000,
        trained_params=250,
        before=MeanKl(kl_per_token=0.03, low=0.02, high=0.04),
        after=MeanKl(kl_per_token=0.015, low=0.01, high=0.02),
        change=MeanKl(kl_per_token=-0.015, low=-0.02, high=-0.01),
        checks=tuple(DistillCheck(step=step, kl_per_token=kl) for step, kl in checks),
        by_row=(
            HeldOutRow(
                id="0123456789abcdef", tokens=3, kl_per_example_before=0.09, kl_per_example_after=0.05
            ),
        ),
        carried_files=("README.md",),
        left_out_files=(),
        run=Stopwatch().run_info(),
    )


def distill_forecast() -> DistillForecast:
    return DistillForecast(
        adapter_path="smaller",
        teacher_path="my_adapter",
        base="base",
        kind="causal_lm",
        rows=256,
        duplicates=0,
        training_rows=160,
        stopping_rows=32,
        held_out_rows=64,
        sampled_completions=56,
        longest=120,
        batch_size=8,
        steps=100,
        forward_examples=2560,
        backward_examples=800,
        teacher_params=1000,
        trained_params=250,
        process_bytes=9000,
        weights_bytes=50000,
        held_bytes=9000,
    )
