"""One named file out of a wheel, a zip or a source archive, copied byte by byte and checked on the way.

Archives come from strangers, so nothing is ever unpacked as a whole: the caller names one member, gives
the largest size it may have and the sha256 it must have, and chooses the path it is written to. Names
inside the archive never become paths on this disk.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from gradience.digests import Sha256
from gradience.errors import InputError

CHUNK = 1 << 20


def copy_member(archive: Path, member: str, target: Path, *, sha256: str, max_bytes: int) -> None:
    """Copy the regular file `member` of `archive` (.whl, .zip, .tar.gz) to `target`, which must not exist.

    Raises InputError: `archive-unreadable` when the archive is damaged or not an archive,
    `archive-unsafe` when a name in it leaves the archive, appears twice or is not a regular file,
    `archive-member` when there is no such member, `asset-hash` when its bytes are not the expected ones
    or are more than `max_bytes`. `target` is removed again in every one of these cases.
    """
    try:
        with _open_member(archive, member) as stream, target.open("xb") as out:
            digest = _copy(stream, out.write, max_bytes)
        if digest != sha256:
            raise InputError(
                f"{archive.name}: {member} is not the expected file"
                f" (sha256 {digest[:16] if digest else 'not taken: too large'}, expected {sha256[:16]})",
                code="asset-hash",
                hint="do not use this archive; delete it and fetch it again",
            )
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError) as error:
        # RuntimeError is how zipfile refuses an encrypted member; OSError covers gzip's BadGzipFile.
        target.unlink(missing_ok=True)
        if isinstance(error, FileExistsError):
            raise
        raise InputError(
            f"{archive}: cannot be read as an archive: {error}",
            code="archive-unreadable",
            hint="delete it and fetch it again",
        ) from None
    except InputError:
        target.unlink(missing_ok=True)
        raise


def _copy(stream: IO[bytes], write: Callable[[bytes], object], max_bytes: int) -> str | None:
    """Copy `stream` and return its sha256, or None when it is longer than `max_bytes`."""
    digest, total = Sha256(), 0
    while chunk := stream.read(CHUNK):
        total += len(chunk)
        if total > max_bytes:  # what the header promises is not what decides
            return None
        digest.update(chunk)
        write(chunk)
    return digest.hexdigest()


@contextmanager
def _open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    if archive.suffix in {".whl", ".zip"}:
        with zipfile.ZipFile(archive) as zipped:
            _check_names(archive, zipped.namelist(), member)
            with zipped.open(member) as stream:
                yield stream
    else:
        with tarfile.open(archive, "r:gz") as tarred:
            entries = tarred.getmembers()
            _check_names(archive, [entry.name for entry in entries], member)
            entry = next(entry for entry in entries if entry.name == member)
            tar_stream = tarred.extractfile(entry) if entry.isfile() else None
            if tar_stream is None:
                raise _unsafe(archive, f"{member} is not a regular file")
            with tar_stream:
                yield tar_stream


def _check_names(archive: Path, names: list[str], member: str) -> None:
    """Refuse the whole archive when any name in it points outside, and when `member` is not there once."""
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in name or "\x00" in name:
            raise _unsafe(archive, f"the name {name!r} points outside the archive")
    if names.count(member) > 1:
        raise _unsafe(archive, f"{member} appears {names.count(member)} times")
    if member not in names:
        raise InputError(
            f"{archive.name}: there is no {member} in it",
            code="archive-member",
            hint="this is not the release that was pinned",
        )


def _unsafe(archive: Path, why: str) -> InputError:
    return InputError(
        f"{archive.name}: refused: {why}",
        code="archive-unsafe",
        hint="do not use this archive",
    )
