"""Settings of a verb, declared once, as the fields of a dataclass.

They give the flags of the command (`cli/flags.py`), the keywords of the public function (`public`), the keys of a YAML
file and the rows of the reference pages. A field's docstring is its help everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from gradience.config_errors import refused
from gradience.errors import GradienceError, UsageError, WrongType

P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")

SETTINGS = ConfigDict(extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True)
"""For `pydantic.dataclasses.dataclass(frozen=True, config=SETTINGS)`."""


@dataclass(frozen=True, slots=True)
class Flag:
    """The look of a setting on the command line, in an annotation: `Annotated[int | None, Flag("N")]`."""

    metavar: str = ""
    short: str = ""
    """Such as `-b`."""
    name: str = ""
    """In place of the field's own, such as `--option` for `options`."""
    values: Callable[[], Any] | None = None
    """Makes the values that the shell completes."""
    text: bool = False
    """The setting is a text even if its type allows a path, such as a name on the hub."""


class PythonOnly:
    """Marks a keyword of the public function that is neither a flag nor a key, such as a callback."""


def _path(value: Any) -> Any:
    if value is not None and not isinstance(value, str | os.PathLike):
        raise ValueError("must be a path")
    return None if value is None else Path(os.fspath(value))


StrPath = Annotated[str | os.PathLike[str], BeforeValidator(_path)]
"""A path as it is given. What is stored is a `Path`."""
Positive = Annotated[int, Field(ge=1, lt=2**31)]


def fields_of(settings: Any) -> dict[str, FieldInfo]:
    """Return name -> field of the settings that a file and the command line know: its own first, then shared ones."""
    names = sorted(
        settings.__pydantic_fields__, key=lambda name: settings.__mro__.index(owner_of(settings, name))
    )
    fields = {name: owner_of(settings, name).__pydantic_fields__[name] for name in names}
    return {name: field for name, field in fields.items() if PythonOnly not in field.metadata}


def owner_of(settings: Any, name: str) -> Any:
    """Return the class that declares a field; pydantic knows the docstring of a field there alone."""
    return next(cls for cls in settings.__mro__ if name in vars(cls).get("__annotations__", {}))


def section_of_field(settings: Any, name: str) -> str:
    """Return the first line of the docstring of the class that declares a field: its section in the help."""
    return (owner_of(settings, name).__doc__ or "").partition("\n")[0].rstrip(".")


def required_output(output: str | os.PathLike[str] | None, kind: str = "FILE") -> Path:
    """Return the output of a verb that writes. Raises UsageError (`no-output`). kind: FILE or DIR."""
    if output is None:
        raise UsageError(
            "no --output given",
            code="no-output",
            hint=f"give --output {kind}, or --dry-run to see what would be done",
        )
    return Path(output)


def shared(settings: Any, kind: Callable[..., Any]) -> dict[str, Any]:
    """Return the values of `settings` under the names that the dataclass `kind` has as well."""
    names = signature(kind).parameters
    return {name: getattr(settings, name) for name in names if hasattr(settings, name)}


def settings_of(
    kind: type[S], given: Mapping[str, Any], values: Mapping[str, Any] | None = None, path: Path | None = None
) -> S:
    """Return the settings in a file with those that are `given` in their place.

    given: by their names, such as flags.   values: what the file `path` holds.
    Raises InputError for the file and UsageError for what is given: config-key (unknown keys, with the nearest known
    one), config-value.
    """
    try:
        return kind(**{**(values or {}), **given})
    except ValidationError as error:
        raise _refused(error, kind, given, path) from None


def _refused(
    error: ValidationError, kind: Any, given: Mapping[str, Any], path: Path | None
) -> GradienceError:
    """Return the error for a flag if one is to blame, else for the file."""
    fields, verb = fields_of(kind), kind.__name__.removesuffix("Settings").lower()
    for detail in error.errors(include_url=False, include_context=False):
        name = str(detail["loc"][0])
        if name in given and name in fields:
            message = detail["msg"].removeprefix("Value error, ")
            return UsageError(
                f"{flag_of(name, fields[name])} {given[name]}: {message}",
                code="config-value",
                hint=f"gradience help {verb} describes {flag_of(name, fields[name])}",
            )
    return refused(error, tuple(fields), str(path or ""), {})


def flag_of(name: str, field: FieldInfo) -> str:
    """Return the long flag of a setting, such as `--base-model`."""
    look = next((item for item in field.metadata if isinstance(item, Flag)), Flag())
    return look.name or f"--{name.replace('_', '-')}"


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
            try:
                settings = kind(*args, **kwargs)
            except ValidationError as error:
                raise _wrong_argument(error, kind) from None
            return run(settings)

        text, _, rest = (run.__doc__ or "").partition("\n\n    Raises ")
        keywords = "\n".join(f"    {line}" for line in _keywords(kind))
        call.__doc__ = f"{text}\n\n{keywords}\n\n    Raises {rest}" if rest else f"{text}\n\n{keywords}\n"
        call.__signature__ = _signature(kind, get_type_hints(run)["return"])  # type: ignore[attr-defined]
        return call

    return decorate


def _keywords(kind: Any) -> Iterator[str]:
    for name in signature(kind).parameters:
        text = " ".join((owner_of(kind, name).__pydantic_fields__[name].description or "").split())
        yield f"{name}: {text[:1].lower()}{text[1:]}"


def _signature(kind: Any, returned: Any) -> Signature:
    hints, given = get_type_hints(kind), signature(kind)
    parameters = [given.parameters[name].replace(annotation=hints[name]) for name in given.parameters]
    return given.replace(parameters=parameters, return_annotation=returned)


def _wrong_argument(error: ValidationError, kind: Any) -> WrongType:
    """Return what is wrong with the first argument that is: `limit: Input should be a valid integer (got str 'x')`."""
    detail = error.errors(include_url=False, include_context=False)[0]
    place = detail["loc"][0]
    name = list(signature(kind).parameters)[place] if isinstance(place, int) else place
    message = detail["msg"].removeprefix("Value error, ")
    if "missing" in detail["type"]:
        return WrongType(f"{name} is missing", code="wrong-type")
    value = detail["input"]
    shown = f" {value!r:.40}" if isinstance(value, str | bytes | int | float) else ""
    return WrongType(f"{name}: {message} (got {type(value).__name__}{shown})", code="wrong-type")
