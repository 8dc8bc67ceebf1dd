"""PEFT's `rank_pattern` and `alpha_pattern`: which entry applies to a module.

PEFT's rule (0.21, utils/other.py, `get_pattern_key`): the entries are tried in order, the first key with
`re.match(rf"(.*\\.)?({key})$", module)` wins; without a hit the module's own name is looked up literally.
The keys are regular expressions from an untrusted file: `(a+)+` can keep `re` busy for years, and compiling
`(?:a{1000}){1000}` takes `regex` seconds. Keys written by Gradience are looked up as text. Other plain names are
matched by `re`, which is fast for them. All other keys are matched by the `regex` package. One `Budget` covers all of
them.
A key is not evaluated if it exceeds the budget, if `re` rejects it, or if the two packages read it differently. Its
value is then unknown, never guessed.
"""

import json
import math
import re
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

from gradience.errors import InputError

MAX_KEY_LENGTH = 512
MAX_NAME_LENGTH = 2048
"""A longer key is the name of no tensor, however much of it is escaped (see tensors.MAX_NAME)."""
MAX_REPEATS = 1000
"""Product of the numbers in braces: `regex` writes repeats out when it compiles."""
MAX_EXPRESSIONS = 200
"""Maximum expressions per adapter; published configs had a handful."""
BUDGET_SECONDS = 1.0
"""Processor time for all expressions of an adapter: to compile them, and to match all modules. Ordinary ones need
microseconds each."""
NAME_SECONDS = 2e-7
"""Measured processor time of comparing a module with a key that is a plain name."""
MAX_STEPS = 5_000_000
"""Maximum comparisons with modules_to_save over all look-ups: 3 s."""

_NAME = r"\^?(?:[A-Za-z0-9_\-/: .]|\\[^A-Za-z0-9])+\$?"
"""A plain name: name characters, dots (which match any character) and escaped punctuation, optionally anchored."""
_EXACT = r"\^((?:[A-Za-z0-9_\-/: ]|\\[^A-Za-z0-9])+)\$?"
"""A key that matches only one module, as written by `anchored_key`."""

_DIFFERS = r"\[:|\\N|(?:^|[^\\])(?:\\\\)*\{(?!\d+\}|\d*,\d*\})"
"""Syntax that `regex` reads differently from `re`: `[:alpha:]`, named characters, fuzzy matching
(`{e<=1}`).
"""
_REPEAT = r"\{(\d*)(?:,(\d*))?\}"


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
        self._steps = 0
        for name in filter(None, names):
            self._by_length.setdefault(len(name), set()).add(name)

    def find(self, module: str) -> tuple[str, str] | None:
        """Return the module that PEFT saves whole, `module` itself or a parent, and the name that selects it.

        >>> SavedNames(["classifier"]).find("pre_classifier.dense")
        ('pre_classifier', 'classifier')
        >>> SavedNames(["classifier"]).find("classifiers") is None
        True

        Raises InputError (`too-many-names`) if more names would be compared than any real model has.
        """
        for path in accumulate(module.split("."), "{}.{}".format):
            self._steps += len(self._by_length)
            if self._steps > MAX_STEPS:
                raise InputError(
                    f"modules_to_save names so many modules that more than {MAX_STEPS:,} comparisons are needed",
                    code="too-many-names",
                    hint="save the adapter again with PEFT: no real adapter config is this large",
                )
            for length, names in self._by_length.items():
                if path[-length:] in names:
                    return path, path[-length:]
        return None


