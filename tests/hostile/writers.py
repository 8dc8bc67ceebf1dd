"""What writes: each on a folder of its own, with what stood there before, small enough to be killed at every call."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import bench_sample
from factor_samples import random_factors, write
from kill_records import evaluate

from gradience.bench.run.stages import Stages
from gradience.cli.app import run
from gradience.cli.console import show_error
from gradience.cli.exit_codes import ExitCode
from gradience.errors import GradienceError
from gradience.files.whole import only_one, whole_folder, write_whole
from gradience.telemetry import TelemetryWriter
from gradience.telemetry.writer import RunStatus

MOVING = {
    "seconds",
    "peak_memory_bytes",
    "run",
    "mtime_ns",
    "ts",
    "elapsed_s",
    "run_id",
    "started",
    "resumed_from",
    "earlier",
}
"""Keys whose values differ between two runs of the same."""
VERDICTS = (ExitCode.GATE_FAILED, ExitCode.INCONCLUSIVE, ExitCode.INCOMPLETE)
ADAPTER = "adapter"
TORN = "torn"
"""In place of a line that is not whole."""


@dataclass(frozen=True, slots=True)
class Writer:
    """One kind of writing, below a folder."""

    name: str
    prepare: Callable[[Path], object]
    """Put there what stands before."""
    work: Callable[[Path], int | None]
    """Write, and return the exit code."""
    units: tuple[str, ...]
    """Files and folders that are there whole or not at all."""
    again: Callable[[Path], int | None] | None = None
    """Run after a kill, as a user would go on; None: the same writer again."""
    appends: bool = False
    """Whether its one unit is a file of lines that only grows."""
    removes: bool = False
    """Whether it takes away what is out of date before it has the new."""
    result: tuple[str, ...] = (".",)
    """What the next run makes equal to that of a run that nobody disturbed."""


def nothing(folder: Path) -> None:
    """Nothing stands there."""


def as_verb(work: Callable[[Path], object]) -> Callable[[Path], int]:
    """What a part of a verb raises, as the command line would end."""

    def worked(folder: Path) -> int:
        try:
            work(folder)
        except GradienceError as error:
            show_error(str(error), error.hint)
            return int(error.exit_code)
        except OSError as error:
            show_error(str(error), "")
            return int(ExitCode.OUTPUT)
        return 0

    return worked


def adapter(folder: Path, modules: int = 3) -> Path:
    """An adapter with a card beside it."""
    place = write(folder / ADAPTER, random_factors(0, *[(6, 20, 30)] * modules))
    (place / "README.md").write_text("# card\n", encoding="utf-8")
    return place


def command(line: str) -> Callable[[Path], int]:
    """`gradience LINE --quiet`, in which `@` is the folder. A verdict, whatever it is, is a result."""

    def worked(folder: Path) -> int:
        code = run([*(word.replace("@", str(folder)) for word in line.split()), "--quiet"])
        return 0 if code in VERDICTS else code

    return worked


COMPRESS = f"compress @/{ADAPTER} --rank 2 --output @/out"
AGGREGATE = "bench aggregate @/seed_42 @/seed_123 @/seed_456 -o @/out --force"


def older(folder: Path) -> None:
    """The adapter, and another one where the smaller one goes."""
    adapter(folder)
    write(folder / "out", random_factors(1, (3, 5, 5)))


def before_audit(folder: Path) -> None:
    adapter(folder)
    (folder / "audit.json").write_text("{}\n", encoding="utf-8")


def before_append(folder: Path) -> None:
    adapter(folder)
    telemetry(folder)


def telemetry(folder: Path, steps: int = 40) -> None:
    """A run of `steps` steps, as the callback writes it."""
    writer = TelemetryWriter(folder / "run.jsonl", run_id="same")
    writer.start({"lora": {"r": 8}})
    for step in range(steps):
        writer.train_step(step, loss=1 / (step + 1), lr=1e-3)
        if step % 10 == 9:
            writer.eval(step, {"eval_loss": 0.5})
    writer.end(RunStatus.OK, step=steps)
    writer.close()


def before_aggregate(folder: Path) -> None:
    bench_sample.save_seeds(folder)
    command(AGGREGATE)(folder)


def stage(folder: Path, rank: int = 2) -> None:
    """Two stages of a seed, the second from the first."""

    def first(place: Path) -> None:
        write_whole(place / "weights", [b"long work"])
        (place / "more").mkdir(exist_ok=True)
        write_whole(place / "more" / "log", [b"a", b"b"])

    def second(place: Path) -> None:
        write_whole(place / "score", [str(rank).encode()])

    with only_one(folder / "seed"):
        stages = Stages(folder / "seed", watch=lambda stage: lambda: None, say=lambda text: None)
        stages.done("train", {"rank": rank}, first)
        stages.done("eval", {"rank": rank}, second, resumable=False)


def file(folder: Path, text: bytes = b"new") -> None:
    write_whole(folder / "out.txt", [text, b"er"])


def whole(folder: Path, text: bytes = b"newer") -> None:
    with whole_folder(folder / "out", force=True) as scratch:
        write_whole(scratch / "a", [text])


WRITERS = (
    Writer("compress", adapter, command(COMPRESS), ("out",), again=command(f"{COMPRESS} --force")),
    Writer("compress --force", older, command(f"{COMPRESS} --force"), ("out",)),
    Writer(
        "audit --output", before_audit, command(f"audit @/{ADAPTER} -o @/audit.json --force"), ("audit.json",)
    ),
    Writer(
        "audit --append", before_append, command(f"audit @/{ADAPTER} --append @/run.jsonl"), ("run.jsonl",),
        appends=True,
    ),
    Writer("telemetry", nothing, as_verb(telemetry), ("run.jsonl",), appends=True),
    Writer("records", nothing, as_verb(evaluate), ("first.jsonl", "second.jsonl")),
    Writer("stages", nothing, as_verb(stage), ("seed/train/weights", "seed/eval/score")),
    Writer(
        "stages made again",
        partial(stage, rank=1),
        as_verb(stage),
        ("seed/train/manifest.json", "seed/eval/manifest.json"),
        removes=True,
    ),
    Writer(
        "bench aggregate",
        before_aggregate,
        command(AGGREGATE),
        ("out/bench_aggregate.json", "out/bench_aggregate.md"),
        result=("out/bench_aggregate.json", "out/bench_aggregate.md"),  # digests are those of times as well
    ),
)  # fmt: skip
LONG = Writer(
    "telemetry of 240 steps", nothing, as_verb(partial(telemetry, steps=240)), ("run.jsonl",), appends=True
)
"""Only killed: a refused line is as good as another."""
SMALLEST = (
    Writer("file", partial(file, text=b"old"), as_verb(file), ("out.txt",)),
    Writer("folder", partial(whole, text=b"older"), as_verb(whole), ("out",)),
)
"""Writers that the other writers call; these are killed at every moment."""


def state(place: Path) -> dict[str, Any]:
    """What is at `place`, a file or a folder, without what differs between two runs: {} when nothing is."""
    if place.is_file():
        return {"": timeless(place)}
    files = (path for path in sorted(place.rglob("*")) if not path.is_dir())
    return {os.fspath(path.relative_to(place)): timeless(path) for path in files}


def timeless(path: Path) -> Any:
    content = path.read_bytes()
    if path.suffix == ".json":
        return _without_moving(json.loads(content))
    if path.suffix == ".jsonl":
        return [_line(line) for line in content.splitlines() if line]
    return content


def _line(line: bytes) -> Any:
    try:
        return _without_moving(json.loads(line))
    except ValueError:
        return TORN


def _without_moving(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_moving(inner) for key, inner in value.items() if key not in MOVING}
    return [_without_moving(inner) for inner in value] if isinstance(value, list) else value


def lines_of(unit: dict[str, Any]) -> list[Any]:
    """The records of a file of lines; none where it is not there."""
    return unit.get("", [])
