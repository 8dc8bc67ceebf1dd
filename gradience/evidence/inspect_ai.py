"""Inspect: an `.eval` log, a zip archive of header.json and samples/<id>_epoch_<n>.json.

Read in inspect-ai 0.3.285 (`log/_recorders/eval.py`, `scorer/_metric.py`); nothing of inspect is imported.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gradience.errors import InputError
from gradience.evidence.archive import Archive, open_archive
from gradience.evidence.base import Log, LogExample, LogRow, Wanted, add, digest, head, scored, spelling, tail
from gradience.evidence.text import json_object, text_or_none, within

NAME = "Inspect"
VERSION = 2
"""Newest version of the log layout that is supported."""
SAMPLE = re.compile(r"samples/.*_epoch_\d+\.json")
LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""Correct, incorrect, partial, no answer: as `value_to_float` of inspect has them."""
OPERATION = {
    "max_retries", "timeout", "attempt_timeout", "max_connections", "adaptive_connections", "max_tool_output",
    "cache_prompt", "batch", "cache",
}  # fmt: skip
"""Keys of a GenerateConfig that say how a model is called, and not what it answers."""


def fits(path: Path, _: Mapping[str, Any]) -> bool:
    """Return True if the file's name ends in `.eval`."""
    return path.suffix == ".eval"


def read(path: Path, wanted: Wanted) -> Log:
    """Read the log. Raises InputError and UsageError (see `base`, `text` and `archive`; `log-unfinished`)."""
    with open_archive(path) as archive:
        if "header.json" not in archive.members:
            raise InputError(
                f"{path}: it has no header.json, so the run has not ended",
                code="log-unfinished",
                hint="finish it with `inspect eval-retry`, or evaluate again",
            )
        header = json_object(archive.read("header.json"), f"{path}: header.json")
        version = header.get("version")
        if not isinstance(version, int) or version > VERSION:
            raise InputError(
                f"{path}: log version {str(version)[:40]} is not supported (newest supported: {VERSION})",
                code="log-format",
                hint="write the scores into a CSV with id and score",
            )
        rows = _rows(archive)
    metric, items = scored(path, rows, wanted.metric)
    spec, plan = within(header, "eval"), within(header, "plan")
    return Log(
        path,
        NAME,
        metric,
        items,
        task=text_or_none(spec.get("task")),
        model=_model(spec),
        settings={
            "solvers": _solvers(plan),
            "task version": str(spec.get("task_version"))[:100],
            "generation settings": _canonical(
                {key: value for key, value in within(plan, "config").items() if key not in OPERATION}
            ),
        },
        notes=tuple(_notes(header)),
    )


def _notes(header: Mapping[str, Any]) -> Iterator[str]:
    if header.get("status") != "success":
        yield f"its status is {str(header.get('status'))[:40]!r}, and not success"
    if header.get("invalidated") is True:
        yield "the log is marked as invalidated"


# ---------------------------------------------------------------- samples


def _rows(archive: Archive) -> dict[str, LogRow]:
    rows: dict[str, LogRow] = {}
    for name in archive.members:
        if SAMPLE.fullmatch(name):
            place = f"{archive.path}: {name[:200]}"
            add(rows, _row(place, json_object(archive.read(name), place)))
    return rows


def _row(place: str, sample: Mapping[str, Any]) -> LogRow:
    key = sample.get("id")
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise InputError(
            f"{place}: no id", code="log-row", hint="copy the log again: every sample of Inspect has an id"
        )
    attached = within(sample, "attachments")
    given = [(_role(message), _content(message, attached)) for message in _before_an_answer(sample)]
    user_text = " ".join(text for role, text in given if role == "user")
    output = text_or_none(within(sample, "output").get("completion"))
    item = LogExample(
        str(key),
        digest(
            [
                _content({"content": sample.get("input")}, attached),
                sample.get("target"),
                sample.get("choices"),
            ]
        ),
        digest(given) if given else None,
        tail(user_text),
        head(_resolved(output or "", attached)),
        spelling=spelling(" ".join(text for _, text in given)),
    )
    return LogRow(place, item, dict(_scores(within(sample, "scores"))))


def _scores(scorers: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The value of each scorer; of one with several values `scorer/key`."""
    for name, score in scorers.items():
        value = score.get("value") if isinstance(score, dict) else None
        if isinstance(value, dict):
            yield from ((f"{name}/{key}", _value(part)) for key, part in value.items())
        else:
            yield name, _value(value)


def _value(value: object) -> object:
    return LETTERS.get(value, value) if isinstance(value, str) else value


def _before_an_answer(sample: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the messages that the model was given before its answer: instructions, examples, the question."""
    messages = sample.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict) or message.get("source") == "generate" or "model" in message:
            return  # an assistant's message without these is an example that the model was given
        yield message


def _role(message: Mapping[str, Any]) -> str:
    return str(message.get("role"))


def _content(message: Mapping[str, Any], attached: Mapping[str, Any]) -> str:
    """A message's text; of several parts, and of a dialogue, all that is said and shown."""
    content = message.get("content")
    if isinstance(content, str):
        return _resolved(content, attached)
    if not isinstance(content, list):
        return ""
    parts = (
        value if isinstance(value, str) else _content(part, attached)
        for part in content
        if isinstance(part, dict)
        for value in (part.get("text") or part.get("image") or part.get("audio") or part.get("video"),)
    )
    return "\n".join(_resolved(part, attached) for part in parts)


def _resolved(text: str, attached: Mapping[str, Any]) -> str:
    """Resolve long texts, which are stored separately: `attachment://` and their digest."""
    return (
        str(attached.get(text.removeprefix("attachment://"), text))
        if text.startswith("attachment://")
        else text
    )


# ---------------------------------------------------------------- what the header says


def _solvers(plan: Mapping[str, Any]) -> str:
    steps = plan.get("steps")
    return _canonical(
        [[step.get("solver"), step.get("params")] for step in steps if isinstance(step, dict)]
        if isinstance(steps, list)
        else []
    )


def _model(spec: Mapping[str, Any]) -> str | None:
    """`hf/local`, with what it was given: there the weights are named."""
    name = text_or_none(spec.get("model"))
    given = ",".join(f"{key}={value}" for key, value in within(spec, "model_args").items())
    return f"{name} {given}"[:300].strip() if name else None


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
