"""`distill_adapter`: what `gradience distill` does, as one function: read, load, distill, write."""

import os
from pathlib import Path

from gradience.adapters.formats import open_adapter
from gradience.calibrate.settings import DistillSettings
from gradience.compress.carry import refuse_foreign_files
from gradience.distill.inputs import DistillInputs, read_distill_inputs, split
from gradience.files.shared_names import path_text
from gradience.files.whole import check_output
from gradience.reports.base.prompted import PromptForecast
from gradience.reports.distill import DistillForecast, DistillReport
from gradience.settings import public, required_output


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
    from gradience.calibrate.forecast import forecast_calibration
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
