"""Errors in a config, one sentence each: the place, the key, and the probable correction."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gradience.errors import GradienceError, InputError, UsageError
from gradience.words import plainly

MOST = 10
"""Unknown keys that are named; the rest is counted."""
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
"""Pydantic's types of the error of a key that a model, or a dataclass, does not have."""
KEYS = "docs/reference/configs.md lists all keys"
CLOSE = 0.6
"""Smallest similarity (difflib's ratio) at which one word counts as a misspelling of another."""


def refused(
    error: ValidationError,
    known: Sequence[str],
    path: str,
    overrides: Mapping[str, Mapping[str, Any]],
    instead: Mapping[str, str] = MappingProxyType({}),
) -> GradienceError:
    """Return the error for a config that is not valid: UsageError if an override is to blame, else InputError.

    known: all dotted keys. overrides: text -> what it sets. instead: names of settings elsewhere -> ours.
    All unknown keys are named at once, and before anything else: what is missing is often only misspelt.
    """
    details = error.errors(include_url=False, include_context=False)
    unknown = [detail for detail in details if detail["type"] in UNKNOWN]
    named = unknown[:MOST] or details[:1]
    keys = [key_of(detail, known) for detail in named]
    places = [_place(key, overrides) or path for key in keys]
    rest = f" (and {len(details) - len(named)} more)" if len(details) > len(named) else ""
    if not unknown:
        message = f"{places[0]}: {_what(keys[0], details[0])}{rest}"
        if path in places:
            return InputError(message, code="config-value", hint=KEYS)
        return UsageError(message, code="config-value", hint=KEYS)
    message = "; ".join(
        f"{place}: unknown key{'s' if places.count(place) > 1 else ''} "
        + ", ".join(f"`{key}`" for key, its in zip(keys, places, strict=True) if its == place)
        for place in dict.fromkeys(places)
    )
    if path in places:
        return InputError(message + rest, code="config-key", hint=_meant(keys, known, instead))
    return UsageError(message + rest, code="config-key", hint=_meant(keys, known, instead))


def _what(key: str, detail: ErrorDetails) -> str:
    if detail["type"] == "missing":
        return f"`{key}` is missing"
    return f"`{key}`: {plainly(detail['msg'])}" if key else plainly(detail["msg"])


def _meant(keys: Sequence[str], known: Sequence[str], instead: Mapping[str, str]) -> str:
    """The hint for unknown keys: what was probably meant by each."""
    names = (*known, *instead)
    likely = {key: key if key in instead else nearest(key, names) for key in keys}
    guesses = {key: instead.get(guess, guess) for key, guess in likely.items() if guess}
    if len(keys) == 1:
        return "".join(f"did you mean `{guess}`?" for guess in guesses.values()) or KEYS
    listed = ", ".join(f"`{guess}` for `{key}`" for key, guess in guesses.items())
    return f"did you mean {listed}? {KEYS}" if listed else KEYS


def _place(key: str, overrides: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the last override that sets `key` or something inside it; None if the file sets it."""
    setting = [text for text, change in overrides.items() if _sets(change, key)]
    return setting[-1] if setting else None


def key_of(detail: ErrorDetails, known: Sequence[str]) -> str:
    """Return the dotted key that an error is about; pydantic goes on into lists and members of unions."""
    names = list(takewhile(lambda part: isinstance(part, str), detail["loc"]))
    keys = [".".join(map(str, names[:length])) for length in range(len(names), 0, -1)]
    return next((key for key in keys if detail["type"] in UNKNOWN or key in known), "")


def section_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the model of a section; None if the field is a value."""
    kind = model.model_fields[name].annotation if name in model.model_fields else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def known_keys(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """Yield all dotted keys of a config, sections included."""
    for name in model.model_fields:
        yield before + name
        section = section_of(model, name)
        if section is not None:
            yield from known_keys(section, f"{before}{name}.")


def nearest(key: str, known: Sequence[str]) -> str | None:
    """Return what was probably meant: the same name in another section, a like one in this, a like one anywhere."""
    section, _, name = key.rpartition(".")
    everywhere = {other.rpartition(".")[2]: other for other in reversed(known)}  # of a name, the first
    here = {
        last: other for other in known for before, _, last in [other.rpartition(".")] if before == section
    }
    holding = [
        other
        for last, other in here.items()
        if len(name) > 3 and (name in last or (len(last) > 1 and name.startswith(last)))
    ]
    same = [everywhere[name]] if name in everywhere else []
    return next(iter((*same, *_like(name, here), *holding, *_like(name, everywhere))), None)


def _like(name: str, keys: Mapping[str, str]) -> list[str]:
    return [keys[match] for match in difflib.get_close_matches(name, keys, n=1, cutoff=CLOSE)]


def _sets(change: Any, key: str) -> bool:
    """Return True if there is a value under a dotted key."""
    for part in key.split("."):
        if not isinstance(change, Mapping) or part not in change:
            return False
        change = change[part]
    return True
