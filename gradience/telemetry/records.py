"""The lines of run.jsonl: their shape, the step from Python values to strict JSON, and reading them back.

The envelope (`schema`, `ts`, `run_id`, `event`, `step`) and the events are those of the original project, so its files
read as well. The fields of an event are beside those of the envelope. Reading takes constant memory, whatever state a
crash left the file in: a line that cannot be read is skipped and counted; it never hides the lines around it.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, TypeAlias

from gradience.errors import InputError, is_integer, is_number
from gradience.files.strict_json import MAX_DEPTH, MAX_DIGITS, excess_of, has_half_characters
from gradience.reading import open_stream

SCHEMA = "gradience.vnext.telemetry/v1"
"""The schema id. It changes when a required field changes its meaning, and only then."""

ENVELOPE = ("schema", "ts", "run_id", "event", "step")

NONFINITE = "nonfinite"
"""The key that says which fields of a line were NaN or infinite: `{"loss": "nan"}`."""

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


@dataclass(frozen=True, slots=True)
class Record:
    """One line that was read.

    `ts` is a wall-clock label in seconds since 1970, or None; durations are in `data`
    (`elapsed_s`, from a monotonic clock). `line` counts from 1.
    """

    event: str
    run_id: str
    step: int | None
    ts: float | None
    line: int
    data: dict[str, Json] = field(repr=False)

    def get(self, *keys: str) -> Json:
        """Return the value under a path of keys; None if there is none.

        `record.get("metrics", "loss")` reads `{"metrics": {"loss": 0.7}}`.
        """
        value: Json = self.data
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def number(self, *keys: str) -> float | None:
        """Return the number under a path, NaN and infinity restored; None if there is none."""
        value = self.get(*keys)
        if is_number(value):
            return float(value)
        mark = self.get(NONFINITE, ".".join(keys))
        return float(mark) if mark in ("nan", "inf", "-inf") else None

    def text(self, *keys: str) -> str | None:
        """Return the string under a path; None if there is none."""
        value = self.get(*keys)
        return value if isinstance(value, str) else None

    def mapping(self, *keys: str) -> Mapping[str, Json]:
        """Return the object under a path; empty if there is none."""
        value = self.get(*keys)
        return value if isinstance(value, Mapping) else {}


def strict(value: object, *, at: str = "", marks: dict[str, str] | None = None) -> Json:
    """`value` as something that every JSON reader accepts.

    NaN and infinity become null and are named in `marks` by their dotted path. What JSON cannot
    hold is written as its type's name, because a log line must never raise in a training loop,
    and never hold the text of an arbitrary object.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        if marks is not None:
            marks[at] = "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
        return None
    if isinstance(value, Mapping):
        return {
            str(key): strict(item, at=f"{at}.{key}" if at else str(key), marks=marks)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [strict(item, at=f"{at}.{i}", marks=marks) for i, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return strict(sorted(value, key=str), at=at, marks=marks)
    return f"<{type(value).__name__}>"


def encode(envelope: Mapping[str, object], payload: Mapping[str, object]) -> bytes:
    """One line, newline included, in strict JSON and plain ASCII."""
    marks: dict[str, str] = {}
    body = strict({**envelope, **payload}, marks=marks)
    assert isinstance(body, dict)  # a mapping goes in, so a mapping comes out
    if marks:
        body[NONFINITE] = marks
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


# ---------------------------------------------------------------- the training method, from class names
# The callback uses it before it reports exp(loss) as a perplexity, and monitor before it judges a loss: in
# reinforcement learning the loss does not measure progress.

Method = Literal["supervised", "preference", "reinforcement"]

REINFORCEMENT = frozenset(
    {"A2PO", "AsyncGRPO", "GMPO", "GRPO", "NashMD", "OnlineDPO", "PPO", "PPOv2", "RLOO", "SDPO", "XPO"}
)
"""Trainers that sample completions and learn from their rewards, without `Trainer`."""

PREFERENCE = frozenset({"BCO", "CPO", "DPO", "KTO", "ORPO", "Reward", "TPO"})
"""Trainers that learn from pairs or labels of better and worse: a loss that falls, but no cross-entropy."""

SUPERVISED = frozenset({"SFT", "PRM"})

REWARDS = frozenset({"reward", "objective/scores", "kl", "objective/kl"})
"""Names under which TRL's trainers log a reward, or the distance from the reference model."""


def method_of(classes: Iterable[str], *, rewarded: bool = False) -> Method:
    """Return a trainer's method from the class names of the trainer or its arguments, or else from its logs.

    classes: nearest first, e.g. ("MyConfig", "GRPOConfig"). rewarded: one of REWARDS was logged.
    An unknown class (`Trainer`, a custom class) that logs a reward or a KL is reinforcement learning.
    Without them, it is supervised.

        method_of(["GRPOTrainer"])         # "reinforcement"
        method_of(["Trainer"], rewarded=True)  # "reinforcement"
    """
    for name in classes:
        short = name.lstrip("_").removeprefix("Unsloth").removesuffix("Trainer").removesuffix("Config")
        if short in REINFORCEMENT:
            return "reinforcement"
        if short in PREFERENCE:
            return "preference"
        if short in SUPERVISED:
            return "supervised"
    return "reinforcement" if rewarded else "supervised"


# ---------------------------------------------------------------- reading


MAX_LINE_BYTES = 8 * 2**20
"""A longer line is not telemetry; it is skipped without being held in memory."""
MAX_LINE_VALUES = 400_000
"""About what fits into such a line with the name of a module for every ten numbers; more are not parsed."""

MAX_RUN_BYTES = 2 * 2**30
"""Seven million lines or more; a longer file takes minutes to read, and is not telemetry of a training."""

MAX_TAIL_BYTES = 2 * MAX_LINE_BYTES

FINITE = 1e100
"""A number beyond it counts as infinite: its sums and squares would be."""
YEAR_9999 = 253_402_300_799
_DECODER = json.JSONDecoder()
_BEGINS = frozenset('{["-0123456789tfnNI')
"""First characters of a JSON value, NaN and Infinity, for skipping two million other lines quickly."""
_LARGE_NUMBER = re.compile(r"[:,\[\s]-?[0-9](?:[0-9]{59}|[0-9.]*[eE]\+?[0-9][0-9])")
"""Pattern of a number beyond FINITE in a list or an object (sometimes also another number, or a string)."""


@dataclass(slots=True)
class ReadIssue:
    """Lines that were skipped, or accepted although they break a rule."""

    line: int
    """The first of them."""
    message: str
    count: int = 0


class TelemetryReader:
    """Reads one run.jsonl; can be iterated repeatedly.

    >>> [record.event for record in TelemetryReader("run.jsonl")]
    ['run_start', 'train_step', 'run_end']

    After an iteration `issues` holds the problems by their codes: torn-line, not-json, not-an-object, no-event,
    line-too-long, other-schema.

    Raises InputError (code `run-not-found`, `run-not-a-file`, `too-large`), ReadError when iteration starts.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.issues: dict[str, ReadIssue] = {}

    def __iter__(self) -> Iterator[Record]:
        """Yield every record of the current file, including an unfinished last line if it parses."""
        self.issues = {}
        with self._open() as file:
            for number, line in enumerate(_lines(file), 1):
                if record := self._record(line, number):
                    yield record

    def _open(self) -> BinaryIO:
        try:
            return open_stream(self.path, limit=MAX_RUN_BYTES)
        except InputError as error:
            if error.code == "not-found":
                raise InputError(
                    f"{self.path}: no such file",
                    code="run-not-found",
                    hint="look for run.jsonl in the Trainer's output_dir, where GradienceCallback writes it",
                ) from None
            if error.code == "not-a-file":
                raise InputError(
                    f"{self.path}: not a regular file",
                    code="run-not-a-file",
                    hint=f"try {self.path / 'run.jsonl'}" if self.path.is_dir() else "name a run.jsonl",
                ) from None
            raise

    def _record(self, line: _Line, number: int) -> Record | None:
        text = line.start.strip()
        if not text:
            return None
        if line.length > MAX_LINE_BYTES or text.count(b",") > MAX_LINE_VALUES:
            self._note(
                number, "line-too-long", f"more than {MAX_LINE_BYTES} bytes, or {MAX_LINE_VALUES} values"
            )
            return None
        try:
            value = _decoded(text.decode("utf-8"))
        except (ValueError, RecursionError):
            torn = ("torn-line", "the last line was cut off")
            self._note(number, *(("not-json", "not JSON") if line.finished else torn))
            return None
        if not isinstance(value, dict):
            self._note(number, "not-an-object", "JSON, but not an object")
            return None
        event = value.get("event")
        if not isinstance(event, str):
            self._note(number, "no-event", "no `event`")
            return None
        if value.get("schema") != SCHEMA:
            self._note(number, "other-schema", f"schema is not {SCHEMA}")
        run_id, step, ts = value.get("run_id"), value.get("step"), value.get("ts")
        return Record(
            event=event,
            run_id=run_id if isinstance(run_id, str) else "",
            step=step if is_integer(step) else None,
            ts=float(ts) if is_number(ts) and 0 <= ts <= YEAR_9999 else None,
            line=number,
            data={key: value[key] for key in value if key not in ENVELOPE},
        )

    def _note(self, line: int, code: str, message: str) -> None:
        self.issues.setdefault(code, ReadIssue(line, message)).count += 1


def _decoded(text: str) -> Json:
    """The value of a line as our writer would have written it: NaN and infinity are null, and named in `nonfinite`.

    Raises ValueError and RecursionError for text that is not JSON, or is JSON that is not accepted.
    """
    begin = text.lstrip()[:1]
    if begin not in _BEGINS:
        raise ValueError("not JSON")
    if begin == "{" and "NaN" not in text and "Infinity" not in text and not _LARGE_NUMBER.search(text):
        value = _DECODER.decode(text)
    else:
        value = json.loads(text, parse_float=_number, parse_int=_integer)
        marks: dict[str, str] = {}
        value = strict(value, marks=marks)
        if marks and isinstance(value, dict):
            known = value.get(NONFINITE)
            value[NONFINITE] = {**(known if isinstance(known, dict) else {}), **marks}
    if excess_of(value) or has_half_characters(text, value):
        raise ValueError(f"more than {MAX_DEPTH} levels deep, or half of a character")
    result: Json = value
    return result


def _number(text: str) -> float:
    number = float(text)
    return number if abs(number) <= FINITE else math.copysign(math.inf, number)


def _integer(text: str) -> float:
    return int(text) if len(text) <= MAX_DIGITS else _number(text)


class _Line(NamedTuple):
    start: bytes
    """The whole line, or its first bytes if it is too long."""
    length: int
    finished: bool
    """True if the line's newline has been read."""


def _lines(file: BinaryIO) -> Iterator[_Line]:
    """Lines of the file, none of them held beyond MAX_LINE_BYTES."""
    while start := file.readline(MAX_LINE_BYTES + 1):
        length, finished = len(start), start.endswith(b"\n")
        while not finished and (rest := file.readline(MAX_LINE_BYTES)):
            length, finished = length + len(rest), rest.endswith(b"\n")
        yield _Line(start, length, finished)


def last_position(path: str | os.PathLike[str]) -> tuple[str, int | None] | None:
    """The run id of the file's last run and the last step seen in it; None: no file, or no record with a run id in it.

    For appending to a finished run (an audit) or resuming one. Reads the last 16 MB.
    """
    if not Path(path).is_file():
        return None
    position: tuple[str, int | None] | None = None
    reader = TelemetryReader(path)
    with reader._open() as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_TAIL_BYTES))
        for line in _lines(file):
            record = reader._record(line, 0)
            if record is None or not record.run_id:
                continue
            if position is None or record.run_id != position[0] or record.step is not None:
                position = record.run_id, record.step
    return position
