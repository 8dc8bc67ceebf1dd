"""Stages of a run: each has a folder, a key of its dependencies, and a manifest once it is complete.

A stage may be killed at any moment. Its files are kept, so a training resumes from its checkpoint and an evaluation
after its last batch. A stage starts with an empty folder only if its key has changed. A finished stage is
compared with its manifest when it is used, and repeated if a file has changed.
"""

import json
import logging
import shutil
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradience.adapters.locate import WEIGHTS
from gradience.adapters.tensors import stored_header
from gradience.bench.verdict.facts import BEGUN, FAILED, HEADER
from gradience.digests import sha256_file, sha256_text
from gradience.errors import InputError, OutputError
from gradience.files.whole import write_errors, write_whole
from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.reports.training import ADAPTER, MANIFEST, StageFile, StageManifest

logger = logging.getLogger("gradience.bench")

VERSION = 1
"""Incremented when equal dependencies give different results: older stages are then repeated."""

LAST_LINES = 20
"""Lines of a traceback that are kept."""
Make = Callable[[Path], None]
"""Fills the given folder. After a kill, it is called again with the partial folder."""
Watch = Callable[[str], Callable[[], int | None]]
"""Starts measuring the memory of the named stage; returns a function that reads the peak since then, in bytes."""


class NotDone(Exception):
    """Raised for an unfinished stage whose inputs are finished, and which another process makes."""

    def __init__(self, stage: str, key: str, inputs: tuple[str, ...] = ()) -> None:
        """inputs: finished stages that it depends on."""
        super().__init__(stage)
        self.stage, self.key, self.inputs = stage, key, inputs


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of one seed, below one folder."""

    folder: Path
    watch: Watch
    plan: str | None = None
    """Digest of the run's plan, stored in every manifest."""
    say: Callable[[str], None] = logger.warning
    """Called with the reason if a stage is repeated."""
    announce: Callable[[str], None] = lambda stage: None
    """Called with the name of a stage before it is made, or found finished."""

    def done(
        self,
        name: str,
        depends: Mapping[str, Any],
        make: Make,
        *,
        resumable: bool = True,
        earlier: Collection[str] = (),
    ) -> Path:
        """Return the folder of the stage `name`. It is made from `depends` by `make`, unless it is finished and
        unchanged.

        resumable: `make` can resume from partial output after a kill; otherwise it starts with an empty folder.
        earlier: keys of the stage at earlier looks, which `make` continues.
        """
        self.announce(name)
        folder, key, before = self.folder / name, stage_key(name, depends), 0.0
        earlier_key = key_of(folder)
        if self.is_done(name, folder, earlier_key if earlier_key in earlier else key):
            with write_errors(folder):
                if earlier_key == key:
                    (folder / BEGUN).unlink(missing_ok=True)
                    return folder
                before = StageManifest.read(folder / MANIFEST).seconds
                write_whole(folder / BEGUN, [key.encode()])
                (folder / MANIFEST).unlink()
        with write_errors(folder):
            _begin(folder, key, resumable=resumable)
        started, peak = time.perf_counter(), self.watch(name)
        try:
            make(folder)
        except Exception:
            write_failure(folder, traceback.format_exc().splitlines())
            raise
        if (folder / ADAPTER / WEIGHTS).is_file():
            write_whole(folder / HEADER, [stored_header(folder / ADAPTER / WEIGHTS)])
        StageManifest(
            stage=name,
            key=key,
            plan_digest=self.plan,
            files=files_of(folder),
            seconds=before + time.perf_counter() - started,
            peak_memory_bytes=peak(),
        ).save(folder / MANIFEST)
        with write_errors(folder):
            (folder / BEGUN).unlink()  # last, so that a stage killed before this resumes
        return folder

    def is_done(self, name: str, folder: Path, key: str) -> bool:
        """Return True if the stage is finished with this key and unchanged files; otherwise report the reason."""
        if not (folder / MANIFEST).is_file():
            return False
        try:
            manifest = StageManifest.read(folder / MANIFEST)
            if manifest.key != key:
                problem = "what it depends on has changed"
            elif changed := changed_files(folder, manifest):
                problem = f"{changed[0]} is not what this stage wrote"
            else:
                return True
        except InputError as error:
            problem = str(error)
        self.say(f"{name}: repeated: {problem}")
        return False


def write_failure(folder: Path, lines: Sequence[str]) -> None:
    """Write the last lines of the traceback of a failed stage to its folder, for `gradience bench status`."""
    with suppress(OutputError):  # the run itself will report a disk error
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / FAILED, ["\n".join(lines[-LAST_LINES:]).encode()])


def key_of(folder: Path) -> str:
    """Return the key of a finished or started stage; empty if no key can be read."""
    with suppress(InputError):
        if (folder / MANIFEST).is_file():
            return StageManifest.read(folder / MANIFEST).key
        if (folder / BEGUN).is_file():
            return read_file(folder / BEGUN, MAX_SETTINGS_BYTES).decode(errors="replace")
    return ""


def stage_key(name: str, depends: Mapping[str, Any]) -> str:
    """Return the sha256 of a stage's dependencies. Values must be JSON values."""
    text = json.dumps({"stage": name, "version": VERSION, **depends}, sort_keys=True, ensure_ascii=False)
    return sha256_text(text)


def files_of(folder: Path) -> dict[str, StageFile]:
    """Return the files that a stage wrote below `folder`, with their digests."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in (MANIFEST, BEGUN) and not path.name.startswith("."):
            facts = path.stat()
            files[name] = StageFile(sha256=sha256_file(path), bytes=facts.st_size, mtime_ns=facts.st_mtime_ns)
    return files


def changed_files(folder: Path, manifest: StageManifest) -> list[str]:
    """Return the files that differ from the manifest. Weights may be missing (`runtime.keep_adapters`)."""
    return [
        name
        for name, file in manifest.files.items()
        if not _is_unchanged(folder / name, file) and ((folder / name).exists() or not name.endswith(WEIGHTS))
    ]


def _is_unchanged(path: Path, file: StageFile) -> bool:
    """Compare size and time first, so that few files are read."""
    if not path.is_file():
        return False
    facts = path.stat()
    if facts.st_size != file.bytes:
        return False
    return facts.st_mtime_ns == file.mtime_ns or sha256_file(path) == file.sha256


def _begin(folder: Path, key: str, *, resumable: bool) -> None:
    """Prepare the folder. Files of an interrupted run with the same key are kept."""
    interrupted = not (folder / MANIFEST).exists() and key_of(folder) == key
    if folder.exists() and not (resumable and interrupted):
        shutil.rmtree(folder)
    mark_begun(folder, key)


def mark_begun(folder: Path, key: str) -> None:
    """Mark a stage's folder as started with this key, and remove an earlier failure."""
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILED).unlink(missing_ok=True)
    write_whole(folder / BEGUN, [key.encode()])


# ------------------------------------------------------------ weights of the adapters


def require_weights(adapter: Path) -> None:
    """Raise InputError (`weights-removed`) if a finished stage is needed again and its weights were
    removed.
    """
    if not (adapter / WEIGHTS).is_file():
        raise InputError(
            f"{adapter}: its weights are needed again, but were removed at the end of the run (runtime.keep_adapters)",
            code="weights-removed",
            hint=f"delete {adapter.parent} and run again to retrain it, or give another --output",
        )


def remove_weights(stages: Iterable[Path]) -> None:
    """Delete the weights below these folders; configs, reports and records stay."""
    for folder in stages:
        for path in folder.rglob(WEIGHTS):
            path.unlink()
