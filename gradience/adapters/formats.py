"""Every format that is read, and the one way to open an adapter.

A new format is a file beside `peft.py` with a function that returns an `Adapter`, and a line in `FORMATS`. Where a
format has settings of its own, it translates them to those of PEFT (`PeftConfig`), which all verbs know.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gradience.adapters.adapter import Adapter
from gradience.adapters.peft import open_peft


class Format(NamedTuple):
    """One format of adapters.

    recognises: whether a file or folder is of this format, from a look at its names.
    open: (path, name of one of several adapters) -> the open adapter.
    """

    recognises: Callable[[Path], bool]
    open: Callable[[Path, str | None], Adapter]


FORMATS: dict[str, Format] = {
    "peft": Format(lambda path: True, open_peft),  # last: it also says what else a path holds
}


def open_adapter(path: Path, *, adapter: str | None = None) -> Adapter:
    """Open the adapter at `path`, whatever its format. Close it with `with`.

    adapter: name of one, where several lie in a folder or a file. Raises InputError.
    """
    chosen = next(form for form in FORMATS.values() if form.recognises(path))
    return chosen.open(path, adapter)
