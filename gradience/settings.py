"""Settings of a verb, declared once, as the fields of a dataclass.

They give the flags of the command (`cli/flags.py`), the keywords of the public function (`public`), the keys of a YAML
file and the rows of the reference pages. A field's docstring is its help everywhere. It shows settings and values in
backticks, as in Python; the command line turns them into flags and typed values.
"""

import ast
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from functools import cache, wraps
from inspect import Parameter, Signature, cleandoc, getsource
from itertools import pairwise, takewhile
from numbers import Integral, Real
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ParamSpec, TypeVar, cast, dataclass_transform, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from gradience.errors import GradienceError, InputError, UsageError, WrongType, wrong_type
from gradience.words import plainly

P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def settings_model(*, kw_only: bool = False) -> Callable[[type[S]], type[S]]:
    """Make a class the settings of a verb, or a part of them: a frozen pydantic dataclass without unknown names.

    kw_only: True if all settings need their names in Python.
    """
    rules = ConfigDict(extra="forbid", arbitrary_types_allowed=True, defer_build=True)

    def decorate(cls: type[S]) -> type[S]:
        return cast("type[S]", pydantic_dataclass(frozen=True, kw_only=kw_only, config=rules)(cls))

    return decorate


@dataclass(frozen=True, slots=True)
class Flag:
    """The look of a setting on the command line, in an annotation: `Annotated[int | None, Flag("N")]`."""

    metavar: str = ""
    short: str = ""
    """A second name, such as `-b`."""
    name: str = ""
    """In place of the field's own, such as `--option` for `options`."""
    values: Callable[[], Any] | None = None
    """Makes the values that the shell completes."""
    text: bool = False
    """The setting is a text even if its type allows a path, such as a name on the hub."""
    read: Callable[[str], Any] | None = None
    """Makes the setting from the text that is typed, such as `4,8,16`."""
    key_only: bool = False
    """The setting is a key of the YAML file and no flag."""
    flag_only: bool = False
    """The setting is a flag and a keyword, and no key of the YAML file."""
    positional: bool = False
    """The setting is typed without a flag even if it is called `output`."""


class PythonOnly:
    """Marks a keyword of the public function that is neither a flag nor a key, such as a callback."""


class Internal:
    """Marks a keyword that only Gradience passes. It is not a flag, a config key or a parameter of the public
    function."""


def _path(value: Any) -> Path:
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise ValueError("must be a path")
    return Path(value)


def _output(value: Any) -> Path:
    path = _path(value)
    if path.suffix.lower() in (".html", ".htm"):
        raise UsageError(
            f"{path}: the output would not be an HTML page",
            code="output-name",
            hint=f"for the page, type --html {path}",
        )
    return path


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError("must be an integer")
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError("must be a number")
    return float(value)


def _ranks(value: Any) -> tuple[int, ...]:
    """Read `8,4,2`, or integers."""
    try:
        ranks = tuple(map(int, value.split(",")) if isinstance(value, str) else map(_integer, value))
    except (TypeError, ValueError):
        ranks = ()
    if not ranks or min(ranks) < 1 or isinstance(value, bytes):
        raise ValueError("must be ranks of at least 1, such as 4,8,16")
    return ranks


def several(value: Any) -> Any:
    """Return one path, or several, as a tuple."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes) else (value,)


def paths_of(given: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return one path, or several, as a list."""
    return [Path(path) for path in several(given)]


