"""lm-evaluation-harness: `samples_<task>_<date>.jsonl`, as `--log_samples` writes it, and the results beside it.

A line is one example under one filter. Read in lm-eval 0.4.13 (`loggers/evaluation_tracker.py`, `evaluator.py`).
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradience.evidence import base
from gradience.reading import MAX_SETTINGS_BYTES, read_file

NAME = "lm-eval"
SAMPLES = re.compile(r"samples_(?P<task>.+?)_(?P<date>\d{4}-\d{2}-\d{2}T[\d.\-]+)\.jsonl")
KEYS = ("doc_id", "arguments", "filtered_resps")
"""Keys of every sample; no other format has all of them."""
UNSCORED = {
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash",
    "prompt_hash", "target_hash",
}  # fmt: skip
"""Keys of a sample that are not metrics."""


def fits(_: Path, first: Mapping[str, Any]) -> bool:
    """Return True if the first line of the file has the keys of a sample."""
    return all(key in first for key in KEYS)


def read(path: Path, wanted: base.Wanted) -> base.Log:
    """Read the samples of one task. Raises InputError and UsageError (see `base` and `text`)."""
    filters: dict[str, base.LogRows] = {}
    settings: set[str] = set()
    for place, row in base.json_lines(path):
        item, generation = _item(place, row)
        settings |= generation
        filters.setdefault(str(row.get("filter", "none")), base.LogRows()).add(place, item, _scores(row))
    chosen = base.choose(path, "filter", filters, wanted.filter)
    metric, items = filters[chosen].scored(path, wanted.metric)
    named = SAMPLES.fullmatch(path.name)
    beside = _results(path, named["date"], named["task"]) if named else Beside()
    if settings:
        beside.settings["generation settings"] = " or ".join(sorted(settings))
    return base.Log(
        path,
        NAME,
        metric,
        items,
        filter=chosen if chosen != "none" else None,
        task=named["task"] if named else None,
        model=beside.model,
        settings=beside.settings,
        lower_is_better=beside.lower_is_better.get(metric),
    )


def _item(place: str, row: Mapping[str, Any]) -> tuple[base.LogExample, set[str]]:
    """The example, and the settings that it was generated with, as JSON."""
    hint = "run lm-eval with --log_samples and --output_path, and name its samples_*.jsonl"
    key = base.id_of(place, row.get("doc_id"), "not an lm-eval sample (no doc_id)", hint)
    texts, settings = [], set()
    for part in _arguments(row.get("arguments")):
        if isinstance(part, dict):
            settings.add(base.canonical(part))
        else:
            texts.append(part)
    item = base.LogExample.of(
        key,
        document=[row["doc"], row.get("target")] if "doc" in row else row.get("doc_hash"),
        prompt=texts or row.get("prompt_hash"),
        shown=texts[0] if texts and isinstance(texts[0], str) else "",
        output=_answer(row.get("filtered_resps"), texts),
        spelled=" ".join(text for text in texts if isinstance(text, str)),
    )
    return item, settings


def _arguments(requests: object) -> Iterator[Any]:
    """Yield the arguments of each request: `{"gen_args_0": {"arg_0": prompt, "arg_1": settings}}`, or older lists."""
    for request in _values(requests):
        yield from _values(request)


def _values(container: object) -> Iterable[Any]:
    if isinstance(container, dict):
        return container.values()
    return container if isinstance(container, list) else ()


def _answer(responses: object, texts: list[Any]) -> str:
    """Return the answer: the text, or for choices (prompt and continuation in turn) the most likely choice."""
    if not isinstance(responses, list):
        return ""
    if len(responses) == 1:
        return responses[0] if isinstance(responses[0], str) else ""
    choices = texts[1::2]
    are_texts = all(isinstance(choice, str) for choice in choices)
    if not choices or len(choices) != len(responses) or not are_texts:
        return ""
    return str(choices[max(range(len(choices)), key=lambda place: _likelihood(responses[place]))])


def _likelihood(response: object) -> float:
    """The first of `["-4.9", "False"]`."""
    try:
        return float(response[0])  # type: ignore[index]
    except (IndexError, KeyError, TypeError, ValueError):
        return -math.inf


def _scores(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of each metric. Versions without a list of metrics have them among the other keys."""
    names = row.get("metrics")
    if not isinstance(names, list):
        names = [key for key in row if key not in UNSCORED]
    return {name: row[name] for name in names if isinstance(name, str) and name in row}


# ---------------------------------------------------------------- the results beside the samples


@dataclass(frozen=True, slots=True)
class Beside:
    """Contents of `results_<date>.json` for a task."""

    settings: dict[str, str] = field(default_factory=dict)
    model: str | None = None
    lower_is_better: dict[str, bool] = field(default_factory=dict)


def _results(path: Path, date: str, task: str) -> Beside:
    """Read the results file beside the samples; empty if there is none."""
    results = path.with_name(f"results_{date}.json")
    if not results.is_file():
        return Beside()
    content = base.json_object(read_file(results, MAX_SETTINGS_BYTES), str(results))
    names = {"n-shot": "few-shot examples", "versions": "task version"}
    setup = {name: base.within(content, key).get(task) for key, name in names.items()}
    higher = base.within(base.within(content, "higher_is_better"), task)
    config = base.within(content, "config")
    arguments = config.get("model_args")
    if isinstance(arguments, dict):  # older versions write `pretrained=…,dtype=…`
        arguments = ",".join(f"{key}={value}" for key, value in arguments.items())
    return Beside(
        {name: str(value)[:100] for name, value in setup.items() if isinstance(value, str | int | float)},
        arguments if isinstance(arguments, str) and arguments else None,
        {metric: not is_higher for metric, is_higher in higher.items() if isinstance(is_higher, bool)},
    )
