"""The prompts of a calibration and of a distillation: read beforehand, and whether they are rows that are tested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradience.calibrate.inputs import read_inputs
from gradience.calibrate.rows import prompt_id
from gradience.calibrate.settings import DistillSettings
from gradience.digests import sha256_file
from gradience.distill.inputs import FEWEST
from gradience.errors import UsageError
from gradience.evaluate.settings import EvaluateSettings
from gradience.files.shared_names import path_text
from gradience.models.settings import BaseSettings
from gradience.reports.calibration import Calibration
from gradience.reports.shrink import PlannedDistillation
from gradience.settings import shared
from gradience.tasks.examples import LabelledExample


def distillation_of(asked: EvaluateSettings, prompts: Path) -> tuple[DistillSettings, Sequence[str]]:
    """Return how the smallest candidate is distilled (with the defaults of `gradience distill`), and its prompts' ids.

    Raises UsageError (`too-few-rows`), and what reading prompts raises.
    """
    adapter = asked.adapters[0]
    base = {**shared(asked, BaseSettings), "max_length": asked.max_length}
    distillation = DistillSettings(adapter, teacher=adapter, prompts=prompts, **base)
    inputs = read_inputs(distillation.student)
    ids = inputs.rows.prompt_ids(inputs.kind)
    if len(ids) < FEWEST:
        raise UsageError(
            f"{prompts}: {len(ids)} different rows, and distillation needs at least {FEWEST}",
            code="too-few-rows",
            hint="give some hundred prompts like those that the adapter will see",
        )
    return distillation, ids


def planned_distillation(distillation: DistillSettings) -> PlannedDistillation:
    """Return what the plan says of it."""
    prompts = Path(distillation.prompts)
    return PlannedDistillation(
        prompts=path_text(prompts),
        prompts_sha256=sha256_file(prompts),
        steps=distillation.steps,
        lr=distillation.lr,
        batch_size=distillation.batch_size,
        seed=distillation.seed,
    )


def notes_on_prompts(
    tested: Sequence[Any], calibration: Calibration | None, distillation_ids: Sequence[str]
) -> tuple[str, ...]:
    """Return notes on prompts that are tested as well. distillation_ids: `prompt_ids` of the distillation's rows."""
    ids = {_asked(example) for example in tested}
    known = () if calibration is None else calibration.report.prompt_ids
    notes = [
        f"{both:,} of the {len(prompts):,} prompts that {what} are rows that are tested: {whose} may look better than"
        f" {pronoun}"
        for prompts, what, whose, pronoun in (
            (distillation_ids, "distill", "the distilled candidate", "it is"),
            (known, "calibrate", "all candidates", "they are"),
        )
        if (both := sum(prompt in ids for prompt in prompts))
    ]
    if calibration is not None and not known:
        notes.append(
            "this calibration names none of its prompts: see that none of them is a row that is tested"
        )
    return tuple(notes)


def _asked(example: Any) -> str:
    if isinstance(example, LabelledExample):
        return prompt_id(example.text, example.text_pair)
    return prompt_id(str(example.prompt))
