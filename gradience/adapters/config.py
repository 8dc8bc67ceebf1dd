"""`adapter_config.json` of PEFT, read strictly: a value of the wrong type is an error that names the field.

Unknown fields are normal (other versions of PEFT) and ignored. Nothing in the file is imported, opened or run.

`rank_pattern` and `alpha_pattern`: PEFT (0.21, utils/other.py, `get_pattern_key`) tries the entries in order, and the
first key with `re.match(rf"(.*\\.)?({key})$", module)` wins; without a hit the module's own name is looked up as it is.
The keys are regular expressions from an untrusted file: `(a+)+` can keep `re` busy for years, and compiling
`(?:a{1000}){1000}` takes `regex` seconds. Keys written by Gradience are looked up as text. Other plain names are
matched by `re`, which is fast for them. All other keys are matched by the `regex` package. One `Budget` covers all of
them. A key is not evaluated if it exceeds the budget, if `re` rejects it, or if the two packages read it differently.
Its value is then unknown, never guessed.
"""

import json
import math
import re
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from gradience.adapters.files import MLX_HINT, read_object, refuse_method
from gradience.errors import InputError, is_integer, is_number
from gradience.ranks import scale_of

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


# ---------------------------------------------------------------- the config


class Initialization(NamedTuple):
    """One value of `init_lora_weights`.

    zero: B·A = 0 before the first step.   keeps_base: the base's weights do not change.
    """

    zero: bool
    keeps_base: bool


_NOTHING = Initialization(zero=True, keeps_base=True)
_NOISE = Initialization(zero=False, keeps_base=True)
_OUT_OF_THE_BASE = Initialization(zero=False, keeps_base=False)

INITIALIZATIONS: Mapping[str, Initialization] = {
    "true": _NOTHING,
    "false": _NOISE,
    "gaussian": _NOTHING,
    "eva": _NOTHING,
    "olora": _OUT_OF_THE_BASE,
    "pissa": _OUT_OF_THE_BASE,
    "corda": _OUT_OF_THE_BASE,
    "loftq": _OUT_OF_THE_BASE,
    "orthogonal": _NOISE,  # the inner sides are orthogonal: 1e-7 of ‖B‖·‖A‖ in float32, 1e-3 in bfloat16
    "lora_ga": _OUT_OF_THE_BASE,
    "mica": _NOTHING,  # A is 0, and B is never trained
}
"""All that PEFT knows, in lower case; `pissa` with a number of iterations behind it as well."""


AS_PLAIN_LORA = (
    "save it as plain LoRA with PEFT: model.save_pretrained(folder, path_initial_model_for_weight_conversion=initial), "
    "with the folder of the adapter as it was before training"
)
"""Hint for an adapter whose initialization changed the base weights."""


def initialization_of(value: object) -> Initialization | None:
    """Return the effect of a config's `init_lora_weights`; None for a value that PEFT does not know."""
    name = str(value).lower()
    return INITIALIZATIONS.get("pissa" if name.startswith("pissa_niter_") else name)


MAX_RANK = 65536
MAX_NAMES = 200_000
"""Largest number of modules in one field; equal to the number of tensors that are read."""
MIN_ALPHA, MAX_ALPHA = 1e-30, 1e12
"""Absolute value, unless it is 0; published configs had up to 1e5. Products of larger values would leave float64."""
DEFAULT_RANK = DEFAULT_ALPHA = 8
"""PEFT's own, for configs that leave them out."""
HEADS_OF_TASK: Mapping[str, tuple[str, ...]] = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""Task -> modules that PEFT adds to modules_to_save by itself (0.21, peft_model.py); a model has one of them."""


@dataclass(frozen=True)
class PeftConfig:
    """The parts of a LoRA config that the audit needs, with PEFT's names and defaults."""

    path: Path
    fields: Mapping[str, Any]
    """The whole file as it was."""
    r: int | None = None
    lora_alpha: float | None = None
    rank_pattern: PatternTable = field(default_factory=lambda: PatternTable({}))
    alpha_pattern: PatternTable = field(default_factory=lambda: PatternTable({}))
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    bias: str = "none"
    init: str = "true"
    target_modules: tuple[str, ...] | str | None = None
    target_parameters: tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    base_model: str | None = None
    task_type: str | None = None
    peft_type: str | None = None
    peft_version: str | None = None

    @cached_property
    def target_names(self) -> frozenset[str]:
        """Names in `target_modules` if it is a list. A name applies to every module whose path ends with
        it.
        """
        return frozenset(self.target_modules if isinstance(self.target_modules, tuple) else ())

    @cached_property
    def parameters_by_owner(self) -> Mapping[str, list[str]]:
        """`target_parameters` as owner -> parameters; the owner is empty for a target without a dot."""
        owners: dict[str, list[str]] = {}
        for target in self.target_parameters:
            owner, _, parameter = target.rpartition(".")
            owners.setdefault(owner, []).append(parameter)
        return owners

    @cached_property
    def heads_of_task(self) -> tuple[str, ...]:
        """Modules that PEFT saves whole because of the task type."""
        return HEADS_OF_TASK.get(self.task_type or "", ())

    @cached_property
    def _saved_names(self) -> SavedNames:
        return SavedNames((*self.modules_to_save, *self.heads_of_task))

    def saved_whole(self, module: str) -> tuple[str, str] | None:
        """The module that PEFT saves whole, `module` or one around it, and the entry of modules_to_save, or the head
        of the task, that says so (see `SavedNames`)."""
        return self._saved_names.find(module)

    def rank_of(self, name: str) -> int | None:
        """Return the rank that the config gives the module `name` (PEFT's rule: the first matching pattern
        applies).

        None if it is unknown: r is missing, or a pattern that may match was not evaluated.
        """
        value, certain = self.rank_pattern.lookup(name)
        if value is None:
            return self.r if certain else None
        return int(value)

    def alpha_of(self, name: str) -> float | None:
        """Return the α that the config gives the module `name`; None if it is unknown, as in `rank_of`."""
        value, certain = self.alpha_pattern.lookup(name)
        if value is None:
            return self.lora_alpha if certain else None
        return float(value)

    def scale(self, alpha: float | None, rank: int) -> float | None:
        """s = α/r, or α/√r with rsLoRA (PEFT 0.21, tuners/lora/layer.py, `update_layer`)."""
        return None if alpha is None else scale_of(alpha, rank, use_rslora=self.use_rslora)


