"""A file, or a folder that is there whole or not at all, killed at every moment of its writing.

python kill_files.py ROOT file|folder     prints the number of moments, and after how many of them something lay about
"""

import sys
from pathlib import Path

from killing import KILLED, WRITING, in_child, moments_of, watched

from gradience.files.whole import whole_folder, write_whole


def write_file(path: Path) -> None:
    write_whole(path, [b"new", b"er"])


def write_folder(path: Path) -> None:
    with whole_folder(path, force=True) as scratch:
        write_whole(scratch / "a", [b"newer"])


def main(root: Path, kind: str) -> None:
    work = {"file": write_file, "folder": write_folder}[kind]
    files = watched(*WRITING)
    work(root / "counted")
    moments, left = moments_of(lambda: work(root / "counted"), files), 0
    for moment in range(1, moments + 1):
        place = root / str(moment) / "out.json"
        place.parent.mkdir()
        work(place)
        target = place / "a" if kind == "folder" else place
        target.write_bytes(b"older")
        assert in_child(lambda: work(place), files, moment) == KILLED, moment  # noqa: B023
        if place.exists():
            assert target.read_bytes() in (b"older", b"newer"), moment
        else:
            assert kind == "folder", moment  # between its two renames
        left += len(list(place.parent.iterdir())) > 1
        work(place)
        assert target.read_bytes() == b"newer", moment
        assert [entry.name for entry in place.parent.iterdir()] == [place.name], moment
    sys.stdout.write(f"{moments} {left}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
