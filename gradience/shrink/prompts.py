"""The prompts of a calibration and of a healing: read beforehand, and whether they are rows that are tested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradience.artifacts.calibration import Calibration
from gradience.artifacts.shared_names import path_text
from gradience.artifacts.shrink import PlannedHealing
from gradience.calibrate.heal.inputs import FEWEST, HealRequest
from gradience.calibrate.inputs import Request, read_inputs
from gradience.calibrate.rows import CalibrationRow
from gradience.digests import sha256_file
from gradience.errors import UsageError
from gradience.evaluate.request import Request as Evaluation
from gradience.tasks.examples import LabelledExample


def healing_of(asked: Evaluation, prompts: Path) -> tuple[HealRequest, Sequence[CalibrationRow]]:
    """Return how the smallest rung is healed, as `gradience heal` does by default, and the rows of `prompts`.

    Raises UsageError (`too-few-rows`), and what reading prompts raises.
    """
    student = Request(
        adapter=asked.adapters[0],
        prompts=prompts,
        base_model=asked.base_model,
        max_length=asked.max_length,
        dtype=asked.dtype,
        quantization=asked.quantization,
        revision=asked.revision,
        device=asked.device,
    )
    rows = read_inputs(student).rows.all
    if len(rows) < FEWEST:
        raise UsageError(
            f"{prompts}: {len(rows)} different rows, and healing needs at least {FEWEST}",
            code="too-few-rows",
            hint="give some hundred prompts like those that the adapter will see; 256 are enough",
        )
    return HealRequest(student=student, teacher=asked.adapters[0]), rows


def planned_healing(healing: HealRequest) -> PlannedHealing:
    """Return what the plan says of it."""
    student = healing.student
    return PlannedHealing(
        prompts=path_text(student.prompts),
        prompts_sha256=sha256_file(student.prompts),
        steps=healing.steps,
        lr=healing.lr,
        batch_size=student.batch_size,
        seed=student.seed,
    )


def notes_on_prompts(
    tested: Sequence[Any],
    data: Path | None,
    calibration: Calibration | None,
    healing: PlannedHealing | None,
    rows: Sequence[CalibrationRow],
) -> tuple[str, ...]:
    """Return what is known of prompts that are tested as well. rows: those of the healing; a calibration keeps none."""
    notes = []
    if healing is not None:
        texts = {_tested(example) for example in tested}
        both = sum(_prompt(row, tested[0]) in texts for row in rows)
        if both:
            notes.append(
                f"{both:,} of the {len(rows):,} prompts that heal are rows that are tested: the healed rung may look"
                " better than it is"
            )
    digest = None if calibration is None else calibration.report.prompts_sha256
    if digest is None or (healing is not None and digest == healing.prompts_sha256):
        return tuple(notes)
    if data is not None and digest == sha256_file(data):
        notes.append(
            "the calibration was made on the rows that are tested: its rungs may look better than they are"
        )
    else:
        notes.append("a calibration keeps none of its prompts: see that none of them is a row that is tested")
    return tuple(notes)


def _tested(example: Any) -> tuple[str, str | None]:
    if isinstance(example, LabelledExample):
        return example.text, example.text_pair
    return str(example.prompt).strip(), None


def _prompt(row: CalibrationRow, example: Any) -> tuple[str, str | None]:
    """As `_tested` has it: of a language model the prompt alone."""
    return (row.text, row.more) if isinstance(example, LabelledExample) else (row.text.strip(), None)
