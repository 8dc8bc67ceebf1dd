"""Calibrating as Bench asks for it: the probe, on its own training prompts, and no label is read."""

from __future__ import annotations

from pathlib import Path

from gradience.bench.config.load import BenchConfig
from gradience.bench.run.prompts import Prompts
from gradience.bench.verdict.facts import CALIBRATION
from gradience.calibrate.measure import measured
from gradience.digests import sha256_text
from gradience.progress import Progress
from gradience.reports.base.run import Stopwatch
from gradience.reports.bench_plan import PlannedCalibration
from gradience.tasks.base import Task


def calibration_prompts(config: BenchConfig, task: Task) -> Prompts | None:
    """The prompts that the config says; None where nothing is calibrated."""
    settings = config.compression.calibration
    return None if settings is None else Prompts.of(config, task, settings.rows)


def planned_calibration(config: BenchConfig, task: Task) -> PlannedCalibration | None:
    """What the plan says of it; None where nothing is calibrated."""
    settings, prompts = config.compression.calibration, calibration_prompts(config, task)
    if settings is None or prompts is None:
        return None
    return PlannedCalibration(
        rows=len(prompts.rows), prompts_sha256=sha256_text(prompts.text), max_kl=settings.max_kl
    )


def calibrate_probe(probe: Path, prompts: Prompts, seed: int, folder: Path, progress: Progress) -> None:
    """Calibrate the adapter in PEFT's folder `probe`, and write the calibration to `folder`.

    Raises UsageError (`too-few-rows`), and what loading the base, encoding rows and measuring raise.
    """
    inputs = prompts.inputs(probe, folder, seed)
    measured(inputs, Stopwatch(), progress).write(folder / CALIBRATION)
    Path(inputs.request.prompts).unlink()
