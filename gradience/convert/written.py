"""What a writer of a format gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from gradience.adapters.adapter import Adapter, LoraPair
from gradience.adapters.inventory import SkippedTensor
from gradience.errors import InputError


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


def require_scale(opened: Adapter, pair: LoraPair) -> float:
    """The scale of a module. Raises InputError (no-config) where the adapter does not tell."""
    if pair.scale is None:
        raise InputError(
            f"{opened.location.path}: the scale of {pair.module} is not known: no config beside the weights tells it",
            code="no-config",
            hint="put the adapter_config.json beside the weights",
        )
    return pair.scale
