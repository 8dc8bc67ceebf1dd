"""Small archives, made on the spot: honest ones and the kinds that strangers send."""

import io
import tarfile
import zipfile
from pathlib import Path


def wheel(path: Path, files: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as zipped:
        for name, content in files:
            zipped.writestr(name, content)
    return path


def tarball(path: Path, entries: list[tarfile.TarInfo | tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as tarred:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tarred.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                tarred.addfile(info, io.BytesIO(entry[1]))
    return path
