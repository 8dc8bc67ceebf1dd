"""`calibrate_adapter`: what `gradience calibrate` does, as one function: read, load, measure in two passes, write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from gradience.arguments import path_argument
from gradience.artifacts.calibration import Calibration
from gradience.artifacts.run import Stopwatch
from gradience.calibrate.inputs import Inputs, checked_request, read_inputs
from gradience.errors import OutputError
from gradience.models.tokenizers import TokenizerOf
from gradience.progress import Progress


def calibrate_adapter(
    adapter: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    prompts: str | os.PathLike[str],
    base_model: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    completion_tokens: int = 64,
    seed: int = 42,
    batch_size: int = 8,
    max_length: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    quantization: Literal["nf4"] | None = None,
    revision: str | None = None,
    tokenizer: TokenizerOf | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Calibration:
    """Measure on prompts what each component of an adapter does to the model's output, and write it to `output`.

    >>> calibration = calibrate_adapter(
    ...     "my_adapter", "measured.safetensors", prompts="rows.jsonl", base_model="embedded:minilm"
    ... )
    >>> len(calibration.modules), calibration.report.selection_rows  # better with some hundred rows
    (16, 4)
    >>> compress_adapter("my_adapter", calibration=calibration, reduction=0.5, dry_run=True).prediction.rows
    4

    The keywords are the flags of `gradience calibrate`:

    adapter: folder of a LoRA adapter of a language model, causal or encoder–decoder, or of a sequence classifier.
    output: the file to write.
    prompts: rows of `prompt` (with or without `completion`), of `messages`, or of `text` for a classifier.
    base_model: a folder, a name on the hub, or embedded:minilm; by default what the adapter's config names.
    limit: read the first so many rows.
    completion_tokens: of a completion that the adapted model writes for a row without one, at most.
    seed: of the directions and completions that are drawn.
    batch_size: rows that are computed together.
    max_length: tokens of a row; by default what the base allows, and 512 for a classifier.
    dtype: of the base, as in a config of Bench; so are the next three.
    quantization: of the base.
    revision: of the base on the hub.
    tokenizer: "base" or "adapter"; by default the one saved with the adapter where there is one.
    device: where the base is.
    progress: called after each batch.

    Raises InputError where adapter, rows or base cannot be used, UsageError for what makes no sense together,
    MissingExtra, OutputError when disk or memory refuse.
    """
    request = checked_request(
        adapter, prompts, base_model, limit, completion_tokens, seed, batch_size,
        max_length=max_length, dtype=dtype, quantization=quantization, revision=revision, tokenizer=tokenizer,
        device=device,
    )  # fmt: skip
    return calibrate(read_inputs(request), path_argument("output", output), progress=progress)


def calibrate(
    inputs: Inputs, output: Path, *, progress: Progress | None = None, command: str = ""
) -> Calibration:
    """Calibrate on what was read, and write the file."""
    import torch

    from gradience.calibrate.measure import measured

    watch = Stopwatch(command)
    try:
        calibration = measured(inputs, watch, progress)
    except torch.OutOfMemoryError as error:
        raise OutputError(
            f"the device has not enough memory: {str(error).splitlines()[0]}",
            code="out-of-memory",
            hint=f"a smaller --batch-size than {inputs.request.batch_size}, or --quantization nf4",
        ) from None
    calibration.write(output)
    return Calibration.read(output)
