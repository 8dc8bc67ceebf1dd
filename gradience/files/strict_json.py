"""JSON from untrusted files: unlike the standard parser, it refuses NaN, duplicate keys and unbounded depth."""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from gradience.errors import InputError

_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""JSON escape of a UTF-16 surrogate, which is valid text only as part of a pair."""
MAX_PARTS = 2_000_000
"""Values and pairs of one text: a header of 200,000 tensors has ten of each. An empty list is 2 bytes in a file, and 64
in memory."""
MAX_DEPTH = 50
"""Levels of lists and mappings; the files that are read have three or four."""
SMALLEST, LARGEST = 1e-30, 1e30
"""Absolute values of a setting, unless it is 0: products of a few still are numbers. Beyond them is a mistake."""
MAX_DIGITS = 64
"""Longest number in characters: enough for every double, and for the 10^30 that tokenizers write for "no
limit".
"""


class RefusedValue(ValueError):
    """A value that JSON does not have, or that two readers would read differently."""


def loads(text: bytes, path: Path, label: str) -> Any:
    """Parse a file of strict JSON.

    label: name of the text in messages (`header`, `adapter_config.json`).
    Raises InputError (code bad-json).
    """
    try:
        return parse(text.decode("utf-8"))
    except ValueError as error:  # UnicodeDecodeError, JSONDecodeError and RefusedValue
        raise InputError(
            f"{path}: the {label} is not strict JSON in UTF-8: {error}",
            code="bad-json",
            hint="download it again, or save it again with PEFT",
        ) from None


def parse(text: str, *, constants: bool = False) -> Any:
    """Parse strict JSON.

    constants: accept NaN and Infinity.
    Raises JSONDecodeError, RefusedValue: both are ValueErrors.
    """

    if text.count(",") + text.count("[") + text.count("{") > MAX_PARTS:
        raise RefusedValue(f"it has more than {MAX_PARTS:,} values, the limit")
    try:
        parsed = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=None if constants else _refuse_constant,
            parse_int=_integer,
            parse_float=float if constants else _finite,
        )
        if excess_of(parsed):
            raise RecursionError
    except RecursionError:
        raise RefusedValue("it is nested too deeply") from None
    if has_half_characters(text, parsed):
        raise RefusedValue("a string contains half of a character (a lone surrogate)")
    return parsed


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(items)
    if len(unique) != len(items):
        twice = Counter(key for key, _ in items).most_common(1)[0][0]
        raise RefusedValue(
            f"the key {twice[:200]!r} occurs twice, and two readers could take different values"
        )
    return unique


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise RefusedValue(f"it contains a number of {len(text):,} characters")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise RefusedValue(f"{text[:40]} is beyond the largest number")
    return number


def excess_of(value: Any, most: int = MAX_PARTS) -> str | None:
    """Return the limit that a value exceeds, MAX_DEPTH levels or `most` values; None if it is within both."""
    level, seen = [value], 1
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for holder in level:
            if isinstance(holder, (dict, list)):
                inner += holder.values() if isinstance(holder, dict) else holder
                if seen + len(inner) > most:
                    return f"more than {most:,} values"
        if not inner:
            return None
        level, seen = inner, seen + len(inner)
    return f"more than {MAX_DEPTH} levels"


def _refuse_constant(text: str) -> NoReturn:
    raise RefusedValue(f"{text} is not a JSON number")


def has_half_characters(text: str, parsed: Any) -> bool:
    """Return True if the JSON `text`, parsed to `parsed`, contains a lone surrogate, which no file can
    store.
    """
    if not _HALF.search(text):
        return False
    try:
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
