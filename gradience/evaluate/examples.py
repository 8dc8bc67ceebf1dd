"""What an example must have to be evaluated, whatever its class (that of a task, or a user's)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from gradience.errors import UsageError
from gradience.evaluate.engines.base import Engine


class LabelledText(Protocol):
    """A text and the index of its label. It may also have a `text_pair`: the second of two texts, or None."""

    @property
    def id(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def label(self) -> int: ...


class Prompted(Protocol):
    """A prompt and the gold answer that an output must hold."""

    @property
    def id(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def answer(self) -> str: ...


class Answered(Protocol):
    """A prompt and the response that is scored, its leading space included."""

    @property
    def id(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def response(self) -> str: ...


def pair_of(example: LabelledText) -> str | None:
    """The second text of `example`, where it has one."""
    second: str | None = getattr(example, "text_pair", None)
    return second


def whole_text(example: LabelledText) -> str:
    """Both texts of `example` as one, to sort and to hash."""
    second = pair_of(example)
    return example.text if second is None else f"{example.text}\0{second}"


def require_examples(examples: Sequence[Any], engine: Engine, *, classifies: bool) -> None:
    """Raise UsageError when there are none (`no-examples`) or the base is of the other kind (`wrong-model`)."""
    if not examples:
        raise UsageError("there is no example to evaluate", code="no-examples")
    if engine.classifies != classifies:
        kinds = ("a language model", "a sequence classifier")
        raise UsageError(
            f"{engine.facts['base']} was loaded as {kinds[engine.classifies]}; this evaluation needs"
            f" {kinds[classifies]}",
            code="wrong-model",
            hint="load a classifier with the engine's `load(..., labels=N)`, a language model without labels",
        )
