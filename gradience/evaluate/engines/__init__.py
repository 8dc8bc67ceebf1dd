"""Engines: what loads a base and its adapters, and answers a batch of examples. One name, one class each."""

from __future__ import annotations

from pkgutil import resolve_name

from gradience.errors import UsageError, require
from gradience.evaluate.engines.base import Engine

ENGINES = {
    "transformers": "gradience.evaluate.engines.transformers:TransformersEngine",
    "vllm": "gradience.evaluate.engines.vllm:VllmEngine",
}
"""Name -> `module:class`, imported by `engine`."""
OURS = frozenset(ENGINES)
"""Engines that read adapters from the disk, which is known before one is imported."""


def engine(name: str = "transformers") -> type[Engine]:
    """Import and return the engine registered as `name`. Raises UsageError (`unknown-engine`), MissingExtra."""
    if name not in ENGINES:
        raise UsageError(
            f"there is no engine `{name}`",
            code="unknown-engine",
            hint=f"use {' or '.join(ENGINES)}",
        )
    try:
        engine_class: type[Engine] = resolve_name(ENGINES[name])
    except ModuleNotFoundError as error:
        require(error.name or name, extra="hf")
        raise
    return engine_class
