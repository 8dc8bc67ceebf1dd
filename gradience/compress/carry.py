"""The other files of an adapter's folder: carried over, but for what describes or is the old weights."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from gradience.adapters.files import PICKLE_STARTS, open_regular, pread, pread_blocks
from gradience.adapters.locate import CONFIG, INDEX, WEIGHTS, Location
from gradience.errors import InputError

PICKLE_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
"""What torch and others pickle: code to whoever opens it, weights of the old shapes, the state of a training."""
PICKLED_BINS = ("adapter_model", "pytorch_model", "training_args", "optimizer", "scheduler", "scaler")
"""How the names of pickles that end in .bin begin."""
REPORTS = ("compression_report.json", "compression_report.md")


def carry_files(location: Location, target: Path) -> tuple[list[str], list[str]]:
    """Copy the files beside the weights of an adapter; names of the copied ones and of those left out.

    Neither: the weights and the config, which the caller writes. Left out are pickles (training state and weights of
    the old shapes among them), reports of an earlier compression, sub-folders, hidden files, pipes, and links that
    lead elsewhere.
    Raises InputError for a file that cannot be read.
    """
    carried, left = [], []
    folder = location.weights[0].parent
    sources = (*location.weights, *filter(None, [location.config]))
    ours = {CONFIG, INDEX, WEIGHTS, *(path.name for path in sources)}
    for entry in sorted(folder.iterdir()):
        if entry.name in ours:
            continue
        if _carries(entry) and _copy(entry, target / entry.name, root=location.root):
            carried.append(entry.name)
        else:
            left.append(entry.name + "/" if entry.is_dir() else entry.name)
    return carried, left


def _carries(entry: Path) -> bool:
    name = entry.name
    return entry.is_file() and not (
        name.startswith(".")
        or name.lower().endswith(PICKLE_SUFFIXES)
        or (name.startswith(PICKLED_BINS) and name.endswith(".bin"))
        or name in REPORTS
        or (name.startswith("adapter_model") and name.endswith((".safetensors", ".safetensors.index.json")))
    )


def _copy(source: Path, target: Path, *, root: Path) -> bool:
    """False for a link that leads out of `root`, and for a pickle."""
    try:
        handle = open_regular(source, root=root)
    except InputError as error:
        if error.code == "symlink-outside":
            return False
        raise
    try:
        size = os.fstat(handle).st_size
        head = bytes(pread(handle, min(2, size), 0, source))
        if head in PICKLE_STARTS or (head == b"PK" and (source.suffix == ".bin" or _holds_pickle(handle))):
            return False
        with open(target, "xb") as file:
            for block in pread_blocks(handle, size, 0, source):
                file.write(block)
    finally:
        os.close(handle)
    return True


def _holds_pickle(handle: int) -> bool:
    """Whether an archive holds a pickle, as what torch.save writes does (archive/data.pkl)."""
    try:
        with os.fdopen(os.dup(handle), "rb") as file, zipfile.ZipFile(file) as archive:
            return any(name.lower().endswith(PICKLE_SUFFIXES) for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False
