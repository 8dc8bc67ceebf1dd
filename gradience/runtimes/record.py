"""`runs.json`: what each runtime did with the adapters that were run, per architecture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.runtimes.parts import Parts

RUNS = Path(__file__).with_name("runs.json")


class Failure(NamedTuple):
    """What a runtime refused, or got wrong. parts: what the adapters had that it loads otherwise.   says: its words.

    No parts: whatever the adapter is.
    """

    parts: Parts
    says: str


class Runs(NamedTuple):
    """The runs of one runtime on one architecture.

    loads: parts of adapters that it loaded with the scale of its rule (see `scales`), the largest sets alone.
    """

    loads: tuple[Parts, ...]
    refuses: tuple[Failure, ...]
    wrong: tuple[Failure, ...]


class RuntimeRecord(NamedTuple):
    """One runtime of one version. page: where its runs are."""

    runtime: str
    version: str
    date: str
    page: str
    architectures: Mapping[str, Runs]


@cache
def read_runs() -> tuple[RuntimeRecord, ...]:
    """Read those that Gradience is shipped with, in the order of the file."""
    return parse_runs(read_file(RUNS, MAX_SETTINGS_BYTES).decode())


def parse_runs(text: str) -> tuple[RuntimeRecord, ...]:
    """Read the records of a file like `runs.json`."""
    return tuple(_record(row) for row in json.loads(text))


def _record(row: Mapping[str, Any]) -> RuntimeRecord:
    runs = {
        name: Runs(
            tuple(frozenset(parts) for parts in outcomes["loads"]),
            _failures(outcomes["refuses"]),
            _failures(outcomes["wrong"]),
        )
        for name, outcomes in row["architectures"].items()
    }
    return RuntimeRecord(row["runtime"], row["version"], row["date"], row["page"], runs)


def _failures(rows: list[dict[str, Any]]) -> tuple[Failure, ...]:
    return tuple(Failure(frozenset(row["parts"]), row["says"]) for row in rows)
