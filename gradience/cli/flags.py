"""The flags of a verb, from its settings: `@with_flags(EvaluateSettings)` above the function of the verb.

The settings are declared once (`gradience/settings.py`); here they become what typer reads. A flag that is not given is
no setting: then the default of the settings counts, or what a YAML file says.
"""

from __future__ import annotations

import inspect
import os
import types
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from gradience.reports.base.exact import exact_text
from gradience.settings import Flag, fields_of, flag_of, section_of_field

TYPER: Mapping[Any, Any] = {bool: bool, int: int, float: float, str: str}


Run = Callable[..., int | None]


def with_flags(settings: type) -> Callable[[Run], Run]:
    """Put the flags of `settings` before those of a verb, whose first argument is a dict of those that were given."""

    def decorate(verb: Run) -> Run:
        hints = get_type_hints(verb, include_extras=True)
        parameters = [
            parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in list(inspect.signature(verb).parameters.items())[1:]
        ]
        flags = [
            _parameter(settings, name, field)
            for name, field in fields_of(settings).items()
            if name != "folder"
        ]

        def command(**values: Any) -> int | None:
            given = {flag.name: values.pop(flag.name) for flag in flags}
            return verb(
                {name: value for name, value in given.items() if value not in (None, [], False)}, **values
            )

        # Arguments first, as they are typed.
        flags.sort(
            key=lambda flag: not isinstance(flag.annotation.__metadata__[0], typer.models.ArgumentInfo)
        )
        command.__signature__ = inspect.Signature([*flags, *parameters])  # type: ignore[attr-defined]
        command.__annotations__ = {
            parameter.name: parameter.annotation for parameter in (*flags, *parameters)
        }
        command.__name__, command.__doc__ = verb.__name__, verb.__doc__
        command.__module__ = verb.__module__
        return command

    return decorate


def _parameter(settings: type, name: str, field: FieldInfo) -> inspect.Parameter:
    look = next((item for item in field.metadata if isinstance(item, Flag)), Flag())
    kind, values = (str, ()) if look.text else _typer_type(field.annotation)
    help_text = _help(field, values)
    if _is_argument(settings, name):
        needed = field.is_required()
        info: Any = typer.Argument(metavar=look.metavar or None, help=help_text)
        annotation: Any = Annotated[kind if needed else kind | None, info]
    else:
        words = [flag_of(name, field), *([look.short] if look.short else [])]
        info = typer.Option(
            *words,
            metavar=look.metavar or ("" if kind is bool else None),
            help=help_text,
            min=_least(field) if kind is int else None,
            autocompletion=_completion(look.values or (lambda: values)) if look.values or values else None,
            rich_help_panel=section_of_field(settings, name),
        )
        annotation = Annotated[bool if kind is bool else kind | None, info]
    default: Any = False if kind is bool else None
    if field.is_required():
        default = inspect.Parameter.empty
        annotation = Annotated[kind, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _is_argument(settings: type, name: str) -> bool:
    """Whether a setting is positional in Python, and so on the command line; `output` is always a flag."""
    parameter = inspect.signature(settings).parameters[name]
    return parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and name != "output"


def _typer_type(annotation: Any) -> tuple[Any, tuple[str, ...]]:
    """Return what typer reads for a setting, and the values that it may have, where they are a closed set."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _typer_type(arguments[0])
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not types.NoneType]
        if any(_is_path(kind) for kind in kinds):
            return Path, ()
        return _typer_type(kinds[0]) if len(kinds) == 1 else (str, ())
    if origin is Literal:
        return str, arguments
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return list[str], ()
    if origin is not None:  # a sequence: of paths an argument, of ranks one text
        return (list[Path], ()) if any(_is_path(kind) for kind in _parts(arguments[0])) else (str, ())
    return TYPER.get(annotation, str), ()


def _least(field: FieldInfo) -> int | None:
    """Return the smallest value of `Annotated[int, Field(ge=1)]`, optional or not."""
    inner = [item for part in get_args(field.annotation) for item in getattr(part, "__metadata__", ())]
    bounds = [*field.metadata, *(bound for item in inner for bound in getattr(item, "metadata", ()))]
    return next((bound.ge for bound in bounds if hasattr(bound, "ge")), None)


def _parts(annotation: Any) -> tuple[Any, ...]:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_args(annotation) or (annotation,)


def _is_path(kind: Any) -> bool:
    return any(inspect.isclass(each) and issubclass(each, os.PathLike) for each in (kind, get_origin(kind)))


def _help(field: FieldInfo, values: tuple[str, ...]) -> str:
    """The docstring of a setting, the values that it takes, and its default."""
    text = " ".join((field.description or "").split()).replace("`", "")
    more = [*([", ".join(map(str, values))] if len(values) > 1 else [])]
    if (
        not field.is_required()
        and field.default_factory is None
        and field.default not in (None, False, (), "")
    ):
        default = exact_text(field.default) if isinstance(field.default, Fraction) else field.default
        more.append(f"default: {default}")
    return f"{text.removesuffix('.')} ({'; '.join(more)})." if more else text


def _completion(values: Callable[[], Any]) -> Callable[[str], list[str]]:
    return lambda incomplete: [value for value in values() if value.startswith(incomplete)]
