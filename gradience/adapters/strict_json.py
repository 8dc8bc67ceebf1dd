"""JSON from strangers: the standard parser accepts NaN, duplicate keys and depth without end; this one does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from gradience.errors import InputError

MAX_INTEGER_DIGITS = 20


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
        found = dict(items)
        if len(found) != len(items):
            seen: set[str] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise _Refused(f"the key {twice[:200]!r} stands twice, and two readers could take different ones")
        return convert(found) if convert else found

    try:
        return json.loads(
            text.decode("utf-8"),
            object_pairs_hook=pairs,
            parse_constant=_refuse_constant,
            parse_int=_bounded_int,
        )
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


def _refuse_constant(text: str) -> NoReturn:
    raise _Refused(f"{text} is no JSON number")


def _bounded_int(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS:
        raise _Refused(f"an integer of {len(text)} digits")
    return int(text)
