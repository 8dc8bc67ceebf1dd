"""`digests.json`: the files of a Bench run or an evaluation, each with its sha256. Its own sha256, the root, stands for
the whole folder."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import ClassVar, Literal

from gradience.digests import sha256_file
from gradience.errors import UsageError
from gradience.files.artifact import Artifact
from gradience.files.shared_names import PlainName, given_text
from gradience.files.whole import write_errors

DIGESTS = "digests.json"
NOT_LISTED = (DIGESTS, "model.sig")
"""At the root: this file and its signature."""
RUNS = {
    "evaluation.json": "evaluate",
    "evaluation_sets.json": "evaluate",
    "shrink.json": "shrink",
    "dev/evaluation_sets.json": "shrink --over strength",
    "bench.json": "bench run",
    "bench_aggregate.json": "bench run",
}
"""Report of a run -> the command that wrote it, and keeps records and digests in the same folder."""


class Digests(Artifact):
    """Digests of the files of a finished run. The same files give the same bytes."""

    repair: ClassVar[str] = "make it again: the same command with the same --output uses what is finished"

    schema_: Literal["gradience.digests/1"] = "gradience.digests/1"
    files: dict[PlainName, str]
    """Path inside the folder -> sha256. Not listed: this file, its signature, and names that begin with a dot
    (locks, temporaries)."""


def files_below(folder: Path) -> dict[str, Path]:
    """Return the files of a run by their names inside `folder`, in order; hidden ones and links to folders left out."""
    return dict(sorted(_files(folder)))


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(place, name)
            inside = given_text(path.relative_to(folder).as_posix())
            if not name.startswith(".") and inside not in NOT_LISTED:
                yield inside, path


def write_digests(folder: Path, only: Collection[str] | None = None) -> str:
    """Write `digests.json` for all files in `folder`, or only for `only`, and return its own digest, the root."""
    files = {
        name: sha256_file(path)
        for name, path in files_below(folder).items()
        if path.is_file() and (only is None or name in only)
    }
    return sha256_file(Digests(files=files).save(folder / DIGESTS))


def refuse_other_run(folder: Path, command: str) -> None:
    """Raise UsageError (`output-other-run`) if `folder` has a report of another command, with records beside it."""
    for report, other in RUNS.items():
        if other != command and (folder / report).is_file():
            raise other_run(folder, f"{report} of gradience {other}", command)


def other_run(folder: Path, content: str, command: str) -> UsageError:
    """Return the error for an output with the run of another command. content: the file that shows it."""
    free = folder.with_name(f"{folder.name}-{command.split()[0]}")
    return UsageError(
        f"{folder}: contains {content}, whose records would be overwritten",
        code="output-other-run",
        hint=f"choose another folder, such as --output {free}",
    )


def remove_digests(folder: Path) -> None:
    """Remove the digests of earlier files: what is written next is not what they list."""
    with write_errors(folder):
        (folder / DIGESTS).unlink(missing_ok=True)


def root_of(folder: Path) -> str | None:
    """Return the digest of the `digests.json` in `folder`; None if there is none."""
    path = folder / DIGESTS
    return sha256_file(path) if path.is_file() else None