def read_config(path: Path, *, root: Path | None = None) -> PeftConfig:
    """Read an adapter_config.json.

    Raises InputError: not-found, lfs-pointer, html-page, bad-json, bad-config, mlx-adapter, other-method,
    not-peft-config.
    """
    fields = read_object(path, root=root)
    if "fine_tune_type" in fields or "lora_parameters" in fields:
        raise InputError(
            f"{path}: the config of an MLX-LM adapter (fine_tune_type, lora_parameters), beside other weights",
            code="mlx-adapter",
            hint=MLX_HINT,
        )
    return config_of(path, fields)


def config_of(path: Path, fields: Mapping[str, Any]) -> PeftConfig:
    """The config that these fields of `path` describe.

    Raises InputError: bad-config, other-method, not-peft-config.
    """
    _check(path, fields, {"peft_type": _A_TEXT})
    peft_type = fields.get("peft_type")
    if peft_type is not None and peft_type.upper() != "LORA":
        raise refuse_method(path, f"uses the PEFT method {peft_type[:40]!r}")
    if peft_type is None and not {"r", "lora_alpha"} & fields.keys():
        raise InputError(
            f"{path}: not a PEFT adapter config: neither peft_type nor r and lora_alpha "
            f"(it starts with {_json(fields)})",
            code="not-peft-config",
            hint="put the adapter's own adapter_config.json here, or remove this file to audit only the weights",
        )
    _check(path, fields, _READ)
    for name, (fits, wanted) in (("rank_pattern", _A_RANK), ("alpha_pattern", _A_NUMBER)):
        for key, number in (fields.get(name) or {}).items():
            if not fits(number):
                raise _bad(path, f"{name}[{_json(key)}] is {_json(number)}, not {wanted}")

    def names(field: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(fields.get(field) or ()))

    budget = Budget()
    targets, init = fields.get("target_modules"), fields.get("init_lora_weights", True)
    if not isinstance(init, str):  # null as PEFT reads it: neither factor is set to 0
        init = "true" if init else "false"
    return PeftConfig(
        path=path,
        fields=fields,
        r=int(fields.get("r", DEFAULT_RANK)),
        lora_alpha=float(fields.get("lora_alpha", DEFAULT_ALPHA)),
        rank_pattern=PatternTable(fields.get("rank_pattern") or {}, budget),
        alpha_pattern=PatternTable(fields.get("alpha_pattern") or {}, budget),
        use_rslora=bool(fields.get("use_rslora")),
        use_dora=bool(fields.get("use_dora")),
        fan_in_fan_out=bool(fields.get("fan_in_fan_out")),
        bias=fields.get("bias") or "none",
        init=init,
        target_modules=targets if targets is None or isinstance(targets, str) else names("target_modules"),
        target_parameters=names("target_parameters"),
        modules_to_save=names("modules_to_save"),
        base_model=fields.get("base_model_name_or_path"),
        task_type=fields.get("task_type"),
        peft_type=peft_type,
        peft_version=fields.get("peft_version"),
    )


