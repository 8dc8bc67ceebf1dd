"""What a calibration needs, before the base is loaded."""

from __future__ import annotations

from gradience.artifacts.calibration import CalibrationForecast
from gradience.artifacts.shared_names import path_text
from gradience.calibrate.batches import encode_pairs, encode_targets, encode_texts
from gradience.calibrate.inputs import TEXT_TOKENS, Inputs
from gradience.calibrate.needs import needs_of
from gradience.models.load import load_tokenizer


def forecast_calibration(inputs: Inputs) -> CalibrationForecast:
    """Tokenise the rows and add up what their calibration needs."""
    request, tokenizer = inputs.request, load_tokenizer(inputs.model)
    if inputs.kind == "sequence_classification":
        rows = encode_texts(tokenizer, inputs.rows.all, request.max_length or TEXT_TOKENS)
    else:
        encode = encode_targets if inputs.kind == "seq2seq_lm" else encode_pairs
        rows = encode(tokenizer, inputs.rows.all, request.max_length, request.completion_tokens)
    writes = inputs.kind != "sequence_classification"
    lacking = sum(row.more is None for row in inputs.rows.all) if writes else 0
    longest = max(len(row.ids) + (request.completion_tokens if not row.scored else 0) for row in rows)
    needs = needs_of(inputs.ranks.values(), len(rows), longest * request.batch_size)
    return CalibrationForecast(
        adapter_path=path_text(request.adapter),
        base=path_text(inputs.model.name),
        kind=inputs.kind,
        rows=len(rows),
        duplicates=inputs.rows.duplicates,
        selection_rows=sum(inputs.rows.selects),
        sampled_completions=lacking,
        longest=longest,
        batch_size=request.batch_size,
        modules=len(inputs.ranks),
        file_bytes=needs.file,
        held_bytes=needs.held,
        batch_bytes=needs.batch,
    )
