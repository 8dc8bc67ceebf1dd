"""`calibrate_adapter`: what `gradience calibrate` does, as one function: read, load, measure in two passes, write."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradience.adapters.formats import open_adapter
from gradience.audit.adapter import audit_opened
from gradience.calibrate.inputs import CalibrateInputs, read_inputs
from gradience.calibrate.settings import CalibrateSettings
from gradience.evaluate.inputs import TEXT_TOKENS
from gradience.files.shared_names import path_text
from gradience.files.whole import already_exists
from gradience.models.locate import locate
from gradience.plan.compression import curve, with_calibration
from gradience.plan.modules import modules_of
from gradience.reports.calibration import Calibration, CalibrationForecast
from gradience.settings import public, required_output


@public(CalibrateSettings)
def calibrate_adapter(settings: CalibrateSettings) -> Calibration | CalibrationForecast:
    """Measure on prompts how each component of an adapter changes the model's output, and write it to `output`.

    >>> calibration = calibrate_adapter(
    ...     "my_adapter", "measured.safetensors", prompts="rows.jsonl", base_model="embedded:minilm"
    ... )
    >>> len(calibration.modules), calibration.report.selection_rows  # a few hundred rows are better
    (16, 4)
    >>> compress_adapter("my_adapter", calibration=calibration, reduction=0.5, dry_run=True).prediction.rows
    4

    A dry run returns the cost estimate. Keywords, named like the flags of `gradience calibrate`:

    Raises InputError if adapter, rows or base cannot be used, UsageError for contradictory options,
    MissingExtra, OutputError for disk and memory errors.
    """
    output = None if settings.dry_run else required_output(settings.output)
    if output is not None and output.exists() and not settings.force:
        raise already_exists(output)
    with open_adapter(Path(settings.adapter), tokenizer=settings.tokenizer != "base") as opened:
        inputs = read_inputs(settings, opened)
        if output is None:
            return forecast_calibration(inputs)
        calibrate(inputs, output)
    return Calibration.read(output)


def calibrate(inputs: CalibrateInputs, output: Path) -> None:
    """Calibrate on what was read, and write the file."""
    from gradience.calibrate.measure import measured
    from gradience.evaluate.engines.base import memory_errors
    from gradience.evaluate.engines.transformers.engine import memory

    with memory_errors(batches=True), memory():
        calibration = measured(inputs)
    facts, audited = calibration.report, audit_opened(inputs.adapter)
    if not facts.routing:
        sizes = curve(with_calibration(audited, modules_of(audited), calibration), facts)
        calibration = replace(calibration, report=facts.model_copy(update={"sizes": sizes}))
    calibration.write(output)


def needs_of(ranks: Iterable[int], rows: int, tokens: int) -> tuple[int, int]:
    """Return the needs of modules of these ranks for `rows` rows and at most `tokens` tokens in a batch (with padding).

    In bytes: what is held from the first batch to the last, and what one batch adds while it is computed (h and t of
    every module). J (rows x r x r) of a module is never formed: the components are fixed before the second pass, which
    keeps only their effects (rows x r, for two bases).

    >>> needs_of([64] * 224, rows=256, tokens=8 * 512)  # 7B, seven projections in each of 32 layers
    (117440512, 234881024)
    """
    held = batch = 0
    for rank in ranks:
        moments, maps, effects = 2 * rank * rank, 2 * rank * rank, 2 * rows * rank
        # In float64: moments, the maps of two bases, effects; the maps once more in float32, for the device.
        held += 8 * (moments + 2 * maps + effects) + 4 * 2 * maps
        # h stays until t arrives; both are brought into rows, in float32, one module at a time.
        batch += 4 * tokens * rank
    return held, batch


def forecast_calibration(inputs: CalibrateInputs) -> CalibrationForecast:
    """Tokenize the rows and add up what their calibration needs. The base's weights are counted by its config.json."""
    import transformers

    from gradience.calibrate.measure import encode_pairs, encode_texts
    from gradience.evaluate.checks import process_bytes, weights_bytes_of
    from gradience.models import load

    request, model, tokenizer = inputs.request, inputs.model, load.load_tokenizer(inputs.model)
    if inputs.kind == "sequence_classification":
        rows = encode_texts(tokenizer, inputs.rows.all, request.max_length or TEXT_TOKENS)
        factory: Any = transformers.AutoModelForSequenceClassification
    else:
        rows = encode_pairs(tokenizer, inputs.rows.all, request.max_length, request.completion_tokens)
        factory = transformers.AutoModelForCausalLM
    shape = load.from_folder(transformers.AutoConfig, model.name, locate(model, ("config.json",)).folder)
    dtype = load.dtype_of(model, shape, request.device)
    base = load.skeleton(factory, shape, labels=inputs.labels, dtype=dtype)
    longest = max(len(row.ids) + (request.completion_tokens if not row.scored else 0) for row in rows)
    pairs = inputs.adapter.pairs
    held, batch = needs_of((pair.rank for pair in pairs), len(rows), longest * request.batch_size)
    return CalibrationForecast(
        adapter_path=path_text(request.adapter),
        base=path_text(model.name),
        kind=inputs.kind,
        rows=len(rows),
        duplicates=inputs.rows.duplicates,
        selection_rows=sum(inputs.rows.selects),
        sampled_completions=inputs.to_sample,
        longest=longest,
        batch_size=request.batch_size,
        modules=len(pairs),
        process_bytes=process_bytes(request.device),
        weights_bytes=weights_bytes_of(base, packed=model.quantization is not None),
        held_bytes=held,
        batch_bytes=batch,
    )
