"""The prompts of a calibration and of a healing: read beforehand, and whether they are rows that are tested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradience.calibrate.heal.inputs import FEWEST
from gradience.calibrate.inputs import read_inputs
from gradience.calibrate.rows import prompt_id
from gradience.calibrate.settings import HealSettings
from gradience.digests import sha256_file
from gradience.errors import UsageError
from gradience.evaluate.settings import EvaluateSettings
from gradience.files.shared_names import path_text
from gradience.models.settings import BaseSettings
from gradience.reports.calibration import Calibration
from gradience.reports.shrink import PlannedHealing
from gradience.settings import shared
from gradience.tasks.examples import LabelledExample


def healing_of(asked: EvaluateSettings, prompts: Path) -> tuple[HealSettings, Sequence[str]]:
    """Return how the smallest rung is healed, as `gradience heal` does by default, and the ids of its prompts.

    Raises UsageError (`too-few-rows`), and what reading prompts raises.
    """
    adapter = asked.adapters[0]
    base = {**shared(asked, BaseSettings), "max_length": asked.max_length}
    healing = HealSettings(adapter, teacher=adapter, prompts=prompts, **base)
    inputs = read_inputs(healing.student)
    ids = inputs.rows.prompt_ids(inputs.kind)
    if len(ids) < FEWEST:
        raise UsageError(
            f"{prompts}: {len(ids)} different rows, and healing needs at least {FEWEST}",
            code="too-few-rows",
            hint="give some hundred prompts like those that the adapter will see",
        )
    return healing, ids


def planned_healing(healing: HealSettings) -> PlannedHealing:
    """Return what the plan says of it."""
    prompts = Path(healing.prompts)
    return PlannedHealing(
        prompts=path_text(prompts),
        prompts_sha256=sha256_file(prompts),
        steps=healing.steps,
        lr=healing.lr,
        batch_size=healing.batch_size,
        seed=healing.seed,
    )


def notes_on_prompts(
    tested: Sequence[Any], calibration: Calibration | None, healing_ids: Sequence[str]
) -> tuple[str, ...]:
    """Return what is known of prompts that are tested as well. healing_ids: `prompt_ids` of the rows that heal."""
    ids = {_asked(example) for example in tested}
    known = () if calibration is None else calibration.report.prompt_ids
    notes = [
        f"{both:,} of the {len(prompts):,} prompts that {what} are rows that are tested: {whose} may look better than"
        f" {pronoun}"
        for prompts, what, whose, pronoun in (
            (healing_ids, "heal", "the healed rung", "it is"),
            (known, "calibrate", "all rungs", "they are"),
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
