"""Healing as Bench asks for it: the probe teaches, on its own training prompts, and no label is read."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradience.adapters.formats import open_adapter
from gradience.bench.arms.arm import Healed, Source
from gradience.bench.config.load import BenchConfig
from gradience.bench.run.prompts import Prompts
from gradience.calibrate.heal.inputs import FEWEST, HealInputs
from gradience.calibrate.heal.write import write_healed
from gradience.calibrate.settings import HealSettings
from gradience.errors import UsageError
from gradience.plan.modules import Ranks
from gradience.progress import Progress
from gradience.reports.base.run import Stopwatch
from gradience.settings import shared
from gradience.tasks.base import Task

BEFORE = "before"
"""What a stage holds while it heals, beside the rows: the adapter that is healed."""


@dataclass(frozen=True, slots=True)
class Healing:
    """How all adapters of a run are healed."""

    prompts: Prompts
    steps: int
    lr: float

    @classmethod
    def of(cls, config: BenchConfig, task: Task, trained: int) -> Healing:
        """What the config says. trained: steps that were planned for the probe."""
        healing = config.compression.healing
        assert healing is not None
        return cls(Prompts.of(config, task, healing.rows), healing.steps_of(trained), healing.lr)

    def decides(self) -> dict[str, Any]:
        """What decides the result, beside base and seed."""
        return {**self.prompts.decides(), "steps": self.steps, "lr": self.lr}


def heal_variant(
    arm: Healed, source: Source, ranks: Ranks, target: Path, healing: Healing, progress: Progress
) -> None:
    """Write the adapter with which `arm` begins, healed, to the folder `target`.

    Raises UsageError (`too-few-rows`), and what loading the base and encoding rows raise.
    """
    before = target.with_name(BEFORE)
    arm.begin(source, ranks, before)
    inputs = _inputs(before, source, healing)
    write_healed(inputs, target, Stopwatch(), progress, force=True)
    shutil.rmtree(before)
    Path(inputs.request.prompts).unlink()


def _inputs(before: Path, source: Source, healing: Healing) -> HealInputs:
    """As `read_heal_inputs` reads them, but for its refusal of what is no smaller than its teacher."""
    inputs = healing.prompts.inputs(before, before.parent, source.seed)
    if len(inputs.rows.all) < FEWEST:
        raise UsageError(
            f"{len(inputs.rows.all)} different training prompts, and healing needs at least {FEWEST}",
            code="too-few-rows",
            hint="train on more examples, or remove heal from compression.arms",
        )
    with open_adapter(before) as student, open_adapter(source.probe) as teacher:
        return HealInputs(
            HealSettings(
                **shared(inputs.request, HealSettings),
                teacher=source.probe,
                steps=healing.steps,
                lr=healing.lr,
            ),
            inputs,
            source.probe,
            student.sha256(),
            teacher.sha256(),
            sum(pair.params for pair in student.pairs),
            sum(pair.params for pair in teacher.pairs),
        )
