"""Folder of a published run: its files, or a temporary copy with what its archive holds."""

import lzma
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradience.errors import GradienceError, InputError
from gradience.reading import MAX_DATA_BYTES

ARCHIVE = "everything.tar.xz"
"""Archive made by `benchmarks/pack_results.py` from the files of a run other than its results."""
MAX_MEMBERS = 100_000


@contextmanager
def unpacked(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder with the unpacked archive, or the folder itself if nothing is packed.

    Raises InputError (`bad-archive`) for an archive that is damaged, too large, or leads out of its folder.
    """
    if not (folder / ARCHIVE).is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="gradience-") as name:
        place, size = Path(name) / "run", 0
        try:
            with tarfile.open(folder / ARCHIVE, "r|xz") as archive:
                for number, member in enumerate(archive):
                    size += member.size
                    if size > MAX_DATA_BYTES or number > MAX_MEMBERS:
                        raise tarfile.TarError(f"more than {MAX_DATA_BYTES:,} bytes or {MAX_MEMBERS:,} files")
                    archive.extract(member, place, filter="data")
            shutil.copytree(
                folder, place, dirs_exist_ok=True, symlinks=True, ignore=shutil.ignore_patterns(ARCHIVE)
            )
        except (tarfile.TarError, lzma.LZMAError, EOFError, shutil.Error, OSError) as error:
            raise InputError(
                f"{folder / ARCHIVE}: cannot be unpacked: {error}",
                code="bad-archive",
                hint="download the archive again from the publisher",
            ) from None
        try:
            yield place
        except GradienceError as error:
            error.args = (as_published(str(error), place, folder),)
            raise


def as_published(text: str, place: Path, folder: Path) -> str:
    """Return a text in which the temporary folder `place` has the name of the published one."""
    return text.replace(str(place), str(folder))
