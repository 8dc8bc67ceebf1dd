"""Inspect: an `.eval` log, a zip archive of header.json and samples/<id>_epoch_<n>.json.

Read in inspect-ai 0.3.285 (`log/_recorders/eval.py`, `scorer/_metric.py`); nothing of inspect is imported.
"""

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from gradience.errors import InputError, require
from gradience.evidence import base
from gradience.reading import MAX_DATA_BYTES, open_stream

NAME = "Inspect"
VERSION = 2
"""Newest version of the log layout that is supported."""
SAMPLE = re.compile(r"samples/.*_epoch_\d+\.json")
LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""Correct, incorrect, partial, no answer: as `value_to_float` of inspect has them."""
OPERATION = {
    "max_retries", "timeout", "attempt_timeout", "max_connections", "adaptive_connections", "max_tool_output",
    "cache_prompt", "batch", "cache",
}  # fmt: skip
"""Keys of a GenerateConfig that say how a model is called, and not what it answers."""


def fits(path: Path, _: Mapping[str, Any]) -> bool:
    """Return True if the file's name ends in `.eval`."""
    return path.suffix == ".eval"


def read(path: Path, wanted: base.Wanted) -> base.Log:
    """Read the log. Raises InputError and UsageError (see `base`, `text` and `archive`; `log-unfinished`)."""
    with open_archive(path) as archive:
        if "header.json" not in archive.members:
            raise InputError(
                f"{path}: it has no header.json, so the run has not ended",
                code="log-unfinished",
                hint="finish it with `inspect eval-retry`, or evaluate again",
            )
        header = base.json_object(archive.read("header.json"), f"{path}: header.json")
        version = header.get("version")
        if not isinstance(version, int) or version > VERSION:
            raise InputError(
                f"{path}: log version {str(version)[:40]} is not supported (newest supported: {VERSION})",
                code="log-format",
                hint="write the scores into a CSV with id and score",
            )
        rows = base.LogRows()
        for name in filter(SAMPLE.fullmatch, archive.members):
            place = f"{archive.path}: {name[:200]}"
            sample = base.json_object(archive.read(name), place)
            rows.add(place, _item(place, sample), dict(_scores(base.within(sample, "scores"))))
    metric, items = rows.scored(path, wanted.metric)
    spec, plan = base.within(header, "eval"), base.within(header, "plan")
    return base.Log(
        path,
        NAME,
        metric,
        items,
        task=base.text_or_none(spec.get("task")),
        model=_model(spec),
        settings={
            "solvers": base.canonical(
                [[step.get("solver"), step.get("params")] for step in base.objects_in(plan, "steps")]
            ),
            "task version": str(spec.get("task_version"))[:100],
            "generation settings": base.canonical(
                {key: value for key, value in base.within(plan, "config").items() if key not in OPERATION}
            ),
        },
        notes=tuple(_notes(header)),
    )


def _notes(header: Mapping[str, Any]) -> Iterator[str]:
    if header.get("status") != "success":
        yield f"its status is {str(header.get('status'))[:40]!r}, and not success"
    if header.get("invalidated") is True:
        yield "the log is marked as invalidated"


MAX_MEMBER = 64 * 2**20
"""Bytes of one member."""
MAX_DIRECTORY = 16 * 2**20
"""Bytes of the list of members: 200,000 samples."""
FREE, RATIO = 64 * 2**20, 250
"""All members together: 64 MiB and 250 times the archive, at most as much as any file of data."""
ZSTANDARD = 93
UNREADABLE = (
    zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, ValueError, EOFError,
)  # fmt: skip
"""Errors that zipfile raises for a damaged, encrypted or unknown member."""
END, END_SIZE = b"PK\x05\x06", 22
END_64, SIZE_64 = b"PK\x06\x06", 76


class Archive:
    """An open zip archive of unknown origin: its members are read one at a time, and nothing is unpacked to disk.

    Stored, deflated and Zstandard members are read; the last needs the extra `logs` (Python's own zipfile reads them
    from 3.14 on).
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile, size: int) -> None:
        self.path, self._archive = path, archive
        self.members = {info.filename: info for info in archive.infolist()}
        self._left = min(FREE + RATIO * size, MAX_DATA_BYTES)

    def read(self, name: str) -> bytes:
        """Return the content of a member. Raises InputError (`bad-archive`, `too-large`), MissingExtra."""
        info = self.members[name]
        limit = min(MAX_MEMBER, self._left)
        is_zstandard = info.compress_type == ZSTANDARD
        zstandard = require("zstandard", extra="logs") if is_zstandard else None
        of_zstandard = () if zstandard is None else (zstandard.ZstdError,)
        unreadable: tuple[type[Exception], ...] = (*UNREADABLE, *of_zstandard)
        try:
            with self._archive.open(_as_stored(info) if is_zstandard else info) as packed:
                content = _unpacked(zstandard, packed, limit + 1) if zstandard else packed.read(limit + 1)
        except unreadable as error:
            raise _broken(self.path, f"{name!r:.200}: {error}") from None
        if len(content) > limit:
            raise InputError(
                f"{self.path}: {name!r:.200}: longer than {limit:,} bytes",
                code="too-large",
                hint="split the log, or write one without events",
            )
        if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
            raise _broken(self.path, f"{name!r:.200}: its content is not what the directory says")
        self._left -= len(content)
        return content


def _as_stored(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """Return the entry of a member whose packed bytes are to be read as they are."""
    stored = copy(info)
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, info.compress_size
    del stored.CRC
    return stored


def _unpacked(zstandard: Any, packed: IO[bytes], most: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=2**27)
    with decompressor.stream_reader(packed, read_across_frames=True) as reader:
        return bytes(reader.read(most))


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open the archive at `path`. Of two members of one name the later one counts, as for every reader of zip.

    Raises InputError (`bad-archive`, and what `open_stream` raises).
    """
    with open_stream(path, limit=MAX_DATA_BYTES) as file:
        size = file.seek(0, 2)
        _check_directory(path, file, size)
        try:
            archive = Archive(path, zipfile.ZipFile(file), size)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, struct.error) as error:
            raise _broken(path, str(error)) from None
        yield archive


