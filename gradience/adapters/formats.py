"""Every format that is read, and the one way to open an adapter.

A new format is a file beside `mlx.py` with a function that returns an `Adapter`, and a line in `FORMATS`. Where a
format has settings of its own, it translates them to those of PEFT (`PeftConfig`), which all verbs know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from gradience.adapters.adapter import Adapter
from gradience.adapters.diffusers import is_diffusers, open_diffusers
from gradience.adapters.gguf import is_gguf, open_gguf
from gradience.adapters.kohya import is_kohya, open_kohya
from gradience.adapters.mlx import is_mlx, open_mlx
from gradience.adapters.pairs import WORDS, Pairs, open_pairs
from gradience.adapters.peft import open_peft
from gradience.errors import InputError


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
    "mlx": Format(is_mlx, open_mlx, {"mlx": "MLX-LM LoRA"}),
    "gguf": Format(is_gguf, open_gguf, {"gguf": "GGUF LoRA"}),
    "diffusers": Format(is_diffusers, open_diffusers, {"diffusers": "diffusers LoRA"}),
    "kohya": Format(is_kohya, open_kohya, {"kohya": "kohya LoRA"}),
    "peft": Format(
        lambda path: True,  # last: it also says what else a path holds
        open_peft,
        {"peft": "PEFT LoRA", "safetensors": "LoRA from a single safetensors file"},
    ),
}


def open_adapter(path: Path, *, adapter: str | None = None, pairs: Pairs | None = None) -> Adapter:
    """Open the adapter at `path`, whatever its format. Close it with `with`.

    adapter: name of one, where several lie in a folder or a file.
    pairs: how the factors of a home-made file are called: then it is of no format. Raises InputError.
    """
    if pairs is not None:
        return open_pairs(path, adapter, pairs)
    chosen = next(form for form in FORMATS.values() if form.recognises(path))
    return chosen.open(path, adapter)


def require_peft(opened: Adapter) -> None:
    """Raise InputError (not-peft-format) for an adapter that PEFT does not load into a model as it is."""
    if opened.of_peft:
        return
    raise InputError(
        f"{opened.location.path}: {words_of(opened.format)}: only adapters in PEFT's format are put on a model",
        code="not-peft-format",
        hint="make one of it first: gradience compress ADAPTER --rank R --output NEW"
        if opened.unwritable is None
        else "train it with PEFT to evaluate it here",
    )


def words_of(name: str) -> str:
    """Return what reports call an adapter whose `Adapter.format` is `name`; one that is unknown here, by that name."""
    words = (form.get(name) for form in (WORDS, *(each.words for each in FORMATS.values())))
    return next(filter(None, words), f"LoRA of the format {name}")