StrPath = Annotated[str | os.PathLike[str], BeforeValidator(_path)]
"""A path. Stored as a `Path`."""
OutputPath = Annotated[str | os.PathLike[str], BeforeValidator(_output)]
"""A path to write to, other than an HTML page. Stored as a `Path`. Raises UsageError (`output-name`)."""
Integer = Annotated[int, BeforeValidator(_integer)]
Positive = Annotated[Integer, Field(ge=1, lt=2**31)]
Number = Annotated[float, BeforeValidator(_number)]
AboveZero = Annotated[Number, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[Number, Field(gt=0, le=1)]
Part = Annotated[Number, Field(ge=0, lt=1)]
"""Share below 1, such as a reduction or an error."""
Strength = Annotated[Number, Field(gt=0, le=10)]
"""Factor for an update. A larger one is probably a typo."""
RankList = Annotated[Sequence[int], BeforeValidator(_ranks)]
"""Ranks, or a string such as `8,4,2`. Stored as a tuple."""


def fields_of(settings: Any) -> dict[str, FieldInfo]:
    """Return name -> field of the settings that a file and the command line know: its own first, then shared ones."""
    names = sorted(
        settings.__pydantic_fields__, key=lambda name: settings.__mro__.index(owner_of(settings, name))
    )
    fields = {name: owner_of(settings, name).__pydantic_fields__[name] for name in names}
    hidden = (PythonOnly, Internal)
    return {
        name: field for name, field in fields.items() if not any(mark in hidden for mark in field.metadata)
    }


def look_of(field: FieldInfo) -> Flag:
    """Return the look of a setting on the command line."""
    return next((item for item in field.metadata if isinstance(item, Flag)), Flag())


def keys_of(settings: Any) -> dict[str, FieldInfo]:
    """Return name -> field of the settings that a file knows."""
    return {name: field for name, field in fields_of(settings).items() if not look_of(field).flag_only}


def owner_of(settings: Any, name: str) -> Any:
    """Return the class that declares a field."""
    return next(cls for cls in settings.__mro__ if name in vars(cls).get("__annotations__", {}))


def help_of(settings: Any, name: str) -> str:
    """Return the docstring of a field, on one line."""
    owner = owner_of(settings, name)
    return " ".join(field_docstrings(owner.__module__).get((owner.__name__, name), "").split())


@cache
def field_docstrings(module: str) -> dict[tuple[str, str], str]:
    """Return class and field -> the docstring below the field; pydantic's own way takes 6 ms for each class."""
    classes = [
        node for node in ast.parse(getsource(sys.modules[module])).body if isinstance(node, ast.ClassDef)
    ]
    return {
        (node.name, field.target.id): cleandoc(text.value.value)
        for node in classes
        for field, text in pairwise(node.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(text.value.value, str)
    }


def section_of_field(settings: Any, name: str) -> str:
    """Return the first line of the docstring of the class that declares a field: its section in the help."""
    return (owner_of(settings, name).__doc__ or "").partition("\n")[0].rstrip(".")


def required_output(
    output: str | os.PathLike[str] | None, kind: str = "FILE", *, dry_run: bool = True
) -> Path:
    """Return the output of a verb that writes. Raises UsageError (`no-output`).

    kind: FILE or DIR.   dry_run: True if the verb has a --dry-run.
    """
    if output is None:
        raise UsageError(
            "no --output given",
            code="no-output",
            hint=f"give --output {kind}" + (", or --dry-run to see what would be done" if dry_run else ""),
        )
    return Path(output)


def shared(settings: Any, kind: Any) -> dict[str, Any]:
    """Return the values of `settings` under the names that the dataclass `kind` has as well."""
    names = [field.name for field in fields(kind)]
    return {name: getattr(settings, name) for name in names if hasattr(settings, name)}


def settings_of(
    kind: type[S], given: Mapping[str, Any], values: Mapping[str, Any] | None = None, path: Path | None = None
) -> S:
    """Return the settings in a file with those that are `given` in their place.

    given: by their names, such as flags.   values: what the file `path` holds.
    Raises InputError for the file and UsageError for what is given: config-key (unknown keys, with the nearest known
    one), config-value.
    """
    for name in values or ():
        if name in kind.__dataclass_fields__ and name not in keys_of(kind):  # type: ignore[attr-defined]
            raise InputError(f"{path}: unknown key `{name}`", code="config-key", hint=KEYS)
    try:
        return kind(**{**(values or {}), **given})
    except ValidationError as error:
        raise _refused(error, kind, given, path) from None


def _refused(
    error: ValidationError, kind: Any, given: Mapping[str, Any], path: Path | None
) -> GradienceError:
    """Return the error for a flag if one is to blame, else for the file."""
    fields = fields_of(kind)
    for detail in error.errors(include_url=False, include_context=False):
        name = str(detail["loc"][0])
        if name in given and name in fields:
            message, flag = plainly(detail["msg"]), flag_of(name, fields[name])
            typed = given[name] if isinstance(given[name], list) else [given[name]]
            of_one = message in ("must be at most 1", "must be less than 1")
            percentage = of_one and isinstance(typed[0], float) and 2 <= typed[0] <= 100
            return UsageError(
                f"{flag} {' '.join(map(str, typed))}: {message}",
                code="config-value",
                hint=f"give a fraction: {flag} {typed[0] / 100:g}"
                if percentage
                else f"--help describes {flag}",
            )
    return refused(error, tuple(fields), str(path or ""), {})


def flag_of(name: str, field: FieldInfo) -> str:
    """Return the long flag of a setting, such as `--base-model`."""
    return look_of(field).name or f"--{name.replace('_', '-')}"


def public(kind: Callable[P, S]) -> Callable[[Callable[[S], R]], Callable[P, R]]:
    """Make a function of settings one of keywords: those of the dataclass `kind`, each with its type and default.

    >>> @public(EvaluateSettings)
    ... def evaluate_adapters(settings: EvaluateSettings) -> EvaluationReport: ...
    >>> report = evaluate_adapters(["my_adapter", "smaller"], data="rows.jsonl")

    Raises WrongType for a keyword of a wrong type or value.
    """

    def decorate(run: Callable[[S], R]) -> Callable[P, R]:
        @wraps(run)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in parameters_of(kind):
                    raise _unknown_keyword(name, kind)
            try:
                settings = kind(*args, **kwargs)
            except ValidationError as error:
                raise _wrong_argument(error, kind) from None
            return run(settings)

        text, _, rest = (run.__doc__ or "").partition("\n\n    Raises ")
        keywords = "\n".join(f"    {line}" for line in _keywords(kind))
        call.__doc__ = f"{text}\n\n{keywords}\n\n    Raises {rest}" if rest else f"{text}\n\n{keywords}\n"
        call.__signature__ = Signature(  # type: ignore[attr-defined]
            [*parameters_of(kind).values()], return_annotation=get_type_hints(run)["return"]
        )
        return call

    return decorate


def _keywords(kind: Any) -> Iterator[str]:
    for name in parameters_of(kind):
        text = help_of(kind, name)
        yield f"{name}: {text[:1].lower()}{text[1:]}"


@cache
def parameters_of(kind: Any) -> Mapping[str, Parameter]:
    """Return the parameters of a settings model by name, those that need no keyword first."""
    hints = get_type_hints(kind)
    defaults = {
        field.name: field.default_factory() for field in fields(kind) if field.default_factory is not MISSING
    }
    parameters = [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY if field.kw_only else Parameter.POSITIONAL_OR_KEYWORD,
            default=defaults.get(field.name, Parameter.empty if field.default is MISSING else field.default),
            annotation=hints[field.name],
        )
        for field in fields(kind)
        if Internal not in kind.__pydantic_fields__[field.name].metadata
    ]
    return {
        parameter.name: parameter for parameter in sorted(parameters, key=lambda parameter: parameter.kind)
    }


def _unknown_keyword(name: str, kind: Any) -> WrongType:
    guess = nearest(name, list(parameters_of(kind)))
    return WrongType(
        f"unknown keyword: {name}", code="wrong-type", hint=f"did you mean `{guess}`?" if guess else ""
    )


def _wrong_argument(error: ValidationError, kind: Any) -> WrongType:
    """Return the error for the first invalid argument: `limit must be a valid integer, not str ('x')`."""
    detail = error.errors(include_url=False, include_context=False)[0]
    place = detail["loc"][0]
    name = list(parameters_of(kind))[place] if isinstance(place, int) else place
    if "missing" in detail["type"]:
        return WrongType(f"{name} is missing", code="wrong-type")
    if detail["type"] in UNKNOWN:
        return _unknown_keyword(str(name), kind)
    message, value = plainly(detail["msg"]), detail["input"]
    if message.startswith("must be "):
        return wrong_type(str(name), value, message.removeprefix("must be "))
    shown = f" {value!r:.40}" if isinstance(value, str | bytes | int | float) else ""
    return WrongType(f"{name}: {message} (got {type(value).__name__}{shown})", code="wrong-type")


@dataclass_transform(frozen_default=True)
def checked(kind: type[S]) -> type[S]:
    """Make a class a frozen dataclass that raises WrongType for an argument of a wrong type or value."""
    built: Any = pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid"))(kind)
    build = built.__init__

    @wraps(build)
    def init(self: S, *args: Any, **kwargs: Any) -> None:
        try:
            build(self, *args, **kwargs)
        except ValidationError as error:
            raise _wrong_argument(error, built) from None

    built.__init__ = init
    return built  # type: ignore[no-any-return]


def call(function: Callable[..., R], settings: Any, **more: Any) -> R:
    """Call a function that `public` made with settings that were read elsewhere, `more` in their place."""
    result: R = function.__wrapped__(replace(settings, **more) if more else settings)  # type: ignore[attr-defined]
    return result


# ---------------------------------------------------------------- errors in settings

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
