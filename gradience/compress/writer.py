"""Writing an adapter's files: tensor by tensor, the config changed where it must be, everything else carried over."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gradience.adapters.adapter import Adapter
from gradience.adapters.config import PeftConfig
from gradience.adapters.files import PICKLE_STARTS, open_regular, pread
from gradience.adapters.locate import CONFIG, INDEX, WEIGHTS, Location
from gradience.adapters.tensors import NewTensor, header_bytes, layout
from gradience.digests import Sha256
from gradience.errors import InputError

COPY_BLOCK = 4 * 2**20
PICKLE_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
"""What torch and others pickle: code to whoever opens it, weights of the old shapes, the state of a training."""
PICKLED_BINS = ("adapter_model", "pytorch_model", "training_args", "optimizer", "scheduler", "scaler")
"""How the names of pickles that end in .bin begin."""
REPORTS = ("compression_report.json", "compression_report.md")


class WeightsWriter:
    """Writes one safetensors file: the header first, then every tensor in the order of `names`.

    Use as a context manager, in a folder that is synced before it gets its name (`whole_folder`).
    size, sha256: of what was written.
    """

    def __init__(self, path: Path, tensors: Mapping[str, NewTensor], metadata: Mapping[str, str]) -> None:
        ordered = layout(tensors)
        self.names: tuple[str, ...] = tuple(ordered)
        self.size = 0
        self._digest = Sha256()
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 (__exit__ closes it)
        self._head = header_bytes(ordered, metadata)

    def __enter__(self) -> Self:
        self.put(self._head)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes of the next tensor. Raises OSError."""
        view = memoryview(data)
        self._digest.update(view)
        self.size += len(view)
        while view:
            view = view[self._file.write(view) :]

    def close(self) -> str:
        """Close the file; the digest of what was written. Raises OSError."""
        self._file.close()
        return self._digest.hexdigest()


# ---------------------------------------------------------------- the other files


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
            for start in range(0, size, COPY_BLOCK):
                file.write(pread(handle, min(COPY_BLOCK, size - start), start, source))
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


# ---------------------------------------------------------------- adapter_config.json


def require_config(opened: Adapter) -> PeftConfig:
    """The config. Raises InputError (code no-config) where there is no config."""
    if opened.config is None:
        raise InputError(
            f"{opened.location.path}: no adapter_config.json beside the weights: without α no smaller adapter "
            "can be written",
            code="no-config",
            hint="put the adapter_config.json beside the weights",
        )
    return opened.config


def merged_fields(old: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in their order, with `changes`. An absent or empty field stays so where nothing else is meant."""
    changed = {name: value for name, value in changes.items() if value or old.get(name)}
    return {**old, **{name: value for name, value in changed.items() if not _equal(old.get(name), value)}}


def _equal(old: Any, new: Any) -> bool:
    """The same value of the same type: a written α of 16.0 becomes 16, which every runtime reads."""
    return type(old) is type(new) and bool(old == new)


def write_config(path: Path, fields: Mapping[str, Any]) -> None:
    """Write an adapter_config.json as PEFT does: ASCII, two spaces, fields in their order."""
    path.write_bytes(json.dumps(fields, indent=2).encode() + b"\n")


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Field -> `old -> new`, both shortened, for what differs."""
    return {
        name: f"{_short(old.get(name))} -> {_short(value)}"
        for name, value in new.items()
        if old.get(name) != value
    }


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict | list) and len(text) > 60:
        return f"{len(value)} entries"
    return text if len(text) <= 60 else text[:57] + "..."
