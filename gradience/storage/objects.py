"""Finished folders in a storage: every file named by its content, and a list of them that is written last.

objects/ab/ab12…            a file, by its sha256
folders/NAME/manifest.json  the folder NAME: what it holds. Created exclusively, so that it is finished once
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gradience.artifacts.scratch import scratch_file, sweep_beside
from gradience.artifacts.whole import write_errors, write_whole
from gradience.digests import sha256_file
from gradience.errors import InputError
from gradience.storage.place import Place

FOLDERS, OBJECTS = "folders", "objects"


def publish(place: Place, name: str, folder: Path, files: Mapping[str, str], manifest: str) -> bool:
    """Copy the finished `folder` there as `name`; False where somebody has done so before.

    files: names inside the folder -> sha256. manifest: the name of its list, which is not among them.
    """
    for inside, sha256 in files.items():
        if place.written(_object(sha256)) is None:
            place.put(folder / inside, _object(sha256))
    return place.create(f"{FOLDERS}/{name}/{manifest}", (folder / manifest).read_bytes())


def listed(place: Place, name: str, manifest: str) -> bytes | None:
    """The list of a finished folder; None where it is not finished."""
    return place.read(f"{FOLDERS}/{name}/{manifest}")


def withdraw(place: Place, name: str, manifest: str) -> None:
    """Take the list of a folder away: it is not finished any more, and can be published again."""
    place.remove(f"{FOLDERS}/{name}/{manifest}")


def bring(place: Place, folder: Path, files: Mapping[str, str]) -> None:
    """Copy files of a finished folder from there, as far as they are not here. files: as in `publish`.

    Raises InputError (`storage-damaged`) for a file that is not what its name says.
    """
    for inside, sha256 in files.items():
        file = folder / inside
        if file.is_file() and sha256_file(file) == sha256:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        sweep_beside(file)
        # of its own: several processes of this machine may bring the same file
        with write_errors(file), scratch_file(file) as (scratch, _):
            place.get(_object(sha256), scratch)
            if sha256_file(scratch) != sha256:
                raise InputError(
                    f"{place.address(_object(sha256))}: not the file that its name says",
                    code="storage-damaged",
                    hint="delete it there, and the folder that lists it, and run again",
                )
            scratch.replace(file)


def finish(folder: Path, manifest: str, content: bytes) -> None:
    """Write the list of a folder whose files were brought."""
    write_whole(folder / manifest, [content])


def _object(sha256: str) -> str:
    return f"{OBJECTS}/{sha256[:2]}/{sha256}"
