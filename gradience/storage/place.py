"""A folder that several machines see, under one address: a path, `file://…`, or an object storage such as `s3://…`.

Of a storage three things are asked: a file can be created so that of several who try at the same moment one succeeds
(in a folder by a hard link: fsspec looks first and writes then; on S3 by a put with `If-None-Match: *`), a file that
was written is seen by all who read it afterwards, and the storage's own clock says when it was written.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gradience.artifacts.whole import create_whole, write_whole
from gradience.errors import InputError, require
from gradience.reading import open_stream
from gradience.storage.failures import (
    cannot_write,
    check_address,
    client_errors,
    explained,
    no_bucket,
    status_of,
)

PATIENCE, SLOWEST = 60.0, 1e6
"""Seconds that a put may take, and bytes a second that it makes at the least."""
CONFLICTS = 3
"""How often a put is sent again that met another one (409)."""
PRECONDITION_FAILED, CONFLICT = 412, 409
CHUNK = 1 << 20
"""Bytes of a file that are in memory while it is copied."""


@dataclass(frozen=True, slots=True)
class Place:
    """Files below one address, named by paths with slashes.

    Every method raises NetworkError for a storage that cannot be reached (`storage-connection`) or lets nobody in
    (`storage-access`), InputError for a bucket that is not there (`storage-address`), and where the disk refuses,
    OutputError (`write-failed`) or ReadError (`unreadable`).

    >>> place = Place.at("runs/mine/.shared")
    >>> place.create("leases/42", b"me"), place.create("leases/42", b"you")
    (True, False)
    """

    files: Any
    """A file system of fsspec."""
    root: str
    errors: tuple[type[Exception], ...] = ()
    """What the client of the storage raises that is no OSError."""

    @classmethod
    def at(cls, address: str) -> Place:
        """The place at this path or address. Raises MissingExtra for S3 without its library, InputError
        (`storage-address`) for any other than a path, file:// and s3://."""
        fsspec = require("fsspec", extra="hf")
        if "://" in address:
            check_address(address)
        if address.startswith("s3://"):
            require("s3fs", extra="s3")
        files, root = fsspec.url_to_fs(address, use_listings_cache=False)
        return cls(files, root.rstrip("/"), client_errors(address))

    @property
    def is_local(self) -> bool:
        """Whether its files are files of this machine, or look like them (NFS)."""
        protocol = self.files.protocol
        return "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def address(self, name: str) -> str:
        """Where a file is, as another machine finds it: a path, or an address with its protocol."""
        path = f"{self.root}/{name}"
        return path if self.is_local else str(self.files.unstrip_protocol(path))

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that is not there yet; False where it is."""
        path = self._ready(name)
        if self.is_local:
            return create_whole(Path(path), content)
        for last in (False,) * CONFLICTS + (True,):
            try:
                with explained(self.address(name), self.errors, writes=True):
                    try:
                        self.files.pipe_file(path, content, mode="create", **self._within(content))
                        return True
                    except Exception as error:
                        if status_of(error) == CONFLICT and not last:
                            continue
                        if status_of(error) == PRECONDITION_FAILED:
                            raise FileExistsError(path) from None
                        raise
            except FileExistsError:
                return self.read(name) == content  # our own, where the first answer was lost
            except FileNotFoundError as error:
                raise no_bucket(self.address(name), error) from None
        raise AssertionError("the last attempt returns or raises")

    def _within(self, sent: bytes | Path) -> dict[str, float]:
        """A put of s3fs has no time limit of its own while it waits for the server's 100-continue."""
        if getattr(self.files, "async_impl", False) is not True:
            return {}
        size = len(sent) if isinstance(sent, bytes) else sent.stat().st_size
        return {"timeout": PATIENCE + size / SLOWEST}

    def check_exclusive(self) -> None:
        """Raise InputError (`storage-not-exclusive`) where a file that is there can be created again.

        A storage that speaks S3 and does not know `If-None-Match` writes all the same: two machines would do the same
        work, each sure to be the only one.
        """
        name = f"clock/{secrets.token_hex(8)}"
        try:
            self.create(name, b"one")
            again = self.create(name, b"another")
        finally:
            self.remove(name)
        if again:
            raise InputError(
                f"{self.address('')}: lets a second machine create a file that is there (it ignores `If-None-Match`)",
                code="storage-not-exclusive",
                hint="use a storage with conditional writes, or a folder that all machines see",
            )

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it whole."""
        path = self._ready(name)
        if self.is_local:
            write_whole(Path(path), [content])
            return
        try:
            with explained(self.address(name), self.errors, writes=True):
                self.files.pipe_file(path, content, **self._within(content))
        except FileNotFoundError as error:
            raise no_bucket(self.address(name), error) from None

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        with suppress(FileNotFoundError), explained(self.address(name), self.errors):
            return bytes(self.files.cat_file(f"{self.root}/{name}"))
        return None

    def written(self, name: str) -> datetime | None:
        """When a file was last written, by the clock of the storage; None where there is none."""
        with suppress(FileNotFoundError), explained(self.address(name), self.errors):
            moment: datetime = self.files.modified(f"{self.root}/{name}")
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return None

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is gone already."""
        with suppress(FileNotFoundError), explained(self.address(name), self.errors, writes=True):
            self.files.rm_file(f"{self.root}/{name}")

    def names(self, below: str) -> list[str]:
        """The names of all files below a folder, in order."""
        start = f"{self.root}/"
        how = (
            {"on_error": "raise"} if self.is_local else {}
        )  # fsspec would take what cannot be read for empty
        try:
            with explained(self.address(below), self.errors):
                there = self.files.find(f"{start}{below}", **how)
        except FileNotFoundError as error:
            if self.is_local:
                return []
            raise no_bucket(self.address(below), error) from None
        return sorted(str(path)[len(start) :] for path in there if str(path).startswith(start))

    def put(self, file: Path, name: str) -> None:
        """Copy a file of this machine there."""
        path = self._ready(name)
        if self.is_local:
            with open_stream(file) as source:
                write_whole(Path(path), iter(lambda: source.read(CHUNK), b""))
            return
        try:
            with explained(self.address(name), self.errors, writes=True):
                self.files.put_file(str(file), path, **self._within(file))
        except FileNotFoundError as error:
            raise no_bucket(self.address(name), error) from None

    def get(self, name: str, file: Path) -> None:
        """Copy a file from there. Raises InputError (`storage-damaged`) where there is none."""
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with explained(self.address(name), self.errors):
                self.files.get_file(f"{self.root}/{name}", str(file))
        except FileNotFoundError:
            raise InputError(
                f"{self.address(name)}: not there, and a finished folder lists it",
                code="storage-damaged",
                hint="delete the manifest that lists it there, and run again",
            ) from None

    def _ready(self, name: str) -> str:
        path = f"{self.root}/{name}"
        if self.is_local:
            try:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise cannot_write(path, error) from None
        return path
