"""Settings of reading adapters that several verbs share."""

import re
from typing import Annotated

from gradience.errors import UsageError
from gradience.progress import Progress
from gradience.settings import Flag, Integer, Internal, PythonOnly, settings_model


def bytes_of(text: str) -> int:
    """Return a size such as `2GB`, `800 MB` or `1500000` in bytes. Raises UsageError (`bad-size`)."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?) ?([kmgt]?)b?", text.strip(), re.ASCII | re.IGNORECASE)
    size = match and int(float(match[1]) * 1000 ** " kmgt".index(match[2].lower() or " "))
    if not size:
        raise UsageError(
            f"{text!r} is not a size",
            code="bad-size",
            hint="give a number with a unit, such as --max-memory 2GB",
        )
    return size


@settings_model(kw_only=True)
class ReadSettings:
    """Reading adapters."""

    allow_pickle: bool = False
    """Read pickles (.bin, .pt) too, in a sandboxed process (needs PyTorch 2.10)."""
    command: Annotated[str, Internal] = ""
    """The command line that the report names."""


@settings_model(kw_only=True)
class WorkSettings(ReadSettings):
    """Memory."""

    max_memory: Annotated[Integer | None, Flag("SIZE", read=bytes_of)] = None
    """Refuse an adapter that needs more memory (default: 500MB or, if larger, eight times its files, up to
    half of the machine's memory)."""
    workers: Annotated[Integer | None, PythonOnly] = None
    """Modules at a time; the processor count by default. The result does not depend on it."""
    progress: Annotated[Progress | None, PythonOnly] = None
    """A callback after each module: progress(done, total)."""


@settings_model(kw_only=True)
class NameSettings:
    """Reading adapters."""

    adapter: Annotated[str | None, Flag("NAME")] = None
    """Name of the adapter, if a folder or file holds several."""
