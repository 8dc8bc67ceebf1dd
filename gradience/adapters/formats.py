"""Every format that is read, and the one way to open an adapter.

A new format is a file beside `peft.py` with a function that returns an `Adapter`, and a line in `FORMATS`. Where a
format has settings of its own, it translates them to those of PEFT (`PeftConfig`), which all verbs know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from gradience.adapters.adapter import Adapter
from gradience.adapters.peft import open_peft


class Format(NamedTuple):
    """One format of adapters.

    recognises: whether a file or folder is of this format, from a look at its names.
    open: (path, name of one of several adapters) -> the open adapter.
    words: each `Adapter.format` that `open` gives -> what reports call such an adapter.
    """

    recognises: Callable[[Path], bool]
    open: Callable[[Path, str | None], Adapter]
    words: Mapping[str, str]


FORMATS: dict[str, Format] = {
    "peft": Format(
        lambda path: True,  # last: it also says what else a path holds
        open_peft,
        {"peft": "PEFT LoRA", "safetensors": "LoRA from a single safetensors file"},
    ),
}


def open_adapter(path: Path, *, adapter: str | None = None) -> Adapter:
    """Open the adapter at `path`, whatever its format. Close it with `with`.

    adapter: name of one, where several lie in a folder or a file. Raises InputError.
    """
    chosen = next(form for form in FORMATS.values() if form.recognises(path))
    return chosen.open(path, adapter)


def words_of(name: str) -> str:
    """Return what reports call an adapter whose `Adapter.format` is `name`; one that is unknown here, by that name."""
    words = (form.words.get(name) for form in FORMATS.values())
    return next(filter(None, words), f"LoRA of the format {name}")
