"""The base model that a compression is told of: a folder here, or the files that are needed of one on the hub."""

from __future__ import annotations

import os
from pathlib import Path

from gradience.hub.address import address_of
from gradience.hub.client import fetch_folder

_CONFIG = ("config.json",)
_WEIGHTS = ("config.json", "*.safetensors", "*.safetensors.index.json")


def base_folder(name: str | os.PathLike[str], *, weights: bool = False) -> Path:
    """Return the folder of a base model. weights: those as well, and not its config alone.

    Raises what `fetch_folder` raises for a name on the hub, UsageError (`bad-address`).
    """
    address = address_of(name)
    return Path(name) if address is None else fetch_folder(address, _WEIGHTS if weights else _CONFIG)[0]
