"""Paths and commands in artifacts, which are made to be shared: no secret, only the last part of an absolute path."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator

from gradience.redaction import REDACTED, SECRET_FIELDS, shareable, without_secrets

ABSOLUTE = re.compile(r"[/~\\]|[A-Za-z]:[\\/]|file:/")
IN_A_SETTING = re.compile(r"(?<=[=\[,{:\s'\"])(?!//)(?:[/~\\]|file:/)[^,\]}'\"]*")
"""An absolute path inside an argument, after a quote or separator; `://` of an address does not count."""
IN_A_SENTENCE = re.compile(r"(?<![^\s'\"(\[=,])(?:/|~/|file:/)[^\s:,;'\"()\[\]]+")
HOMES = ("home", "users")
"""Folders of home folders."""


def plain_name(name: str) -> str:
    """Return the name of a file below a folder. Raises ValueError for one that could lead out of it.

    >>> plain_name("seed_42/bench.json")
    'seed_42/bench.json'
    """
    if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"{name[:80]!r} is not a plain relative name")
    return name


PlainName = Annotated[str, AfterValidator(plain_name)]
"""In files that name others."""


def given_text(path: str | os.PathLike[str]) -> str:
    """Return a path as it was given, for a screen: bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def path_text(path: str | os.PathLike[str]) -> str:
    """Return a path in the form used in shared artifacts, because parent folders often contain a person's
    name.

    A relative path stays as given; an absolute path becomes its last part, and a home folder becomes `~`.

    >>> path_text("runs/mine"), path_text("/home/alice/models/mistral"), path_text("/home/alice")
    ('runs/mine', 'mistral', '~')
    """
    text = without_secrets(given_text(path))
    if not ABSOLUTE.match(text):
        return shareable(text)
    separators = r"[\\/]+" if text[:1] not in "/~f" else "/+"  # a backslash may stand in a name of POSIX
    parts = [part for part in re.split(separators, text) if part]
    if len(parts) < 2:
        return "~" if text.startswith("~") else text
    return "~" if parts[-2].casefold() in HOMES else parts[-1]


def command_text(arguments: Sequence[str]) -> str:
    """A command as it could be typed again, with its paths as `path_text` has them."""
    return shlex.join(_argument_text(argument) for argument in arguments)


def _argument_text(argument: str) -> str:
    """An argument: a path, `--option=path`, `key=path`, or a list of paths in a setting."""
    if ABSOLUTE.match(argument):
        return path_text(argument)
    name, sign, value = argument.partition("=")
    if sign and ABSOLUTE.match(value):
        return shareable(f"{name}={path_text(value)}")
    return shareable(IN_A_SETTING.sub(lambda match: path_text(match[0]), given_text(argument)))


def values_text(value: Any) -> Any:
    """A value of a config with every text in it, at any depth, as `path_text` has it."""
    if isinstance(value, str):
        return path_text(value)
    if isinstance(value, Mapping):
        return {
            key: REDACTED if isinstance(item, str) and SECRET_FIELDS.search(str(key)) else values_text(item)
            for key, item in value.items()
        }
    return [values_text(item) for item in value] if isinstance(value, (list, tuple)) else value


def sentence_text(text: str) -> str:
    """A sentence, such as an error's, with the absolute paths in it as `path_text` has them.

    >>> sentence_text("/home/alice/data.csv: no such file")
    'data.csv: no such file'
    """
    text = text.encode("utf-8", "backslashreplace").decode()  # a path in it may have bytes that are no UTF-8
    return shareable(IN_A_SENTENCE.sub(lambda match: path_text(match[0]), text))
