"""Distillation as Bench asks for it: the probe teaches, on its own training prompts, and no label is read."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradience.adapters.formats import open_adapter
from gradience.bench.arms.arm import Distilled, Source
from gradience.bench.config.load import BenchConfig
from gradience.bench.run.prompts import Prompts
from gradience.calibrate.settings import DistillSettings
from gradience.distill.inputs import FEWEST, DistillInputs
from gradience.distill.write import write_distilled
from gradience.errors import UsageError
from gradience.plan.modules import Ranks
from gradience.progress import Progress
from gradience.reports.base.run import Stopwatch
from gradience.settings import shared
from gradience.tasks.base import Task

BEFORE = "before"
"""What a stage holds while it distills, beside the rows: the adapter that is distilled."""


@dataclass(frozen=True, slots=True)
class Distillation:
    """How all adapters of a run are distilled."""

    prompts: Prompts
    steps: int
    lr: float

    @classmethod
    def of(cls, config: BenchConfig, task: Task, trained: int) -> Distillation:
        """What the config says. trained: steps that were planned for the probe."""
        distillation = config.compression.distillation
        assert distillation is not None
        return cls(
            Prompts.of(config, task, distillation.rows), distillation.steps_of(trained), distillation.lr
        )

    def decides(self) -> dict[str, Any]:
        """What decides the result, beside base and seed."""
        return {**self.prompts.decides(), "steps": self.steps, "lr": self.lr}


def distill_variant(
    arm: Distilled, source: Source, ranks: Ranks, target: Path, distillation: Distillation, progress: Progress
) -> None:
    """Write the adapter with which `arm` begins, distilled, to the folder `target`.

    Raises UsageError (`too-few-rows`), and what loading the base and encoding rows raise.
    """
    before = target.with_name(BEFORE)
    arm.begin(source, ranks, before)
    inputs = _inputs(before, source, distillation)
    write_distilled(inputs, target, Stopwatch(), progress, force=True)
    shutil.rmtree(before)
    Path(inputs.request.prompts).unlink()


def _inputs(before: Path, source: Source, distillation: Distillation) -> DistillInputs:
    """As `read_distill_inputs` reads them, but for its refusal of what is no smaller than its teacher."""
    inputs = distillation.prompts.inputs(before, before.parent, source.seed)
    if len(inputs.rows.all) < FEWEST:
        raise UsageError(
            f"{len(inputs.rows.all)} different training prompts, and distillation needs at least {FEWEST}",
            code="too-few-rows",
            hint="train on more examples, or remove distill from compression.arms",
        )
    with open_adapter(before) as student, open_adapter(source.probe) as teacher:
        return DistillInputs(
            DistillSettings(
                **shared(inputs.request, DistillSettings),
                teacher=source.probe,
                steps=distillation.steps,
                lr=distillation.lr,
            ),
            inputs,
            source.probe,
            student.sha256(),
            teacher.sha256(),
            sum(pair.params for pair in student.pairs),
            sum(pair.params for pair in teacher.pairs),
        )
