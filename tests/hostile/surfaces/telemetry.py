"""run.jsonl, of which a training writes the numbers and anybody may write the rest; read by `gradience monitor`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostile.kinds import TESTS
from hostile.surface import Input, Surface, sparse

RUNS = TESTS / "monitor" / "runs"
TEXTS = {
    "good.jsonl": ("1e308", "5e-324", "1" + "0" * 400, '"x"', '{"a": NaN}'),
    "grpo.jsonl": ("-Infinity", "[1e308]"),
}
"""Run -> what each of its numbers is replaced by."""
RUN = "in/run.jsonl"
CODES = {0, 1, 3}
PLACE = "@@@"


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a number in a record; of a list the first item."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and value:
        yield from leaves(value[0], (*path, 0))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def with_value(record: Any, path: tuple[Any, ...], text: str) -> bytes:
    """The record as JSON, with `text` in the place of a value."""
    changed = json.loads(json.dumps(record))
    holder = changed
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = PLACE
    return json.dumps(changed).replace(json.dumps(PLACE), text).encode()


def extremes(name: str, texts: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """A run with one number changed: in every record of the first of its kind, so that series have it twice."""
    records = [json.loads(line) for line in (RUNS / name).read_text().splitlines()]
    lines = [json.dumps(record).encode() for record in records]
    seen = set()
    for number, record in enumerate(records):
        for path in leaves(record):
            key = (record["event"], record.get("kind"), *path)
            if key in seen or (record["event"] == "train_step" and number < 8):
                continue
            seen.add(key)
            for text in texts:
                changed = with_value(record, path, text)
                where = ".".join(map(str, (record["event"], *path)))
                yield (
                    f"{where} = {text[:20]}",
                    b"\n".join([*lines[:number], changed, changed, *lines[number:]]),
                )


def lines(record: str, count: int) -> bytes:
    return (record.encode() + b"\n") * count


def surface(_folder: Path) -> Surface:
    good = (RUNS / "good.jsonl").read_bytes()
    start = good.split(b"\n", 1)[0] + b"\n"
    zeros = "[" + "0," * 4_000_000 + "0]"
    large = [
        ("20 list lines of 8 MB", start + lines(zeros, 20)),
        (
            "20 lists in records of 8 MB",
            start + lines('{"event":"train_step","step":1,"loss":' + zeros + "}", 20),
        ),
        (
            "20 texts of 8 MB",
            start + lines('{"event":"alert","step":1,"message":"' + "a" * 8_000_000 + '"}', 20),
        ),
        (
            "400,000 steps",
            start
            + lines(
                '{"schema":"gradience.vnext.telemetry/v1","ts":1,"run_id":"a","event":"train_step","step":1,"loss":1}',
                400_000,
            ),
        ),
        ("20,000 runs", b"".join(start.replace(b"8b042bca", b"%08d" % number) for number in range(20_000))),
        (
            "half a million names",
            start + lines('{"a":{' + ",".join(f'"{n}":{{}}' for n in range(500_000)) + "}}", 1),
        ),
    ]
    return Surface(
        what="telemetry",
        good=[Input("good", f"monitor {RUN} --json", {RUN: good}, codes=CODES)],
        inputs=[
            *(Input(name, f"monitor {RUN}", {RUN: content}, codes=CODES) for name, content in large),
            Input("a sparse file of 1 GB", f"monitor {RUN}", {RUN: sparse(1_000_000_000)}, codes=CODES),
            *(
                Input(f"{run}: {name}", f"monitor {RUN} {how}", {RUN: content}, codes=CODES)
                for (run, texts), how in zip(TEXTS.items(), ("--verbose", "--json"), strict=True)
                for name, content in extremes(run, texts)
            ),
        ],
    )
