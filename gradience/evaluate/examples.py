"""What an example must have to be evaluated. The tasks of Bench have their own classes, and so may anybody."""

from __future__ import annotations

from typing import Protocol


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
    """A prompt and the response whose likelihood is asked for, its leading space included."""

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