def _check_directory(path: Path, file: BufferedReader, size: int) -> None:
    """Refuse a directory that would not fit into memory, before zipfile reads it."""
    file.seek(max(0, size - END_SIZE - 2**16))
    end = file.read()
    at = len(end) - END_SIZE
    if not (at >= 0 and end[at:].startswith(END)):
        at = end.rfind(END)
    if at < 0 or len(end) - at < END_SIZE:
        raise _broken(path, "no directory at its end: cut off, or no zip archive")
    (length,) = struct.unpack_from("<L", end, at + 12)
    at_64 = end.rfind(END_64, 0, at)
    if at_64 >= 0 and len(end) - at_64 >= 56:
        length = max(length % 0xFFFFFFFF, struct.unpack_from("<Q", end, at_64 + 40)[0])
    if length > MAX_DIRECTORY:
        raise InputError(
            f"{path}: its list of members has {length:,} bytes (limit: {MAX_DIRECTORY:,})",
            code="too-large",
            hint="split the log by task",
        )
    before_end = max(0, size - END_SIZE - 2**16) + at - (SIZE_64 if at_64 >= 0 else 0)
    if length > before_end:  # zipfile would look for it before the beginning
        raise _broken(path, "its list of members does not fit into it")


def _broken(path: Path, problem: str) -> InputError:
    return InputError(
        f"{path}: {problem}", code="bad-archive", hint="copy the log again: it is damaged, or not finished"
    )


# ---------------------------------------------------------------- samples


def _item(place: str, sample: Mapping[str, Any]) -> base.LogExample:
    attached = base.within(sample, "attachments")
    given = [(str(message.get("role")), _content(message, attached)) for message in _before_an_answer(sample)]
    output = base.text_or_none(base.within(sample, "output").get("completion")) or ""
    question = _content({"content": sample.get("input")}, attached)
    return base.LogExample.of(
        base.id_of(place, sample.get("id"), "no id", "copy the log again: every sample of Inspect has an id"),
        document=[question, sample.get("target"), sample.get("choices")],
        prompt=given or None,
        shown=" ".join(text for role, text in given if role == "user"),
        output=_resolved(output, attached),
        spelled=" ".join(text for _, text in given),
    )


def _scores(scorers: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The value of each scorer; of one with several values `scorer/key`."""
    for name, score in scorers.items():
        value = score.get("value") if isinstance(score, dict) else None
        if isinstance(value, dict):
            yield from ((f"{name}/{key}", _value(part)) for key, part in value.items())
        else:
            yield name, _value(value)


def _value(value: object) -> object:
    return LETTERS.get(value, value) if isinstance(value, str) else value


def _before_an_answer(sample: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the messages that the model was given before its answer: instructions, examples, the question."""
    for message in base.objects_in(sample, "messages"):
        if message.get("source") == "generate" or "model" in message:
            return  # an assistant's message without these is an example that the model was given
        yield message


def _content(message: Mapping[str, Any], attached: Mapping[str, Any]) -> str:
    """A message's text; of several parts, and of a dialogue, all that is said and shown."""
    content = message.get("content")
    if isinstance(content, str):
        return _resolved(content, attached)
    parts = (
        value if isinstance(value, str) else _content(part, attached)
        for part in base.objects_in(message, "content")
        for value in (part.get("text") or part.get("image") or part.get("audio") or part.get("video"),)
    )
    return "\n".join(_resolved(part, attached) for part in parts)


def _resolved(text: str, attached: Mapping[str, Any]) -> str:
    """Resolve long texts, which are stored separately: `attachment://` and their digest."""
    if not text.startswith("attachment://"):
        return text
    return str(attached.get(text.removeprefix("attachment://"), text))


# ---------------------------------------------------------------- what the header says


def _model(spec: Mapping[str, Any]) -> str | None:
    """`hf/local`, with what it was given: there the weights are named."""
    name = base.text_or_none(spec.get("model"))
    given = ",".join(f"{key}={value}" for key, value in base.within(spec, "model_args").items())
    return f"{name} {given}"[:300].strip() if name else None
