"""Writing an adapter folder: whole or not at all, tensor by tensor, with everything else carried over.

The folder is built beside its place under a temporary name and renamed when it is complete and on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradience.adapters.files import open_regular, pread
from gradience.adapters.locate import CONFIG, INDEX, PICKLES, WEIGHTS
from gradience.adapters.tensors import NewTensor, header_bytes, layout
from gradience.artifacts.base import sync_folder, write_whole
from gradience.errors import InputError, OutputError, UsageError

COPY_BLOCK = 4 * 2**20
TRAINING_STATE = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "training_args.bin")
"""Files of a Trainer checkpoint that belong to weights of the old shapes."""


class WeightsWriter:
    """Writes one safetensors file: the header first, then every tensor in the order of `names`.

    sha256: digest of what was written, once closed.
    """

    def __init__(self, path: Path, tensors: Mapping[str, NewTensor], metadata: Mapping[str, str]) -> None:
        ordered = layout(tensors)
        self.names: tuple[str, ...] = tuple(ordered)
        self.size = 0
        self._digest = hashlib.sha256()
        self._file = open(path, "xb", buffering=2**20)  # noqa: SIM115 (close and abandon close it)
        self._write(header_bytes(ordered, metadata))

    def put(self, data: bytes | bytearray | memoryview) -> None:
        """The bytes of the next tensor."""
        self._write(data)

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def close(self) -> str:
        """Flush to the disk; the digest."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()

    def abandon(self) -> None:
        """Close without a promise."""
        self._file.close()


def check_output(output: Path, source: Path, *, force: bool) -> None:
    """Refuse an output that exists, or that would destroy something.

    Raises UsageError (output-exists, output-is-input, not-ours).
    """
    if output.exists():
        there, here = output.resolve(), source.resolve()
        if there == here or there in here.parents or here in there.parents:
            raise UsageError(
                f"{output}: the output and the adapter itself overlap",
                code="output-is-input",
                hint="choose another --output",
            )
        if not force:
            raise UsageError(
                f"{output}: exists already",
                code="output-exists",
                hint="choose another --output, or replace it with --force",
            )
        if not output.is_dir() or (any(output.iterdir()) and not (output / CONFIG).exists()):
            raise UsageError(
                f"{output}: not an adapter folder, so --force does not replace it",
                code="not-ours",
                hint="choose another --output",
            )


@contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """A fresh folder that takes the place of `output` when the block ends well, and vanishes when it does not.

    Raises OutputError (code write-failed) for what the disk or the permissions refuse.
    """
    scratch = output.with_name(f".{output.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir()
        try:
            yield scratch
            sync_folder(scratch)
            _put_in_place(scratch, output)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        sync_folder(output.parent)
    except OSError as error:
        raise OutputError(
            f"{output}: cannot write: {error.strerror or error}",
            code="write-failed",
            hint="check the folder, its permissions and the free space",
        ) from None


def _put_in_place(scratch: Path, output: Path) -> None:
    if not output.exists():
        scratch.rename(output)
        return
    aside = output.with_name(f".{output.name}.{secrets.token_hex(4)}.old")
    output.rename(aside)
    try:
        scratch.rename(output)
    except OSError:
        aside.rename(output)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def carry_files(source: Path, target: Path) -> tuple[list[str], list[str]]:
    """Copy the files beside the weights; names of the copied ones and of those left out.

    Left out are the weights and the config (written anew), pickles and training state of the old shapes,
    reports of an earlier compression, sub-folders and hidden files.
    """
    carried, left = [], []
    for entry in sorted(source.iterdir()):
        name = entry.name
        if name in (WEIGHTS, INDEX, CONFIG) or (
            name.startswith("adapter_model") and name.endswith(".safetensors")
        ):
            continue
        if (
            entry.is_dir()
            or name.startswith(".")
            or name in PICKLES
            or name in TRAINING_STATE
            or name in REPORTS
        ):
            left.append(name + "/" if entry.is_dir() else name)
        elif name.startswith("rng_state"):
            left.append(name)
        else:
            _copy(entry, target / name, root=source)
            carried.append(name)
    return carried, left


REPORTS = ("compression_report.json", "compression_report.md")


def _copy(source: Path, target: Path, *, root: Path) -> None:
    handle = open_regular(source, root=root)
    try:
        size = os.fstat(handle).st_size
        with open(target, "xb") as file:
            for start in range(0, size, COPY_BLOCK):
                file.write(pread(handle, min(COPY_BLOCK, size - start), start, source))
    finally:
        os.close(handle)


def write_config(path: Path, fields: Mapping[str, Any]) -> None:
    """Write an adapter_config.json as PEFT does: two spaces, fields in their order."""
    write_whole(path, [json.dumps(fields, indent=2, ensure_ascii=False).encode() + b"\n"])


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Field -> `old -> new`, both shortened, for what differs."""
    return {
        name: f"{_short(old.get(name))} -> {_short(new.get(name))}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    }


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict | list) and len(text) > 60:
        return f"{len(value)} entries"
    return text if len(text) <= 60 else text[:57] + "..."


def require_config(fields: Mapping[str, Any] | None, path: Path) -> Mapping[str, Any]:
    """The config's fields. Raises InputError (code no-config) where there is no config."""
    if fields is None:
        raise InputError(
            f"{path}: no adapter_config.json beside the weights: without α no smaller adapter can be written",
            code="no-config",
            hint="put the adapter_config.json beside the weights",
        )
    return fields
