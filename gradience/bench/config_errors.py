"""What is wrong with a config, in one sentence each: where, which key, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gradience.bench.dialect import FIXED, IGNORED, RENAMED
from gradience.errors import GradienceError, InputError, UsageError

KEYS = "docs/bench_config.md lists all keys"
CLOSE = 0.6
"""How alike two words must be (difflib's ratio) for one to be a misspelling of the other."""


def refused(
    error: ValidationError, config: type[BaseModel], path: str, overrides: Sequence[str]
) -> GradienceError:
    """The error for a config that is not valid: UsageError where an override is to blame, else InputError."""
    found = error.errors(include_url=False, include_context=False)
    # An unknown key first: what is missing is often only misspelt.
    found.sort(key=lambda detail: detail["type"] != "extra_forbidden")
    key = key_of(found[0], config)
    override = next((text for text in reversed(overrides) if _concerns(text, key)), None)
    where = override or path
    rest = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    if found[0]["type"] == "extra_forbidden":
        meant = nearest(key, list(known_keys(config)))
        message, hint = f"{where}: unknown key `{key}`{rest}", f"did you mean `{meant}`?" if meant else KEYS
        if override is None:
            return InputError(message, code="config-key", hint=hint)
        return UsageError(message, code="config-key", hint=hint)
    said = found[0]["msg"].removeprefix("Value error, ")
    what = f"`{key}` is missing" if found[0]["type"] == "missing" else f"`{key}`: {said}" if key else said
    if override is None:
        return InputError(f"{where}: {what}{rest}", code="config-value", hint=KEYS)
    return UsageError(f"{where}: {what}{rest}", code="config-value", hint=KEYS)


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
