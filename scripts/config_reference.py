"""docs/reference/configs.md: every key of a Bench config, and every other name that is understood."""

import inspect
import os
import types
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from gradience.bench.config import INSTEAD, BenchConfig, OneOf
from gradience.evaluate.settings import EvaluateSettings
from gradience.reports.base.exact import exact_text
from gradience.settings import help_of, keys_of, section_of


def config_keys() -> str:
    """A table for each section, its own section of the page."""
    return "\n\n".join(_tables(BenchConfig, ""))


def evaluation_keys() -> str:
    """The table of a config of `gradience evaluate`."""
    rows = [
        (name, _default(field), _kind(field.annotation), help_of(EvaluateSettings, name))
        for name, field in keys_of(EvaluateSettings).items()
    ]
    return _table(("key", "default", "type", "meaning"), rows)


def config_dialects() -> str:
    """The table of names that are refused with ours named."""
    return _table(("key", "our name"), [(key, f"`{name}`") for key, name in INSTEAD.items()])


def _tables(model: type[BaseModel], name: str) -> Iterator[str]:
    before = f"{name}." if name else ""
    sections = {key: section_of(model, key) or _optional(field) for key, field in model.model_fields.items()}
    rows = [
        (
            before + key,
            _default(field),
            "the keys below" if sections[key] else _kind(field.annotation),
            " ".join((field.description or "").split()),
        )
        for key, field in model.model_fields.items()
        if sections[key] is None or field.default is None
    ]
    if name:
        yield f"### {name}"
        yield " ".join((inspect.getdoc(model) or "").split())
    if rows:
        yield _table(("key", "default", "type", "meaning"), rows)
    for key, section in sections.items():
        named = ".NAME" if get_origin(model.model_fields[key].annotation) is dict else ""
        if section is not None:
            yield from _tables(section, f"{before}{key}{named}")


def _optional(field: Any) -> type[BaseModel] | None:
    """The model of a section that may be left out: it has a row of its own, which says what is so without it."""
    kinds = [
        kind for kind in get_args(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)
    ]
    return kinds[0] if kinds else None


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for key, *cells in rows:
        lines.append(f"| `{key}` | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _default(field: Any) -> str:
    if field.default_factory is not None:
        return f"`{_shown(field.default_factory())}`"
    if field.default is PydanticUndefined:
        return "**required**"
    return "" if field.default is None else f"`{_shown(field.default)}`"


def _shown(value: Any) -> str:
    """As YAML would say it."""
    if isinstance(value, Fraction):
        return exact_text(value)
    if isinstance(value, tuple | list):
        shown = list(value) if len(value) <= 8 else [*value[:5], "…", value[-1]]
        return f"[{', '.join(map(_shown, shown))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "{}" if value == {} else str(value)


def _kind(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        tables = [each.func.table for each in arguments[1:] if isinstance(getattr(each, "func", None), OneOf)]
        return ", ".join(f"`{name}`" for name in tables[0]) if tables else _kind(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        kinds = dict.fromkeys(_kind(item) for item in arguments if item is not type(None))
        covered = {"path": "text", "number": "exact number"}
        hidden = {"", *(less for more, less in covered.items() if more in kinds)}
        return " or ".join(kind for kind in kinds if kind not in hidden)
    if origin in (tuple, list, Sequence):
        kind = _kind(arguments[0])
        return f"list of {kind}s" if kind.isalpha() else f"list of {kind}"
    if origin in (dict, Mapping):
        return "map"
    if origin is os.PathLike:
        return "path"
    names = {
        int: "integer",
        float: "number",
        Fraction: "exact number",
        str: "text",
        Path: "path",
        bool: "true or false",
    }
    return names.get(annotation, "")
