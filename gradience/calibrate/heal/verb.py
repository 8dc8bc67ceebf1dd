"""`heal_adapter`: what `gradience heal` does, as one function: read, load, distil, write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from gradience.arguments import integer_argument, path_argument
from gradience.artifacts.card import CardOf
from gradience.artifacts.heal import HealReport
from gradience.artifacts.run import Stopwatch
from gradience.artifacts.whole import check_output
from gradience.calibrate.heal.inputs import HealInputs, HealRequest, read_heal_inputs
from gradience.calibrate.inputs import checked_request
from gradience.compress.carry import refuse_foreign_files
from gradience.errors import OutputError
from gradience.models.tokenizers import TokenizerOf
from gradience.progress import Progress


def heal_adapter(
    adapter: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    teacher: str | os.PathLike[str],
    prompts: str | os.PathLike[str],
    base_model: str | os.PathLike[str] | None = None,
    steps: int = 100,
    lr: float = 3e-4,
    batch_size: int = 8,
    limit: int | None = None,
    completion_tokens: int = 64,
    seed: int = 42,
    max_length: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    quantization: Literal["nf4"] | None = None,
    revision: str | None = None,
    tokenizer: TokenizerOf | None = None,
    device: str = "auto",
    force: bool = False,
    progress: Progress | None = None,
) -> HealReport:
    """Train a smaller adapter for a few steps to answer as its original does, and write it to the folder `output`.

    >>> report = heal_adapter(
    ...     "smaller",
    ...     "healed",
    ...     teacher="my_adapter",
    ...     prompts="prompts.jsonl",
    ...     base_model="embedded:minilm",
    ...     steps=2,
    ... )
    >>> report.training_rows, report.held_out_rows  # better with some hundred rows
    (10, 4)

    The keywords are the flags of `gradience heal`:

    adapter: folder of the smaller LoRA adapter, such as `compress_adapter` writes.
    output: the folder to write.
    teacher: folder of the original adapter, on the same base.
    prompts: rows of `prompt` (with or without `completion`), of `messages`, or of `text` for a classifier.
    base_model: a folder, a name on the hub, or embedded:minilm; by default what the adapter's config names.
    steps: of the optimiser, at most; a tenth of those of the training is a good start.
    lr: of AdamW at most; it rises over a fifth of the steps and falls in a straight line to 0.
    batch_size: rows of a step.
    limit: read the first so many rows.
    completion_tokens: of a completion that the teacher writes for a row without one, at most.
    seed: of the split of the rows, their order, and completions that are drawn.
    max_length: tokens of a row; by default what the base allows, and 512 for a classifier.
    dtype: of the base, as in a config of Bench; so are the next three.
    quantization: of the base.
    revision: of the base on the hub.
    tokenizer: "base" or "adapter"; by default the one saved with the adapter where there is one.
    device: where the base is.
    force: replace an adapter folder that is there.
    progress: called after each step and each batch that is sampled or measured.

    Raises InputError where adapters, rows or base cannot be used, UsageError for what makes no sense together,
    MissingExtra, OutputError when disk or memory refuse.
    """
    student = checked_request(
        adapter, prompts, base_model, limit, completion_tokens, seed, batch_size,
        max_length=max_length, dtype=dtype, quantization=quantization, revision=revision, tokenizer=tokenizer,
        device=device,
    )  # fmt: skip
    request = HealRequest(
        student=student,
        teacher=path_argument("teacher", teacher),
        steps=integer_argument("steps", steps),
        lr=lr,
    )
    target = path_argument("output", output)
    check_heal_output(target, request, force=force)
    return heal(read_heal_inputs(request), target, progress=progress, force=force)


def check_heal_output(output: Path, request: HealRequest, *, force: bool) -> None:
    """Refuse an output that exists, or that is one of the inputs, before anything is loaded."""
    for source in (request.student.adapter, request.teacher):
        check_output(output, source, force=force)
    beside = request.student.adapter
    refuse_foreign_files(output, os.listdir(beside) if beside.is_dir() else ())


def heal(
    inputs: HealInputs,
    output: Path,
    *,
    progress: Progress | None = None,
    force: bool = False,
    card: CardOf | None = None,
    command: str = "",
) -> HealReport:
    """Heal what was read, and write the folder. card: makes the block of its model card from the folder."""
    from gradience.calibrate.heal.write import write_healed
    from gradience.evaluate.engines.base import OutOfMemoryError
    from gradience.evaluate.engines.transformers.memory import memory

    watch = Stopwatch(command)
    try:
        with memory():
            return write_healed(inputs, output, watch, progress, force=force, card=card)
    except OutOfMemoryError as error:
        raise OutputError(
            f"the device has not enough memory: {error}",
            code="out-of-memory",
            hint=f"a smaller --batch-size than {inputs.student.request.batch_size}, or --quantization nf4",
        ) from None
