"""Engines: what loads a base and its adapters, and answers a batch of examples. One name, one class each."""

from pkgutil import resolve_name

from gradience.errors import UsageError, require
from gradience.evaluate.engines.base import Engine

ENGINES = {
    "transformers": "gradience.evaluate.engines.transformers.engine:TransformersEngine",
    "vllm": "gradience.evaluate.engines.vllm.engine:VllmEngine",
    "openai": "gradience.evaluate.engines.openai:OpenAIEngine",
}
"""Name -> `module:class`, imported by `engine`."""
OURS = frozenset({"transformers", "vllm"})
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
        require(error.name or name, extra="server" if error.name == "urllib3" else "hf")
        raise
    return engine_class


def require_local(name: str) -> None:
    """Raise UsageError (`engine-cannot`) for an engine that cannot load an adapter made on this machine."""
    if name not in OURS and not engine(name).local:
        raise UsageError(
            f"the engine {name} cannot be used here: its server does not have the adapters that are made in this run",
            code="engine-cannot",
            hint=f"use {' or '.join(sorted(OURS))}",
        )
