"""JSON from strangers: the standard parser accepts NaN, duplicate keys and depth without end; this one does not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from gradience.errors import InputError

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""Begins half of a character beyond the first 65,536, as JSON escapes it; alone it is no text."""
BOM = b"\xef\xbb\xbf"


class _Refused(ValueError):
    """A value that JSON does not have, or that two readers would read differently."""


def loads(
    text: bytes, path: Path, what: str, *, convert: Callable[[dict[str, Any]], Any] | None = None
) -> Any:
    """Parse strict JSON.

    what: names the text in the message (`header`, `adapter_config.json`).
    convert: called with every object, innermost first (lets a large header be stored compactly).
    Raises InputError (code bad-encoding, bad-json).
    """

    def pairs(items: list[tuple[str, Any]]) -> Any:
        unique = dict(items)
        if len(unique) != len(items):
            seen: set[str] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise _Refused(f"the key {twice[:200]!r} stands twice, and two readers could take different ones")
        return convert(unique) if convert else unique

    if text.startswith(BOM):
        raise InputError(
            f"{path}: the {what} begins with a byte order mark, which JSON may not have",
            code="bad-encoding",
            hint="save it again as UTF-8 without a byte order mark",
        )
    try:
        parsed = json.loads(text.decode("utf-8"), object_pairs_hook=pairs, parse_constant=_refuse_constant)
        if _HALF.search(text):
            _refuse_half_characters(parsed)
        return parsed
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: the {what} is not UTF-8 (byte {error.start})",
            code="bad-encoding",
            hint="save it again as UTF-8",
        ) from None
    except RecursionError:
        raise InputError(
            f"{path}: the {what} is nested too deeply", code="bad-json", hint="this is not an adapter's file"
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: the {what} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}",
            code="bad-json",
            hint="download or save it again",
        ) from None
    except _Refused as error:
        raise InputError(
            f"{path}: the {what} is not strict JSON: {error}", code="bad-json", hint="save it again with PEFT"
        ) from None
    except ValueError:  # Python's own limit on the digits of an integer, which `json` hands through
        raise InputError(
            f"{path}: the {what} holds an integer of thousands of digits",
            code="bad-json",
            hint="save it again with PEFT",
        ) from None


def _refuse_constant(text: str) -> NoReturn:
    raise _Refused(f"{text} is no JSON number")


def _refuse_half_characters(parsed: Any) -> None:
    try:
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise _Refused("a text holds half of a character (a lone surrogate)") from None
