"""The user's folder for what can be made again: downloads, and the norms of base weights."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return `$GRADIENCE_CACHE`, else `$XDG_CACHE_HOME/gradience`, else `~/.cache/gradience`."""
    if chosen := os.environ.get("GRADIENCE_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "gradience"
