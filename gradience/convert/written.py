"""What a writer of a format gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from gradience.adapters.adapter import Adapter
from gradience.adapters.inventory import SkippedTensor


class Written(NamedTuple):
    """The weights as written.

    sha256, bytes: of the file of weights.   tensors: in it.   renamed: how many have another name than they had.
    left_out: tensors of the source that the target does not hold, with reasons.
    modules: each module -> what it is called there, where that is not its name.
    """

    sha256: str
    bytes: int
    tensors: int
    renamed: int
    left_out: tuple[SkippedTensor, ...] = ()
    modules: Mapping[str, str] = MappingProxyType({})


class Target(NamedTuple):
    """A format that is written.

    words: what a folder of it holds.
    write: (open adapter, new folder, folder of the base model) -> what was written there. Raises InputError for what
        the format cannot hold.
    asks_base: whether `write` looks at the base model.
    """

    words: str
    write: Callable[[Adapter, Path, Path | None], Written]
    asks_base: bool = False
