"""PEFT's `rank_pattern` and `alpha_pattern`: which entry applies to a module.

PEFT's rule (0.21, utils/other.py, `get_pattern_key`): the entries are tried in order, the first key with
`re.match(rf"(.*\\.)?({key})$", module)` wins; without a hit the module's own name is looked up literally.
The keys are regular expressions from a stranger's file: `(a+)+` can keep `re` busy for years. Keys that are
plain names (nearly all) are compared as text; the rest is matched by the `regex` package under a time limit.
What `re` refuses, or the two read differently, is not evaluated: then the value is unknown, never guessed.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

MAX_KEY_LENGTH = 512
BUDGET_SECONDS = 1.0
"""Processor time for all expressions of one map against all modules. Ordinary ones need microseconds each."""

_LITERAL = re.compile(r"(\^?)((?:[A-Za-z0-9_\-/: ]|\\[^A-Za-z0-9])+)(\$?)", re.ASCII)
"""A key without any regular-expression meaning: name characters and escaped punctuation, maybe anchored."""

_DIFFERS = re.compile(r"\[:|\\N|(?:^|[^\\])(?:\\\\)*\{(?!\d+\}|\d*,\d*\})")
"""What `regex` reads in another way than `re`: `[:alpha:]`, named characters, fuzzy matching (`{e<=1}`)."""


@dataclass(frozen=True)
class _Literal:
    """A key that means exactly one text."""

    text: str
    anchored: bool


class Found(NamedTuple):
    """The result of a look-up: a value (None: no entry applies), and whether it is certain."""

    value: float | None
    certain: bool = True


class SavedNames:
    """`modules_to_save`, ready for look-ups.

    PEFT's rule (0.21, utils/other.py, `_set_trainable`) compares the ends of names as plain text, without a dot before
    them: `classifier` also saves DistilBERT's `pre_classifier`, and all that is in it.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._by_length: dict[int, set[str]] = {}
        for name in filter(None, names):
            self._by_length.setdefault(len(name), set()).add(name)

    def find(self, module: str) -> tuple[str, str] | None:
        """The module that PEFT saves whole, `module` itself or one that it lies in, and the name that says so.

        >>> SavedNames(["classifier"]).find("pre_classifier.dense")
        ('pre_classifier', 'classifier')
        >>> SavedNames(["classifier"]).find("classifiers") is None
        True
        """
        for path in accumulate(module.split("."), "{}.{}".format):
            for length, names in self._by_length.items():
                if path[-length:] in names:
                    return path, path[-length:]
        return None


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
        self._budget = BUDGET_SECONDS
        self.skipped: dict[str, str] = {}
        for index, key in enumerate(self._keys):
            literal = _as_literal(key)
            if literal is None:
                self._expressions.append(index)
            else:
                table = self._whole if literal.anchored else self._suffix
                table.setdefault(literal.text, index)
        self._longest = max((text.count(".") for text in self._suffix), default=-1)

    def __bool__(self) -> bool:
        return bool(self._entries)

    @property
    def unmatched(self) -> list[str]:
        """Keys that applied to no module that was looked up."""
        return [key for key in self._keys if key not in self._hits and key not in self.skipped]

    def lookup(self, name: str) -> Found:
        """The value for the module `name`. Uncertain where a key that might come first was not evaluated."""
        if not self._entries:
            return Found(None)
        best = self._literal_hit(name)
        for index in self._expressions:
            if best is not None and index > best:
                break
            matches = self._matches(index, name)
            if matches is None:
                return Found(None, certain=False)
            if matches:
                best = index
                break
        if best is None:
            best = self._positions.get(name)
        if best is None:
            return Found(None)
        self._hits.add(self._keys[best])
        return Found(self._entries[self._keys[best]])

    def _literal_hit(self, name: str) -> int | None:
        """Position of the first plain key that applies: the whole name, or what stands behind one of its dots.

        In the expression that PEFT makes, `.` stops at a line break and `$` allows one at the end.
        """
        hits = []
        for text in {name, name.removesuffix("\n")}:
            hits += [self._whole.get(text), self._suffix.get(text)]
            dot = len(text)
            # A key with k dots begins behind the (k + 1)th dot from the end, at most.
            for _ in range(self._longest + 1):
                dot = text.rfind(".", 0, dot)
                if dot < 0:
                    break
                if "\n" not in text[:dot]:
                    hits.append(self._suffix.get(text[dot + 1 :]))
        return min((hit for hit in hits if hit is not None), default=None)

    def _matches(self, index: int, name: str) -> bool | None:
        """Whether the expression applies; None where that is not known."""
        key = self._keys[index]
        if key in self.skipped:
            return None
        if index not in self._compiled:
            self._compiled[index] = self._compile(key)
        pattern = self._compiled[index]
        if pattern is None:
            return None
        started = time.process_time()  # what `regex` counts as well
        try:
            if self._budget > 0:
                return pattern.match(name, timeout=self._budget) is not None
        except TimeoutError:
            pass
        finally:
            self._budget -= time.process_time() - started
        self.skipped[key] = f"matching takes more than {BUDGET_SECONDS:g} s"
        return None

    def _compile(self, key: str) -> Any:
        import regex

        if len(key) > MAX_KEY_LENGTH:
            self.skipped[key] = f"longer than {MAX_KEY_LENGTH} characters"
            return None
        expression = rf"(.*\.)?({key})$"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                re.compile(expression)
                compiled = regex.compile(expression)
        except (re.error, regex.error, RecursionError, OverflowError) as error:
            self.skipped[key] = f"not a regular expression: {error}"
            return None
        if _DIFFERS.search(key):
            self.skipped[key] = "an expression that two engines read differently"
            return None
        return compiled


def _as_literal(key: str) -> _Literal | None:
    literal = _LITERAL.fullmatch(key)
    if literal is None:
        return None
    return _Literal(re.sub(r"\\(.)", r"\1", literal[2], flags=re.DOTALL), anchored=bool(literal[1]))


def anchored_key(name: str) -> str:
    """The key that applies to exactly the module `name` under PEFT's rule."""
    return "^" + re.escape(name)
