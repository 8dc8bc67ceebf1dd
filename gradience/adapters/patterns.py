"""PEFT's `rank_pattern` and `alpha_pattern`: which entry applies to a module.

PEFT's rule (0.21, utils/other.py, `get_pattern_key`): the entries are tried in order, the first key with
`re.match(rf"(.*\\.)?({key})$", module)` wins; without a hit the module's own name is looked up literally.
The keys are regular expressions from a stranger's file: `(a+)+` can keep `re` busy for years. Keys that are
plain names (nearly all) are compared as text; the rest is matched by the `regex` package under a time limit.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_KEY_LENGTH = 512
TIME_LIMIT_SECONDS = 0.5
"""For one key against one module. After the first time-out a key is not tried again."""

_LITERAL = re.compile(r"(\^?)((?:[A-Za-z0-9_\-/: ]|\\[^A-Za-z0-9])+)(\$?)", re.ASCII)
"""A key without any regular-expression meaning: name characters and escaped punctuation, maybe anchored."""


@dataclass(frozen=True)
class _Literal:
    """A key that means exactly one text."""

    text: str
    anchored: bool


class PatternTable:
    """One of the two pattern maps, ready for look-ups.

    unmatched: keys that have matched no module so far.
    skipped: keys that were not evaluated, with the reason.
    """

    def __init__(self, entries: Mapping[str, float]) -> None:
        self._entries = dict(entries)
        self._positions = {key: index for index, key in enumerate(self._entries)}
        self._keys = list(self._entries)
        self._whole: dict[str, int] = {}
        self._suffix: dict[str, int] = {}
        self._expressions: list[int] = []
        self._compiled: dict[int, Any] = {}
        self._hits: set[str] = set()
        self.skipped: dict[str, str] = {}
        for index, key in enumerate(self._keys):
            literal = _as_literal(key)
            if literal is None:
                self._expressions.append(index)
            else:
                table = self._whole if literal.anchored else self._suffix
                table.setdefault(literal.text, index)

    def __bool__(self) -> bool:
        return bool(self._entries)

    @property
    def unmatched(self) -> list[str]:
        """Keys that applied to no module that was looked up."""
        return [key for key in self._keys if key not in self._hits and key not in self.skipped]

    def lookup(self, name: str) -> float | None:
        """The value for the module `name`, or None."""
        if not self._entries:
            return None
        best = self._whole.get(name)
        start = 0
        while start >= 0 and self._suffix:
            found = self._suffix.get(name[start:])
            if found is not None and (best is None or found < best):
                best = found
            dot = name.find(".", start)
            start = dot + 1 if dot >= 0 else -1
        for index in self._expressions:
            if best is not None and index > best:
                break
            if self._matches(index, name):
                best = index
                break
        if best is None and name in self._entries:
            best = self._positions[name]
        if best is None:
            return None
        self._hits.add(self._keys[best])
        return self._entries[self._keys[best]]

    def _matches(self, index: int, name: str) -> bool:
        key = self._keys[index]
        if key in self.skipped:
            return False
        pattern = self._pattern(index)
        if pattern is None:
            return False
        try:
            return pattern.match(name, timeout=TIME_LIMIT_SECONDS) is not None
        except TimeoutError:
            self.skipped[key] = f"matching took more than {TIME_LIMIT_SECONDS} s"
            return False

    def _pattern(self, index: int) -> Any:
        if index not in self._compiled:
            self._compiled[index] = self._compile(self._keys[index])
        return self._compiled[index]

    def _compile(self, key: str) -> Any:
        import regex

        if len(key) > MAX_KEY_LENGTH:
            self.skipped[key] = f"longer than {MAX_KEY_LENGTH} characters"
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return regex.compile(rf"(.*\.)?({key})$")
        except (regex.error, RecursionError, OverflowError) as error:
            self.skipped[key] = f"not a regular expression: {error}"
            return None


def _as_literal(key: str) -> _Literal | None:
    found = _LITERAL.fullmatch(key)
    if found is None:
        return None
    return _Literal(re.sub(r"\\(.)", r"\1", found[2]), anchored=bool(found[1]))


def anchored_key(name: str) -> str:
    """The key that applies to exactly the module `name` under PEFT's rule."""
    return "^" + re.escape(name)
