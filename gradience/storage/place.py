"""A folder that several machines see, under one address: a path, `file://…`, or an object storage such as `s3://…`.

Of a storage three things are asked: a file can be created so that of several who try at the same moment one succeeds
(O_EXCL; on S3 a put with `If-None-Match: *`), a file that was written is seen by all who read it afterwards, and the
storage's own clock says when it was written.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gradience.artifacts.whole import write_whole
from gradience.errors import InputError, OutputError, require


@dataclass(frozen=True, slots=True)
class Place:
    """Files below one address, named by paths with slashes.

    >>> place = Place.at("runs/mine/.shared")
    >>> place.create("leases/42", b"me"), place.create("leases/42", b"you")
    (True, False)
    """

    files: Any
    """A file system of fsspec."""
    root: str

    @classmethod
    def at(cls, address: str) -> Place:
        """The place at this address. Raises MissingExtra for S3 without its library, InputError (`storage-address`)."""
        fsspec = require("fsspec", extra="hf")
        if address.startswith("s3://"):
            require("s3fs", extra="s3")
        try:
            files, root = fsspec.url_to_fs(address, use_listings_cache=False)
        except (ValueError, ImportError) as error:
            raise InputError(
                f"{address}: not an address of a storage: {error}",
                code="storage-address",
                hint="give a path, file:///path, or s3://bucket/prefix",
            ) from None
        return cls(files, root.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether its files are files of this machine, or look like them (NFS)."""
        protocol = self.files.protocol
        return "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that is not there yet; False where it is. Raises OutputError (`write-failed`)."""
        path = self._ready(name)
        try:
            self.files.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            raise self._refused(path, error) from None
        return True

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it whole. Raises OutputError (`write-failed`)."""
        path = self._ready(name)
        if self.is_local:
            write_whole(Path(path), [content])
            return
        try:
            self.files.pipe_file(path, content)
        except OSError as error:
            raise self._refused(path, error) from None

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        try:
            return bytes(self.files.cat_file(f"{self.root}/{name}"))
        except FileNotFoundError:
            return None

    def written(self, name: str) -> datetime | None:
        """When a file was last written, by the clock of the storage; None where there is none."""
        try:
            moment: datetime = self.files.modified(f"{self.root}/{name}")
        except FileNotFoundError:
            return None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is gone already."""
        with suppress(FileNotFoundError):
            self.files.rm_file(f"{self.root}/{name}")

    def names(self, below: str) -> list[str]:
        """The names of all files below a folder, in order."""
        start = f"{self.root}/"
        there = self.files.find(f"{start}{below}")
        return sorted(str(path)[len(start) :] for path in there if str(path).startswith(start))

    def put(self, file: Path, name: str) -> None:
        """Copy a file of this machine there. Raises OutputError (`write-failed`)."""
        path = self._ready(name)
        try:
            self.files.put_file(str(file), path)
        except OSError as error:
            raise self._refused(path, error) from None

    def get(self, name: str, file: Path) -> None:
        """Copy a file from there."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self.files.get_file(f"{self.root}/{name}", str(file))

    def _ready(self, name: str) -> str:
        path = f"{self.root}/{name}"
        if self.is_local:
            try:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self._refused(path, error) from None
        return path

    def _refused(self, path: str, error: OSError) -> OutputError:
        return OutputError(
            f"{path}: cannot write: {error.strerror or error}",
            code="write-failed",
            hint="check the storage, its permissions and the free space",
        )
