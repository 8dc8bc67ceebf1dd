"""Flags of a verb from its settings: each parameter of its function whose type is a settings model becomes its flags.

The settings are declared once (`gradience/settings.py`); here they become what typer reads. A flag that is not given is
no setting: then the default of the settings counts, or what a YAML file says.
"""

import ast
import inspect
import os
import re
import types
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from gradience.reports.base.exact import exact_text
from gradience.settings import (
    fields_of,
    flag_of,
    help_of,
    look_of,
    parameters_of,
    section_of_field,
    settings_of,
)

TYPER: Mapping[Any, Any] = {bool: bool, int: int, float: float, str: str}
Function = Callable[..., int | None]


def with_flags(verb: Function) -> Function:
    """Return what typer calls for the function of a verb, such as `evaluate(settings: EvaluateSettings, out: Output)`.

    A parameter `Annotated[dict[str, Any], EvaluateSettings]` gets what was given, by the names of the settings.
    """
    hints = get_type_hints(verb, include_extras=True)
    flags: dict[str, list[inspect.Parameter]] = {}
    plain: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(verb).parameters.items():
        kind = _settings_in(hints[name])
        if kind is None:
            plain.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
        else:
            fields = fields_of(kind)
            flags[name] = [
                _parameter(kind, field, fields[field])
                for field in fields
                if not look_of(fields[field]).key_only
            ]

    def command(**values: Any) -> int | None:
        for name, parameters in flags.items():
            kind = _settings_in(hints[name])
            texts = {flag.name: values.pop(flag.name) for flag in parameters}
            given = {
                field: _read(kind, field, value)
                for field, value in texts.items()
                if value is not None and value is not False and value != []
            }
            values[name] = given if get_origin(hints[name]) is Annotated else settings_of(kind, given)
        return verb(**values)

    # Arguments first, as they are typed.
    parameters = sorted(
        [*(flag for its in flags.values() for flag in its), *plain],
        key=lambda flag: not isinstance(flag.annotation.__metadata__[0], typer.models.ArgumentInfo),
    )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__name__, command.__doc__, command.__module__ = verb.__name__, verb.__doc__, verb.__module__
    return command


def _settings_in(annotation: Any) -> Any:
    """Return the settings model that a parameter is annotated with; None for a parameter of typer's."""
    kinds = (annotation, *getattr(annotation, "__metadata__", ()))
    return next((kind for kind in kinds if hasattr(kind, "__pydantic_fields__")), None)


def _read(kind: Any, name: str, value: Any) -> Any:
    read = look_of(fields_of(kind)[name]).read
    return value if read is None else read(value)


def _parameter(settings: type, name: str, field: FieldInfo) -> inspect.Parameter:
    look = look_of(field)
    kind, values = (str, ()) if look.text or look.read else _typer_type(field.annotation)
    help_text = _help(_as_typed(help_of(settings, name), settings), field, values)
    if look.positional or _is_argument(settings, name):
        needed = field.is_required()
        info: Any = typer.Argument(metavar=look.metavar or None, help=help_text)
        annotation: Any = Annotated[kind if needed else kind | None, info]
    else:
        words = [flag_of(name, field), *([look.short] if look.short else [])]
        complete = look.values or (lambda: values if len(values) > 1 else ())
        info = typer.Option(
            *words,
            metavar=look.metavar or ("" if kind is bool else None),
            help=help_text,
            min=_least(field) if kind in (int, float) else None,
            autocompletion=_completion(complete) if look.values or values else None,
            rich_help_panel=section_of_field(settings, name),
        )
        annotation = Annotated[bool if kind is bool else kind | None, info]
    default: Any = False if kind is bool else None
    if field.is_required():
        default = inspect.Parameter.empty
        annotation = Annotated[kind, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _is_argument(settings: type, name: str) -> bool:
    """True if a setting is positional in Python, and so on the command line; `output` is always a flag."""
    positional = parameters_of(settings)[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    return positional and name != "output"


def _typer_type(annotation: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the type that typer reads for a setting, and its allowed values if they are a closed set."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _typer_type(arguments[0])
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not types.NoneType]
        read = [_typer_type(kind)[0] for kind in kinds]
        for kind in (list[Path], list[str], Path):
            if kind in read:
                return kind, ()
        return _typer_type(kinds[0]) if len(kinds) == 1 else (str, ())
    if origin is Literal:
        return str, arguments
    if origin is tuple and len(arguments) == 2 and arguments[1] is not Ellipsis:
        return tuple[arguments], ()  # type: ignore[valid-type]
    if any(inspect.isclass(kind) and issubclass(kind, os.PathLike) for kind in (annotation, origin)):
        return Path, ()
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return list[str], ()
    if origin is not None:  # a sequence: ranks are one text, anything else is given several times
        (element, _) = _typer_type(arguments[0])
        return (str if element is int else list[element]), ()  # type: ignore[valid-type]
    return TYPER.get(annotation, str), ()


def _least(field: FieldInfo) -> int | None:
    """Return the smallest value of `Annotated[int, Field(ge=1)]`, optional or not."""
    inner = [item for part in get_args(field.annotation) for item in getattr(part, "__metadata__", ())]
    bounds = [*field.metadata, *(bound for item in inner for bound in getattr(item, "metadata", ()))]
    return next((bound.ge for bound in bounds if hasattr(bound, "ge")), None)


def _as_typed(text: str, settings: type) -> str:
    """Return a docstring as the command line shows it: `dry_run` as --dry-run, `{"a": 1}` as a=1, `[8, 4]` as 8,4."""
    known = fields_of(settings)

    def typed(match: re.Match[str]) -> str:
        word = match[1]
        if word in known:
            return flag_of(word, known[word])
        if word[0] not in "{[":
            return word
        value = ast.literal_eval(word)
        return ",".join(f"{key}={value[key]}" if isinstance(value, dict) else str(key) for key in value)

    return re.sub(r"`([^`]+)`", typed, text)


def _help(text: str, field: FieldInfo, values: tuple[str, ...]) -> str:
    """The docstring of a setting, the values that it takes, and its default."""
    more = [*([", ".join(map(str, values))] if len(values) > 1 else [])]
    if (
        not field.is_required()
        and field.default_factory is None
        and field.default not in (None, False, (), "")
    ):
        default = exact_text(field.default) if isinstance(field.default, Fraction) else field.default
        more.append(f"default: {default}")
    return f"{text.removesuffix('.')} ({'; '.join(more)})." if more else text


def _completion(values: Callable[[], Any]) -> Callable[[str], list[Any]]:
    """Complete names, or pairs of a name and what it is."""

    def complete(incomplete: str) -> list[Any]:
        named = [(value if isinstance(value, str) else value[0], value) for value in values()]
        return [value for name, value in named if name.startswith(incomplete)]

    return complete
