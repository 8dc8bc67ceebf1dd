"""Every Eval Ever: the record of an evaluation (JSON) and its samples (JSON lines beside it), schema 0.3.

Read in every-eval-ever 0.3.0 (`schemas/eval.schema.json`, `schemas/instance_level_eval.schema.json`).
"""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from gradience.digests import sha256_file
from gradience.errors import InputError
from gradience.evidence import base
from gradience.reading import MAX_SETTINGS_BYTES, read_file

NAME = "Every Eval Ever"
KEYS = ("schema_version", "evaluation_id", "evaluation_results")
SAMPLE_KEYS = ("schema_version", "evaluation_id", "sample_id", "evaluation")
SAMPLES = "_samples.jsonl"
SCORE = "score"


def fits(path: Path, first: Mapping[str, Any]) -> bool:
    """Return True if the file has the keys of a record, or its first line those of a sample."""
    if path.suffix == ".json":
        return all(key in _record(path) for key in KEYS)
    return all(key in first for key in SAMPLE_KEYS)


def read(path: Path, wanted: base.Wanted) -> base.Log:
    """Read one result of a record: `--metric` names its evaluation_result_id, or its evaluation_name.

    Raises InputError and UsageError (see `base` and `text`; `log-samples` if the samples are missing or others).
    """
    samples = path if path.suffix == ".jsonl" else _samples_of(path)
    beside = samples.with_name(samples.name.removesuffix(SAMPLES) + ".json")
    record = _record(path) if path.suffix == ".json" else _record(beside) if beside.is_file() else {}
    results: dict[str, base.LogRows] = {}
    models: dict[str, None] = {}
    for place, line in base.json_lines(samples):
        result = str(line.get("evaluation_result_id") or line.get("evaluation_name"))
        scores = {SCORE: base.within(line, "evaluation").get("score")}
        results.setdefault(result, base.LogRows()).add(place, _item(place, line), scores)
        models.setdefault(str(line.get("model_id"))[:200])
    chosen = base.choose(samples, "metric", results, wanted.metric)
    _, items = results[chosen].scored(samples, SCORE)
    described = _described(record, chosen)
    config = base.within(described, "metric_config")
    lower = config.get("lower_is_better")
    generation = base.within(described, "generation_config")
    return base.Log(
        samples,
        NAME,
        chosen,
        items,
        task=base.text_or_none(described.get("evaluation_name")),
        model=next(iter(models)),
        settings={"generation settings": base.canonical(generation)} if generation else {},
        lower_is_better=lower if isinstance(lower, bool) else None,
        notes=()
        if record
        else (f"the record of {samples.name} is not beside it: settings are not compared",),
    )


def _record(path: Path) -> dict[str, Any]:
    return base.json_object(read_file(path, MAX_SETTINGS_BYTES), str(path))


def _samples_of(path: Path) -> Path:
    """The samples that a record names, beside it. Raises InputError (`log-samples`)."""
    details = base.within(_record(path), "detailed_evaluation_results")
    named = PurePosixPath(str(details.get("file_path", ""))).name or path.stem + SAMPLES
    samples = path.with_name(named)
    if not os.path.isfile(samples):  # the name may be too long for a file
        raise InputError(
            f"{path}: its samples ({samples.name!r:.200}) are not beside it",
            code="log-samples",
            hint="put the JSON lines into the folder of the record; converters write them with --include_samples",
        )
    checksum = details.get("checksum") if details.get("hash_algorithm") == "sha256" else None
    if checksum and checksum != (actual := sha256_file(samples)):
        raise InputError(
            f"{path}: it names samples with the sha256 {str(checksum)[:64]}, but the file beside it has {actual}",
            code="log-samples",
            hint="copy both files again, from the same place",
        )
    return samples


def _described(record: Mapping[str, Any], chosen: str) -> dict[str, Any]:
    """Return the record's entry for a result; {} if it has none of that name."""
    for result in base.objects_in(record, "evaluation_results"):
        if chosen in (result.get("evaluation_result_id"), result.get("evaluation_name")):
            return result
    return {}


def _item(place: str, line: Mapping[str, Any]) -> base.LogExample:
    key = base.text_or_none(line.get("sample_id")) if all(name in line for name in SAMPLE_KEYS) else None
    hint = "`every_eval_ever validate` checks the file"
    prompt = base.within(line, "input")
    raw = base.text_or_none(prompt.get("raw")) or ""
    given = base.text_or_none(prompt.get("formatted")) or raw
    return base.LogExample.of(
        base.id_of(place, key, "not an Every Eval Ever sample (no sample_id)", hint),
        document=[raw, prompt.get("reference"), prompt.get("choices")],
        prompt=given,
        shown=raw,
        output=_answer(line),
        spelled=given,
    )


def _answer(line: Mapping[str, Any]) -> str:
    """The answer that was extracted, else the output."""
    for attribution in base.objects_in(line, "answer_attribution"):
        if isinstance(attribution.get("extracted_value"), str):
            return str(attribution["extracted_value"])
    outputs = base.within(line, "output").get("raw")
    return outputs[0] if isinstance(outputs, list) and outputs and isinstance(outputs[0], str) else ""