def check_for_peft(config: PeftConfig, names: Sequence[str]) -> None:
    """Raise InputError (`bad-config`) for a value that PEFT would fail on, or that would keep it busy for ever.

    names: of the base's modules and parameters, with which PEFT compares the expressions.
    """
    _check(config.path, config.fields, _OF_PEFT)
    if isinstance(config.target_modules, tuple) and not all(config.target_modules):
        raise _bad(config.path, "target_modules contains an empty name")
    tried = try_expressions(expressions_of(config.fields), names)
    if tried is not None:
        field, reason = tried
        raise InputError(
            f"{config.path}: {field} is {_json(config.fields[field])}, and matching it against the module"
            f" names fails: {reason}",
            code="bad-config",
            hint=f"list the module names in {field}",
        )


def without_imports(config: Any) -> Any:
    """Take from PEFT's config what chooses a module to import, or a repository to ask, and return it."""
    config.megatron_config = config.auto_mapping = config.base_model_name_or_path = config.revision = None
    return config


def is_rank(value: Any) -> bool:
    """Return whether a value of a config can be a rank."""
    return is_integer(value) and 1 <= value <= MAX_RANK


def is_alpha(value: Any) -> bool:
    """Return whether a value of a config can be an α or a scale: 0, or of a size that stays within float64."""
    return is_number(value) and (not value or MIN_ALPHA <= abs(value) <= MAX_ALPHA)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _names(value: Any) -> bool:
    return _texts(value) and len(value) <= MAX_NAMES


def _map(value: Any) -> bool:
    return isinstance(value, dict) and len(value) <= MAX_NAMES


def _indices(value: Any) -> bool:
    return isinstance(value, list) and all(is_integer(item) and 0 <= item < 2**31 for item in value)


Values = tuple[Callable[[Any], bool], str]
"""Test for the accepted values of a field, and a description of them."""
_A_TEXT: Values = (lambda value: isinstance(value, str), "text")
_A_FLAG: Values = (lambda value: isinstance(value, bool), "true or false")
_A_RANK: Values = (is_rank, f"an integer from 1 to {MAX_RANK}")
_A_NUMBER: Values = (is_alpha, f"0, or a number between {MIN_ALPHA:g} and {MAX_ALPHA:g}")
_NAMES: Values = (_names, f"a list of names, at most {MAX_NAMES:,}")
_PATTERN: Values = (_map, f"a map from module names to numbers, at most {MAX_NAMES:,}")
_NAMES_OR_ONE: Values = (lambda value: isinstance(value, str) or _texts(value), "a list of names")
_READ: Mapping[str, Values] = {
    "r": _A_RANK,
    "lora_alpha": _A_NUMBER,
    "rank_pattern": _PATTERN,
    "alpha_pattern": _PATTERN,
    **dict.fromkeys(("use_rslora", "use_dora", "fan_in_fan_out"), _A_FLAG),
    "bias": _A_TEXT,
    "init_lora_weights": (
        lambda value: isinstance(value, bool | str),
        "true, false or the name of an initialization",
    ),
    "target_modules": (lambda value: isinstance(value, str) or _names(value), _NAMES[1]),
    **dict.fromkeys(("target_parameters", "modules_to_save"), _NAMES),
    **dict.fromkeys(("base_model_name_or_path", "task_type", "peft_version"), _A_TEXT),
}
"""Fields that the audit reads."""
_OF_PEFT: Mapping[str, Values] = {
    "exclude_modules": _NAMES_OR_ONE,
    "layers_pattern": _NAMES_OR_ONE,
    "layer_replication": (
        lambda value: isinstance(value, list) and all(map(_indices, value)),
        "a list of ranges of layers",
    ),
    "layers_to_transform": (lambda value: is_integer(value) or _indices(value), "a list of layers"),
    "lora_dropout": (lambda value: is_number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "trainable_token_indices": (
        lambda value: _indices(value) or (isinstance(value, dict) and all(map(_indices, value.values()))),
        "a list of tokens, or one for each module",
    ),
    "alora_invocation_tokens": (_indices, "a list of tokens"),
    "bias": (lambda value: value in ("none", "all", "lora_only"), "none, all or lora_only"),
    **dict.fromkeys(("lora_bias", "use_qalora", "ensure_weight_tying"), _A_FLAG),
}
"""Fields that only PEFT reads -> values that it understands (0.21)."""


def is_understood(name: str, value: Any) -> bool:
    """Return True if PEFT 0.21 understands this value of a field."""
    fits, _ = {**_READ, **_OF_PEFT}[name]
    return fits(value)


def _check(path: Path, fields: Mapping[str, Any], known: Mapping[str, Values]) -> None:
    """Raise InputError (bad-config) for a value that is not understood; null is a field that is not there."""
    for name, (fits, wanted) in known.items():
        value = fields.get(name)
        given = name in fields if name in ("r", "lora_alpha") else value is not None
        if given and not fits(value):
            raise _bad(path, f"{name} is {_json(value)}, not {wanted}")


def _bad(path: Path, problem: str) -> InputError:
    return InputError(f"{path}: {problem}", code="bad-config", hint="save the adapter again with PEFT")


def _json(value: Any) -> str:
    """Return the beginning of a value as written in the file."""
    return json.dumps(value, ensure_ascii=False)[:80]
