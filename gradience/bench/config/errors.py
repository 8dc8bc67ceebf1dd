"""What is wrong with a config, in one sentence each: where, which key, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gradience.bench.config.legacy import FIXED, IGNORED, RENAMED
from gradience.errors import GradienceError, InputError, UsageError

KEYS = "docs/bench_config.md lists all keys"
CLOSE = 0.6
"""How alike two words must be (difflib's ratio) for one to be a misspelling of the other."""


def refused(
    error: ValidationError, config: type[BaseModel], path: str, overrides: Sequence[str]
) -> GradienceError:
    """The error for a config that is not valid: UsageError where an override is to blame, else InputError.

    All unknown keys are named at once, and before anything else: what is missing is often only misspelt.
    """
    details = error.errors(include_url=False, include_context=False)
    unknown = [detail for detail in details if detail["type"] == "extra_forbidden"]
    rest = f" (and {len(details) - max(1, len(unknown))} more)" if len(details) > max(1, len(unknown)) else ""
    if unknown:
        return _unknown([key_of(detail, config) for detail in unknown], config, path, overrides, rest)
    key = key_of(details[0], config)
    override = _to_blame(key, overrides)
    said = details[0]["msg"].removeprefix("Value error, ")
    what = f"`{key}` is missing" if details[0]["type"] == "missing" else f"`{key}`: {said}" if key else said
    if override is None:
        return InputError(f"{path}: {what}{rest}", code="config-value", hint=KEYS)
    return UsageError(f"{override}: {what}{rest}", code="config-value", hint=KEYS)


def _unknown(
    keys: Sequence[str], config: type[BaseModel], path: str, overrides: Sequence[str], rest: str
) -> GradienceError:
    """Each unknown key, by the place that sets it, and what was probably meant by it."""
    places: dict[str, list[str]] = {}
    for key in keys:
        places.setdefault(_to_blame(key, overrides) or path, []).append(f"`{key}`")
    message = "; ".join(
        f"{place}: unknown key{'s' if len(named) > 1 else ''} {', '.join(named)}"
        for place, named in places.items()
    )
    known = list(known_keys(config))
    meant = {key: guess for key in keys if (guess := nearest(key, known))}
    if len(keys) == 1:
        hint = "".join(f"did you mean `{guess}`?" for guess in meant.values()) or KEYS
    else:
        guesses = [f"`{guess}` for `{key}`" for key, guess in meant.items()]
        hint = f"did you mean {', '.join(guesses)}? {KEYS}" if guesses else KEYS
    if path in places:
        return InputError(f"{message}{rest}", code="config-key", hint=hint)
    return UsageError(f"{message}{rest}", code="config-key", hint=hint)


def _to_blame(key: str, overrides: Sequence[str]) -> str | None:
    """The last override that sets `key`; None where the file does."""
    return next((text for text in reversed(overrides) if _concerns(text, key)), None)


def key_of(detail: ErrorDetails, config: type[BaseModel]) -> str:
    """The dotted key, without what pydantic adds for places in lists and members of unions."""
    names: list[str] = []
    model: type[BaseModel] | None = config
    for part in detail["loc"]:
        if model is None or not isinstance(part, str):
            break
        names.append(part)
        model = section_of(model, part)
    return ".".join(names)


def section_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model of a section; None where the field is a value."""
    field = model.model_fields.get(name)
    if field is None:
        return None
    options = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in options if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def known_keys(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """All dotted keys of a config, sections included; those that are read under another name come last."""
    for name in model.model_fields:
        yield before + name
        section = section_of(model, name)
        if section is not None:
            yield from known_keys(section, f"{before}{name}.")
    if not before:
        yield "seed"
        yield from (*RENAMED, *FIXED, *IGNORED)


def nearest(key: str, known: Sequence[str]) -> str | None:
    """What was probably meant: the same name in another section, a like one in this, a like one anywhere."""
    section, _, name = key.rpartition(".")
    elsewhere = next((other for other in known if _last(other) == name and other != key), None)
    siblings = [other for other in known if other.rpartition(".")[0] == section]
    return elsewhere or _like(name, siblings) or _holding(name, siblings) or _like(name, known)


def _like(name: str, keys: Iterable[str]) -> str | None:
    by_name: dict[str, str] = {}
    for key in keys:
        by_name.setdefault(_last(key), key)
    found = difflib.get_close_matches(name, by_name, n=1, cutoff=CLOSE)
    return by_name[found[0]] if found else None


def _holding(name: str, keys: Iterable[str]) -> str | None:
    """`batch_size` in `per_device_train_batch_size`."""
    return next((key for key in keys if len(name) > 3 and name in _last(key)), None)


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _concerns(override: str, key: str) -> bool:
    """Whether the override sets `key`, or something inside or around it."""
    name = override.partition("=")[0].strip()
    ours = "seeds" if name in ("seed", "train.seed") else RENAMED.get(name, name)
    return any(
        key == said or key.startswith(f"{said}.") or said.startswith(f"{key}.") for said in (name, ours)
    )
