"""Cases in which the audit refuses its input: how each is made, and the message that the user must get."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

Build = Callable[[Path], Path]


class Refusal(NamedTuple):
    """One way in which an input can be unusable.

    build: makes it in an empty folder and returns the path to audit.
    file: name of the file or folder that the message must name.
    says, hint: words of the message and of the hint.   options: further arguments.   code: exit code.
    """

    id: str
    build: Build
    file: str
    says: tuple[str, ...]
    hint: tuple[str, ...]
    options: tuple[str, ...]
    code: int


class Cases(list[Refusal]):
    """A list that grows by decorating the functions that build the inputs."""

    def refused(
        self, file: str, *says: str, hint: str | tuple[str, ...], options: tuple[str, ...] = (), code: int = 3
    ) -> Callable[[Build], Build]:
        """The decorated function builds an input that must be refused with these words."""

        def register(build: Build) -> Build:
            hints = (hint,) if isinstance(hint, str) else hint
            self.append(Refusal(build.__name__, build, file, says, hints, options, code))
            return build

        return register
