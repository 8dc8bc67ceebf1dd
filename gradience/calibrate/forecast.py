"""Disk space and memory that a calibration needs, estimated before the base is loaded."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from gradience.calibrate.batches import encode_pairs, encode_texts
from gradience.calibrate.inputs import CalibrateInputs
from gradience.evaluate.inputs import TEXT_TOKENS
from gradience.files.shared_names import path_text
from gradience.models.load import dtype_of, from_folder, load_tokenizer, skeleton
from gradience.models.locate import locate
from gradience.models.settings import ModelSettings
from gradience.reports.calibration import CalibrationForecast


class CalibrationBytes(NamedTuple):
    """Bytes in memory.

    held: from the first batch to the last.   batch: what one batch adds while it is computed: h and t of every module.
    """

    held: int
    batch: int


def needs_of(ranks: Iterable[int], rows: int, tokens: int) -> CalibrationBytes:
    """Return the needs of modules of these ranks for `rows` rows and at most `tokens` tokens in a batch (with padding).

    J (rows x r x r) of a module is never formed: the components are fixed before the second pass, which keeps only
    their effects (rows x r, for two bases).

    >>> needs_of([64] * 224, rows=256, tokens=8 * 512)  # 7B, seven projections in each of 32 layers
    CalibrationBytes(held=117440512, batch=234881024)
    """
    held = batch = 0
    for rank in ranks:
        moments, maps, effects = 2 * rank * rank, 2 * rank * rank, 2 * rows * rank
        # In float64: moments, the maps of two bases, effects; the maps once more in float32, for the device.
        held += 8 * (moments + 2 * maps + effects) + 4 * 2 * maps
        # h stays until t arrives; both are brought into rows, in float32, one module at a time.
        batch += 4 * tokens * rank
    return CalibrationBytes(held, batch)


def forecast_calibration(inputs: CalibrateInputs) -> CalibrationForecast:
    """Tokenize the rows and add up what their calibration needs."""
    from gradience.evaluate.checks import process_bytes

    request, tokenizer = inputs.request, load_tokenizer(inputs.model)
    if inputs.kind == "sequence_classification":
        rows = encode_texts(tokenizer, inputs.rows.all, request.max_length or TEXT_TOKENS)
    else:
        rows = encode_pairs(tokenizer, inputs.rows.all, request.max_length, request.completion_tokens)
    longest = max(len(row.ids) + (request.completion_tokens if not row.scored else 0) for row in rows)
    pairs = inputs.adapter.pairs
    needs = needs_of((pair.rank for pair in pairs), len(rows), longest * request.batch_size)
    return CalibrationForecast(
        adapter_path=path_text(request.adapter),
        base=path_text(inputs.model.name),
        kind=inputs.kind,
        rows=len(rows),
        duplicates=inputs.rows.duplicates,
        selection_rows=sum(inputs.rows.selects),
        sampled_completions=inputs.to_sample,
        longest=longest,
        batch_size=request.batch_size,
        modules=len(pairs),
        process_bytes=process_bytes(request.device),
        weights_bytes=_weights_bytes(inputs.model, inputs.labels, request.device),
        held_bytes=needs.held,
        batch_bytes=needs.batch,
    )


def _weights_bytes(model: ModelSettings, labels: int | None, device: str) -> int:
    """Return the bytes of the base's weights, from its config.json."""
    import transformers

    from gradience.evaluate.checks import weights_bytes_of

    shape = from_folder(transformers.AutoConfig, model.name, locate(model, ("config.json",)).folder)
    factory: Any = {
        "causal_lm": transformers.AutoModelForCausalLM,
        "seqcls": transformers.AutoModelForSequenceClassification,
    }[model.type]
    base = skeleton(factory, shape, labels=labels, dtype=dtype_of(model, shape, device))
    return weights_bytes_of(base, packed=model.quantization is not None)
