"""What a calibration needs, before the base is loaded."""

from __future__ import annotations

from typing import Any

from gradience.calibrate.batches import encode_pairs, encode_targets, encode_texts
from gradience.calibrate.inputs import TEXT_TOKENS, Inputs
from gradience.calibrate.needs import needs_of
from gradience.files.shared_names import path_text
from gradience.models.load import dtype_of, from_folder, load_tokenizer, skeleton
from gradience.models.locate import locate
from gradience.models.settings import ModelSettings
from gradience.reports.calibration import CalibrationForecast


def forecast_calibration(inputs: Inputs) -> CalibrationForecast:
    """Tokenise the rows and add up what their calibration needs."""
    from gradience.evaluate.memory import process_bytes

    request, tokenizer = inputs.request, load_tokenizer(inputs.model)
    if inputs.kind == "sequence_classification":
        rows = encode_texts(tokenizer, inputs.rows.all, request.max_length or TEXT_TOKENS)
    else:
        encode = encode_targets if inputs.kind == "seq2seq_lm" else encode_pairs
        rows = encode(tokenizer, inputs.rows.all, request.max_length, request.completion_tokens)
    longest = max(len(row.ids) + (request.completion_tokens if not row.scored else 0) for row in rows)
    needs = needs_of(inputs.ranks.values(), len(rows), longest * request.batch_size)
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
        modules=len(inputs.ranks),
        process_bytes=process_bytes(request.device),
        weights_bytes=_weights_bytes(inputs.model, inputs.labels, request.device),
        file_bytes=needs.file,
        held_bytes=needs.held,
        batch_bytes=needs.batch,
    )


def _weights_bytes(model: ModelSettings, labels: int | None, device: str) -> int:
    """Return the bytes of the base's weights, from its config.json."""
    import transformers

    from gradience.evaluate.memory import weights_bytes_of

    shape = from_folder(transformers.AutoConfig, model.name, locate(model, ("config.json",)).folder)
    factory: Any = {
        "causal_lm": transformers.AutoModelForCausalLM,
        "seq2seq_lm": transformers.AutoModelForSeq2SeqLM,
        "seqcls": transformers.AutoModelForSequenceClassification,
    }[model.type]
    base = skeleton(factory, shape, labels=labels, dtype=dtype_of(model, shape, device))
    return weights_bytes_of(base, packed=model.quantization is not None)
