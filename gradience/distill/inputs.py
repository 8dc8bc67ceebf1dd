"""Inputs of a distillation, read and checked before the base is loaded."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from gradience.adapters.adapter import Adapter
from gradience.calibrate.inputs import CalibrateInputs, read_inputs
from gradience.calibrate.settings import DistillSettings
from gradience.errors import UsageError
from gradience.evaluate.adapters import AdapterInput
from gradience.models.locate import last_part

Row = TypeVar("Row")
FEWEST = 16
"""Rows: of them 4 are held out, so that what is measured on them has a spread."""
ON_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*")
"""A name of the form `organization/model`."""
_SPLIT = 2
"""Stream of random numbers, beside those of `calibrate/batches.py`."""


@dataclass(frozen=True, slots=True)
class DistillInputs:
    """Everything that can be known before the base is loaded."""

    request: DistillSettings
    student: CalibrateInputs
    teacher: Adapter
    """Open, in PEFT's format."""
    student_sha256: str
    teacher_sha256: str


@dataclass(frozen=True, slots=True)
class Parts(Generic[Row]):
    """Rows by what they are for; a quarter is held out, an eighth decides when to stop."""

    training: tuple[Row, ...]
    stopping: tuple[Row, ...]
    held_out: tuple[Row, ...]


def split(rows: Sequence[Row], seed: int) -> Parts[Row]:
    """Split rows, sorted by their identities, so that the order in the file has no effect."""
    order = np.random.default_rng([seed, _SPLIT]).permutation(len(rows)).tolist()
    shuffled = [rows[place] for place in order]
    held_out, stopping = len(rows) // 4, len(rows) // 8
    return Parts(
        tuple(shuffled[held_out + stopping :]),
        tuple(shuffled[held_out : held_out + stopping]),
        tuple(shuffled[:held_out]),
    )


def read_distill_inputs(request: DistillSettings, student: Adapter, teacher: Adapter) -> DistillInputs:
    """Read the rows and check both adapters. The base's tokenizer is loaded, the base is not.

    Raises UsageError (`not-smaller`, `same-adapter`, `other-base`, `other-modules`, `too-few-rows`), and what
    `read_inputs` raises.
    """
    if not request.lr > 0:
        raise UsageError(
            f"--lr {request.lr} is not a positive number",
            code="bad-lr",
            hint="give a positive number, such as --lr 3e-4",
        )
    student_path, teacher_path = Path(request.adapter), Path(request.teacher)
    digests = student.sha256(), teacher.sha256()
    if digests[0] == digests[1]:
        raise UsageError(
            f"{student_path} and {teacher_path} hold the same weights",
            code="same-adapter",
            hint="give the smaller adapter first, and the reference adapter as --teacher",
        )
    _refuse_unlike(student, teacher, student_path, teacher_path)
    if student.lora_params >= teacher.lora_params:
        raise UsageError(
            f"{student_path} has {student.lora_params:,} LoRA parameters, but its teacher has"
            f" {teacher.lora_params:,}",
            code="not-smaller",
            hint="give the smaller adapter first, and the reference adapter as --teacher",
        )
    reference = AdapterInput.of(teacher_path.name, teacher_path, teacher)
    inputs = read_inputs(request.student, student, reference)
    rows = len(inputs.rows.all)
    if rows < FEWEST:
        raise UsageError(
            f"{request.prompts}: {rows} different rows, but distillation needs at least {FEWEST}",
            code="too-few-rows",
            hint="give a few hundred prompts like those that the adapter will see",
        )
    return DistillInputs(request, inputs, teacher, *digests)


def may_be_one_base(first: str, second: str) -> bool:
    """Return whether two names of bases may mean the same weights.

    Names on the hub must be the same, the organization included. A folder may be anywhere: of it, and of what is
    compared with it, the last part counts.

    >>> may_be_one_base("org/llama", "/models/llama"), may_be_one_base("org/llama", "other/llama")
    (True, False)
    """
    if ON_HUB.fullmatch(first) and ON_HUB.fullmatch(second):
        return first.casefold() == second.casefold()
    return last_part(first) == last_part(second)


def _refuse_unlike(student: Adapter, teacher: Adapter, student_path: Path, teacher_path: Path) -> None:
    """Check that both have one base, as far as their configs say, and that the teacher has every module."""
    names = [adapter.config.base_model if adapter.config else None for adapter in (student, teacher)]
    if names[0] and names[1] and not may_be_one_base(names[0], names[1]):
        raise UsageError(
            f"{student_path} was trained on {names[0]}, {teacher_path} on {names[1]}",
            code="other-base",
            hint="use the adapter that the smaller one was made from as --teacher",
        )
    foreign = sorted({pair.module for pair in student.pairs} - {pair.module for pair in teacher.pairs})
    if foreign:
        raise UsageError(
            f"{student_path} changes {foreign[0]}, which {teacher_path} does not",
            code="other-modules",
            hint="use the adapter that the smaller one was made from as --teacher",
        )
