"""The probe's own training prompts, without their labels: what Bench calibrates and distills on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradience.adapters.adapter import Adapter
from gradience.adapters.formats import open_adapter
from gradience.bench.arms import Arm, ArmSource
from gradience.bench.config import BenchConfig
from gradience.bench.verdict.facts import CALIBRATION
from gradience.calibrate.measure import measured
from gradience.calibrate.settings import CalibrateSettings, DistillSettings
from gradience.calibrate.verb import CalibrateInputs, read_rows
from gradience.digests import sha256_text
from gradience.distill.train import write_distilled
from gradience.distill.verb import FEWEST, DistillInputs
from gradience.errors import UsageError
from gradience.files.whole import write_whole
from gradience.models.load import load_tokenizer
from gradience.models.settings import ModelSettings
from gradience.plan.modules import Ranks
from gradience.progress import Progress
from gradience.reports.base.prompted import Kind
from gradience.reports.bench_plan import PlannedCalibration
from gradience.settings import shared
from gradience.tasks.base import ChoiceTask, ClassificationTask, GenerationTask, Task

PROMPTS = "prompts.jsonl"
"""File of the rows in the folder of a running stage."""
BEFORE = "before"
"""File beside the prompts for distillation: the adapter to distill."""


@dataclass(frozen=True, slots=True)
class PromptRun:
    """Rows, and the settings of the model on them."""

    rows: tuple[str, ...]
    """Lines of JSON in the format of `gradience calibrate --prompts`."""
    model: ModelSettings
    labels: int | None
    """None: a language model."""
    settings: CalibrateSettings
    """Without adapter, rows and seed."""

    @classmethod
    def of(cls, config: BenchConfig, task: Task, count: int) -> PromptRun:
        """Return the first `count` examples that the probe is trained on."""
        labels = len(task.label_names) if isinstance(task, ClassificationTask) else None
        writes = task.max_new_tokens if isinstance(task, GenerationTask) else 1
        rows = rows_of(task, task.examples.of("train", config.train.train_samples)[:count])
        settings = CalibrateSettings(
            adapter="",
            prompts="",
            completion_tokens=config.task.generation.max_new_tokens or writes,
            batch_size=config.train.per_device_train_batch_size,
            max_length=None if labels is None else config.train.max_length,
            device=config.runtime.device,
            force=True,  # a killed stage left its folder
        )
        return cls(tuple(rows), config.model, labels, settings)

    @property
    def text(self) -> str:
        """The rows as a file."""
        return "".join(f"{row}\n" for row in self.rows)

    def decides(self) -> dict[str, Any]:
        """Return the inputs that determine the result, besides base, adapter and seed."""
        names = ("batch_size", "max_length", "completion_tokens")
        return {
            "rows": self.rows,
            "labels": self.labels,
            **{name: getattr(self.settings, name) for name in names},
        }

    def inputs(self, adapter: Adapter, folder: Path, seed: int, progress: Progress) -> CalibrateInputs:
        """The rows in a file in `folder`, read as `read_inputs` reads them, for an open adapter.

        Raises UsageError (`too-few-rows`).
        """
        file = write_whole(folder / PROMPTS, [self.text.encode()])
        kind: Kind = "causal_lm" if self.labels is None else "sequence_classification"
        request = replace(self.settings, adapter=adapter.folder, prompts=file, seed=seed, progress=progress)
        rows = read_rows(file, kind, load_tokenizer(self.model))
        return CalibrateInputs(request, adapter, kind, self.model, self.labels, rows)


def rows_of(task: Task, examples: Sequence[Any]) -> Iterator[str]:
    """Yield the examples as lines of JSON, without their labels.

    A row holds only the prompt, and the probe generates the text to score. For choices nothing is generated,
    and the tokens of the correct choice are scored.
    """
    for example in examples:
        if isinstance(task, ClassificationTask):
            row = {"text": example.text}
            if example.text_pair is not None:
                row["text_pair"] = example.text_pair
        elif isinstance(task, ChoiceTask):
            row = {"prompt": example.prompt, "completion": example.response}
        else:
            row = {"prompt": example.prompt}
        yield json.dumps(row, ensure_ascii=False)


# ------------------------------------------------------------ calibration


def calibration_prompts(config: BenchConfig, task: Task) -> PromptRun | None:
    """Return the prompts that the config names; None without a calibration."""
    settings = config.compression.calibration
    return None if settings is None else PromptRun.of(config, task, settings.rows)


def planned_calibration(config: BenchConfig, task: Task) -> PlannedCalibration | None:
    """Return the calibration as recorded in the plan; None without one."""
    prompts = calibration_prompts(config, task)
    if prompts is None:
        return None
    return PlannedCalibration(rows=len(prompts.rows), prompts_sha256=sha256_text(prompts.text))


def calibrate_probe(probe: Path, prompts: PromptRun, seed: int, folder: Path, progress: Progress) -> None:
    """Calibrate the adapter in PEFT's folder `probe`, and write the calibration to `folder`.

    Raises UsageError (`too-few-rows`), and what loading the base, encoding rows and measuring raise.
    """
    with open_adapter(probe) as opened:
        inputs = prompts.inputs(opened, folder, seed, progress)
        measured(inputs).write(folder / CALIBRATION)
    Path(inputs.request.prompts).unlink()


# ------------------------------------------------------------ distillation, with the probe as teacher


@dataclass(frozen=True, slots=True)
class Distillation:
    """Distillation settings shared by all adapters of a run."""

    prompts: PromptRun
    steps: int
    lr: float

    @classmethod
    def of(cls, config: BenchConfig, task: Task, trained: int) -> Distillation:
        """Return the config's distillation. trained: planned training steps of the probe."""
        settings = config.compression.distillation
        assert settings is not None
        return cls(PromptRun.of(config, task, settings.rows), settings.steps_of(trained), settings.lr)

    def decides(self) -> dict[str, Any]:
        """Return the inputs that determine the result, besides base and seed."""
        return {**self.prompts.decides(), "steps": self.steps, "lr": self.lr}


def distill_variant(
    arm: Arm, source: ArmSource, ranks: Ranks, target: Path, distillation: Distillation, progress: Progress
) -> None:
    """Make the adapter of `arm`, distill it, and write it to the folder `target`.

    Raises UsageError (`too-few-rows`), and what loading the base and encoding rows raise.
    """
    assert arm.make is not None
    before = target.with_name(BEFORE)
    arm.make(source, ranks, before)
    # like `read_distill_inputs`, except that the student may be as large as the teacher
    with open_adapter(before) as student, open_adapter(source.probe) as teacher:
        inputs = distillation.prompts.inputs(student, before.parent, source.seed, progress)
        if len(inputs.rows.all) < FEWEST:
            raise UsageError(
                f"{len(inputs.rows.all)} different training prompts, but distillation needs at least {FEWEST}",
                code="too-few-rows",
                hint="train on more examples, or remove distill from compression.arms",
            )
        settings = DistillSettings(
            **shared(inputs.request, DistillSettings),
            teacher=source.probe,
            steps=distillation.steps,
            lr=distillation.lr,
        )
        of_both = DistillInputs(settings, inputs, teacher, student.sha256(), teacher.sha256())
        write_distilled(of_both, target)
    shutil.rmtree(before)
    Path(inputs.request.prompts).unlink()