class Budget:
    """Limits for the patterns of one adapter: number of expressions, and processor time of all compiled keys."""

    def __init__(self) -> None:
        self.seconds = BUDGET_SECONDS
        self.expressions = MAX_EXPRESSIONS

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Take the time of the block from the budget."""
        started = time.process_time()  # the clock of `regex`'s timeouts
        try:
            yield
        finally:
            self.seconds -= time.process_time() - started


class PatternTable:
    """One of the two pattern maps, ready for look-ups. The two of an adapter share a `budget`.

    unmatched: keys that have matched no module so far.
    skipped: keys that were not evaluated, with the reason.
    """

    def __init__(self, entries: Mapping[str, float], budget: Budget | None = None) -> None:
        self._entries = dict(entries)
        self._positions = {key: index for index, key in enumerate(self._entries)}
        self._keys = list(self._entries)
        self._exact: dict[str, int] = {}
        self._others: list[int] = []
        self._compiled: dict[int, Any] = {}
        self._hits: set[str] = set()
        self._budget = budget or Budget()
        self.skipped: dict[str, str] = {}
        for index, key in enumerate(self._keys):
            exact = re.fullmatch(_EXACT, key, re.ASCII) if len(key) <= MAX_NAME_LENGTH else None
            if exact is None:
                self._others.append(index)
            else:
                self._exact.setdefault(re.sub(r"\\(.)", r"\1", exact[1], flags=re.DOTALL), index)

    def __bool__(self) -> bool:
        return bool(self._entries)

    @property
    def unmatched(self) -> list[str]:
        """Keys that applied to no module that was looked up."""
        return [key for key in self._keys if key not in self._hits and key not in self.skipped]

    def lookup(self, name: str) -> Found:
        """Return the value for the module `name`. Uncertain if a key that might match first was not
        evaluated.
        """
        if not self._entries:
            return Found(None)
        # `$` also matches before a trailing line break.
        hits = {self._exact.get(text) for text in (name, name.removesuffix("\n"))}
        best = min((index for index in hits if index is not None), default=None)
        for index in self._others:
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

    def _matches(self, index: int, name: str) -> bool | None:
        """Return whether the expression matches; None if unknown."""
        key = self._keys[index]
        if key in self.skipped:
            return None
        if index not in self._compiled:
            with self._budget.spending():
                self._compiled[index] = self._compile(key)
        pattern = self._compiled[index]
        if pattern is None:
            return None
        try:
            if self._budget.seconds > 0:
                if isinstance(pattern, re.Pattern):
                    self._budget.seconds -= NAME_SECONDS
                    return pattern.match(name) is not None
                with self._budget.spending():
                    return pattern.match(name, timeout=self._budget.seconds) is not None
        except TimeoutError:
            pass
        self.skipped[key] = f"matching takes more than {BUDGET_SECONDS:g} s"
        return None

    def _compile(self, key: str) -> Any:
        expression = rf"(.*\.)?({key})$"
        if self._budget.seconds > 0 and is_name(key):
            return re.compile(expression)
        import regex

        self._budget.expressions -= 1
        if self._budget.expressions < 0:
            reason: str | None = f"more than {MAX_EXPRESSIONS} expressions in one adapter"
        elif self._budget.seconds <= 0:
            reason = f"compiling and matching take more than {BUDGET_SECONDS:g} s"
        else:
            reason = too_large(key)
        compiled = None
        if reason is None:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    re.compile(expression)
                    compiled = regex.compile(expression)
            except (re.error, regex.error, RecursionError, OverflowError) as error:
                reason = f"not a regular expression: {error}"
            else:
                if re.search(_DIFFERS, key):
                    reason = "an expression that two engines read differently"
        if reason is not None:
            self.skipped[key] = reason
            return None
        return compiled


def too_large(expression: str) -> str | None:
    """Return why a regular expression is not even compiled, or None: it is long, or its repeats multiply.

    >>> too_large("(a{100}){100}")
    'more than 1000 repeats'
    """
    if len(expression) > MAX_KEY_LENGTH:
        return f"longer than {MAX_KEY_LENGTH} characters"
    numbers = [int(number[:9]) for pair in re.findall(_REPEAT, expression) for number in pair if number]
    many = math.prod(max(1, number) for number in numbers) > MAX_REPEATS
    return f"more than {MAX_REPEATS} repeats" if many else None


# ---------------------------------------------------------------- expressions that PEFT itself matches

TRIAL_SECONDS = 5
"""Processor time for comparing the expressions of a config with all names of a base; ordinary ones need 0.1 s."""
STARTING_SECONDS = 120
MAX_PATTERNS = 5000
"""Patterns that a field may have: PEFT compiles and compares every one for every module."""
V4_EXPERTS = ("gate", "w1", "w2", "w3", "gate_proj", "up_proj", "down_proj")
"""PEFT 0.21 tries these names beside each parameter as well (utils/transformers_weight_conversion.py)."""
_TRIAL = """
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]), int(sys.argv[1]) + 1))
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
expressions, names = json.load(sys.stdin)
for field, how, expression in expressions:
    print(field, flush=True)
    try:
        for name in names:
            getattr(re, how)(expression, name)
    except (re.error, OverflowError, RecursionError, MemoryError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
"""


def expressions_of(fields: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return field, function of `re`, and expression for all that PEFT 0.21 takes for expressions in a config."""
    expressions = [
        (name, "fullmatch", fields[name])
        for name in ("target_modules", "exclude_modules")
        if isinstance(fields.get(name), str)
    ]
    layers = fields.get("layers_pattern") or []
    forms = {
        "layers_pattern": (r"(?:^|.*?\.){}\.(?P<idx>\d+)\.", [layers] if isinstance(layers, str) else layers),
        "rank_pattern": (r"(.*\.)?({})$", fields.get("rank_pattern") or {}),
        "alpha_pattern": (r"(.*\.)?({})$", fields.get("alpha_pattern") or {}),
        "modules_to_save": (r"(^|.*\.){}($|\..*)", fields.get("modules_to_save") or []),
    }
    for name, (form, keys) in forms.items():
        plain = len(keys) <= MAX_PATTERNS  # names, which need no trial
        expressions += [
            (name, "match", form.replace("{}", key)) for key in keys if not (plain and is_name(key))
        ]
    return expressions


def try_expressions(
    expressions: Sequence[tuple[str, str, str]], names: Sequence[str]
) -> tuple[str, str] | None:
    """Compare with `re`, as PEFT will, in a process with limits; return the field that fails, and why; None if none."""
    counted = Counter(field for field, *_ in expressions)
    many = next((field for field, count in counted.items() if count > MAX_PATTERNS), None)
    if many is not None:
        return many, f"it has {counted[many]:,} entries, and at most {MAX_PATTERNS:,} are compared"
    if not expressions:
        return None
    beside = {f"{name.rpartition('.')[0]}.{expert}" for name in names for expert in V4_EXPERTS}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _TRIAL, str(TRIAL_SECONDS)],
            input=json.dumps([expressions, sorted({*names, *beside})]),
            capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=STARTING_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        return str(error.stdout or expressions[0][0]).split()[-1], f"it takes more than {STARTING_SECONDS} s"
    if done.returncode == 0:
        return None
    reason = done.stderr.strip()[-300:] if done.returncode == 1 else ""
    return done.stdout.split()[-1], reason or f"it takes more than {TRIAL_SECONDS} s of processor time"


def is_name(key: str) -> bool:
    """Return True if a key is a plain name, which is fast to match against any module."""
    return len(key) <= MAX_NAME_LENGTH and re.fullmatch(_NAME, key, re.ASCII) is not None


def anchored_key(name: str) -> str:
    """Return the key that matches only the module `name` under PEFT's rule."""
    return "^" + re.escape(name)
