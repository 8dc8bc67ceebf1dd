"""`distill_adapter`: what `gradience distill` does, as one function: read and check, load, distill, write."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gradience.adapters.adapter import Adapter
from gradience.adapters.formats import open_adapter
from gradience.calibrate.settings import DistillSettings
from gradience.calibrate.verb import CalibrateInputs, forecast_calibration, read_inputs
from gradience.compress.carry import refuse_foreign_files
from gradience.errors import UsageError
from gradience.evaluate.adapters import AdapterInput
from gradience.files.shared_names import path_text
from gradience.files.whole import check_output
from gradience.models.locate import last_part
from gradience.reports.base.prompted import PromptForecast
from gradience.reports.distill import DistillForecast, DistillReport, MeanKl
from gradience.settings import public, required_output
from gradience.spectra import FloatArray

Row = TypeVar("Row")
FEWEST = 16
"""Rows: of them 4 are held out, so that what is measured on them has a spread."""
ON_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*")
"""A name of the form `organization/model`."""
_SPLIT = 2
"""Stream of random numbers, beside those of `calibrate/measure.py`."""


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


# ---------------------------------------------------------------- KL of two adapters over rows


def mean_kl(sums: FloatArray, tokens: NDArray[np.int64], least: float = 0.0) -> MeanKl:
    """Σ sums / Σ tokens with Student's interval, by the linear approximation of the ratio.

    >>> mean = mean_kl(np.array([0.1, 0.3, 0.2]), np.array([1, 1, 1]))
    >>> round(mean.kl_per_token, 3), round(mean.low, 3), round(mean.high, 3)
    (0.2, 0.0, 0.448)

    sums: of each row over its tokens; differences of two adapters on the same rows as well.
    least: what the value cannot be below; −inf for differences.
    """
    from gradience.statistics.paired import mean_difference  # needs scipy, which is slow to load

    ratio = float(sums.sum() / tokens.sum())
    low, high = mean_difference(ratio + (sums - ratio * tokens) / tokens.mean())
    return MeanKl(kl_per_token=ratio, low=max(low, least), high=high)


def p_closer(before: FloatArray, after: FloatArray, seed: int) -> float:
    """Return the one-sided p-value of "distillation changed nothing" against a lower KL: a paired permutation test.

    A few rows with a large KL make Student's interval of the change wide. Here they count on both sides: on rows of
    distilled adapters it keeps its level of 2.5 %, and finds 99 % of the recoveries of which Student's finds 69 %
    (docs/distill.md).

    >>> p_closer(np.array([0.3, 0.2, 0.4, 9.0, 0.2, 0.5]), np.array([0.1, 0.1, 0.2, 4.0, 0.1, 0.3]), seed=0)
    0.015625

    before, after: KL of each row over its tokens.
    """
    from scipy import stats

    test = stats.permutation_test(
        (after, before),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9999,
        alternative="less",
        random_state=np.random.default_rng([seed, 4]),
    )
    return float(test.pvalue)


# ---------------------------------------------------------------- the verb


@public(DistillSettings)
def distill_adapter(settings: DistillSettings) -> DistillReport | DistillForecast:
    """Train a smaller adapter for a few steps to match its reference adapter, and write it to the folder `output`.

    >>> report = distill_adapter(
    ...     "smaller",
    ...     "distilled",
    ...     teacher="my_adapter",
    ...     prompts="prompts.jsonl",
    ...     base_model="embedded:minilm",
    ...     steps=2,
    ... )
    >>> report.training_rows, report.held_out_rows  # a few hundred rows are better
    (10, 4)

    A dry run returns the cost estimate. Keywords, named like the flags of `gradience distill`:

    Raises InputError if adapters, rows or base cannot be used, UsageError for contradictory options,
    MissingExtra, OutputError for disk and memory errors.
    """
    adapter, teacher = Path(settings.adapter), Path(settings.teacher)
    output = None if settings.dry_run else required_output(settings.output, "DIR")
    if output is not None:
        for source in (adapter, teacher):
            check_output(output, source, force=settings.force)
        refuse_foreign_files(output, os.listdir(adapter) if adapter.is_dir() else ())
    tokenizer = settings.tokenizer != "base"
    with (
        open_adapter(adapter, tokenizer=tokenizer) as smaller,
        open_adapter(teacher, tokenizer=tokenizer) as reference,
    ):
        inputs = read_distill_inputs(settings, smaller, reference)
        return forecast_distill(inputs) if output is None else distill(inputs, output)


def distill(inputs: DistillInputs, output: Path) -> DistillReport:
    """Distill what was read, and write the folder."""
    from gradience.distill.train import write_distilled
    from gradience.evaluate.engines.base import memory_errors
    from gradience.evaluate.engines.transformers.engine import memory

    with memory_errors(batches=True), memory():
        return write_distilled(inputs, output)


def forecast_distill(inputs: DistillInputs) -> DistillForecast:
    """Tokenize the rows, split them, and add up what the training holds.

    Of each trained parameter there are, in float32, the factor, its gradient, two moments and the best so far.
    """
    from gradience.distill.train import CHECKS

    rows = forecast_calibration(inputs.student)
    parts = split(inputs.student.rows.all, inputs.student.request.seed)
    examples = inputs.request.steps * rows.batch_size
    trained, teacher = inputs.student.adapter.lora_params, inputs.teacher.lora_params
    measured = (CHECKS + 1) * len(parts.stopping) + 2 * len(parts.held_out)
    return DistillForecast(
        **rows.model_dump(include={*PromptForecast.model_fields} - {"schema_", "held_bytes"}),
        teacher_path=path_text(inputs.request.teacher),
        training_rows=len(parts.training),
        stopping_rows=len(parts.stopping),
        held_out_rows=len(parts.held_out),
        steps=inputs.request.steps,
        forward_examples=2 * (examples + measured),
        backward_examples=examples,
        teacher_params=teacher,
        trained_params=trained,
        held_bytes=4 * teacher + 5 * 4 * trained,
    )
