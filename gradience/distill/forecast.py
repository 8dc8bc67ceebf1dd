"""What a distillation does and needs, before the base is loaded."""

from __future__ import annotations

from gradience.calibrate.forecast import forecast_calibration
from gradience.distill.inputs import DistillInputs, split
from gradience.distill.train import CHECKS
from gradience.files.shared_names import path_text
from gradience.reports.distill import DistillForecast


def forecast_distill(inputs: DistillInputs) -> DistillForecast:
    """Tokenise the rows, split them, and add up what the training holds.

    Of each trained parameter there are, in float32, the factor, its gradient, two moments and the best so far.
    """
    rows = forecast_calibration(inputs.student)
    parts = split(inputs.student.rows.all, inputs.student.request.seed)
    trained = inputs.request.steps * rows.batch_size
    measured = (CHECKS + 1) * len(parts.stopping) + 2 * len(parts.held_out)
    return DistillForecast(
        adapter_path=rows.adapter_path,
        teacher_path=path_text(inputs.request.teacher),
        base=rows.base,
        kind=rows.kind,
        rows=rows.rows,
        duplicates=rows.duplicates,
        training_rows=len(parts.training),
        stopping_rows=len(parts.stopping),
        held_out_rows=len(parts.held_out),
        sampled_completions=rows.sampled_completions,
        longest=rows.longest,
        batch_size=rows.batch_size,
        steps=inputs.request.steps,
        forward_examples=2 * (trained + measured),
        backward_examples=trained,
        teacher_params=inputs.teacher_params,
        trained_params=inputs.student_params,
        process_bytes=rows.process_bytes,
        weights_bytes=rows.weights_bytes,
        held_bytes=4 * inputs.teacher_params + 5 * 4 * inputs.student_params,
    )
