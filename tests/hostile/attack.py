"""python -m hostile.attack ROOT [--share N] [--part I/N] [--kind NAME] [--mutants N]: every fault x file x verb.

Prints one line of JSON: what was run, how long it took, and every problem. A program of its own: it forks for each
case, so no thread may run beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gradience.cli.exit_codes import ExitCode
from hostile.expected import MEMORY, problems, strict
from hostile.faults import ANY, Fault, faults_of
from hostile.kinds import Kind, Read, all_kinds, laid_out
from hostile.mutants import mutants
from hostile.sandbox import contained

MUTATED = {
    "adapter config": 4,
    "bench YAML": 4,
    "run.jsonl": 4,
    "training YAML": 1,
    "index of shards": 1,
    "bench of a run": 1,
    "plan of a run": 1,
    "aggregate of a run": 1,
    "bench.json": 1,
    "plan of a compression": 1,
    "records": 1,
    "rows in JSONL": 1,
    "samples of lm-eval": 1,
}
"""Kinds of which mutants are made as well, and how many times as many as asked for."""


@dataclass
class Tally:
    """What a part of the attack came to."""

    inputs: int = 0
    runs: int = 0
    codes: dict[int, int] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    slowest: float = 0.0
    peak_bytes: int = 0
    problems: list[str] = field(default_factory=list)


def put(kind: Kind, fault: Fault, folder: Path) -> None:
    """A fresh folder in which the target has this fault."""
    for name in ("in", "out"):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
    laid_out(kind, folder)
    target = folder / kind.target
    if fault.place:
        target.unlink()
        fault.place(target)
    elif fault.change:
        target.write_bytes(fault.change(kind.content))


def codes_of(kind: Kind, fault: Fault) -> set[int]:
    """Exit codes that fit a fault of this kind of file."""
    may_be_good = kind.tolerant or (kind.optional and fault.place is not None)
    if kind.syntax in ("yaml", "rows") and fault.name.startswith(("cut", "without")):
        may_be_good = True  # half of such a text is such a text
    if fault.name == "missing" and kind.target.endswith("adapter_config.json"):
        may_be_good = True  # the weights are audited alone
    if kind.target.endswith("/bench.json") and fault.name == "link to nothing":
        may_be_good = True  # as a file that is missing: a seed without a result, and the others have theirs
    return set(fault.codes) | (set(kind.codes) if may_be_good else set())


def attack(kind: Kind, name: str, read: Read, command: str, fault: Fault, folder: Path, tally: Tally) -> None:
    """Run one case, and note what is wrong with how it ended."""
    put(kind, fault, folder)
    outcome = contained(read, folder, [folder / "out"])
    names = [*kind.target.split("/")[1:], "in/adapter", "in/good", "in/run"]
    target = folder / kind.target
    size = target.stat().st_size if target.is_file() and not target.is_symlink() else 0
    memory = math.inf if kind.torch else max(MEMORY, 8 * min(size, 2**30))
    wrong = problems(outcome, names, codes_of(kind, fault), memory)
    if "--json" in command and outcome.code == ExitCode.DONE and not strict(outcome.stdout):
        wrong.append("its JSON is not strict")
    tally.runs += 1
    tally.codes[outcome.code] = tally.codes.get(outcome.code, 0) + 1
    tally.cpu_seconds += outcome.cpu_seconds
    tally.slowest = max(tally.slowest, outcome.cpu_seconds)
    tally.peak_bytes = max(tally.peak_bytes, outcome.peak_bytes)
    for problem in wrong:
        tally.problems.append(f"{name} | {fault.name} | {command} | {problem}")
        sys.stderr.write(tally.problems[-1] + "\n")


def warm(kind: Kind, folder: Path) -> None:
    """Read the good file here once, so that the children need import nothing; it must be good."""
    here = os.getcwd()
    for command, read in kind.readers.items():
        if folder.is_dir():
            shutil.rmtree(folder)
        laid_out(kind, folder)
        os.chdir(folder)
        stdout = io.TextIOWrapper(io.BytesIO(), "utf-8")
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(io.StringIO()) as said:
            code = read() or 0
        os.chdir(here)
        assert code in kind.codes, f"{command}: {code}: {said.getvalue()}"


Case = tuple[str, Kind, Fault, str, Read]


def listed(root: Path) -> Iterator[Case]:
    """Every fault of every kind for every reader."""
    for name, kind in all_kinds(root / "made").items():
        for fault in faults_of(kind.syntax, kind.content):
            for command, read in kind.readers.items():
                yield name, kind, fault, command, read


def mutated(root: Path, count: int) -> Iterator[Case]:
    """`count` mutants of each kind in MUTATED, or some times as many; its readers in turn."""
    kinds = all_kinds(root / "made")
    for name, times in MUTATED.items():
        kind = kinds[name]
        readers = list(kind.readers.items())
        for number, content in enumerate(mutants(kind.content, count * times)):
            command, read = readers[number % len(readers)]
            yield (
                name,
                kind,
                Fault(f"mutant {number}", ANY, lambda _, content=content: content),
                command,
                read,
            )


def shared(cases: Iterator[Case], options: argparse.Namespace) -> Iterator[Case]:
    """Every `share`-th case, and of these those of this part."""
    part, parts = map(int, options.part.split("/"))
    chosen = (case for case in cases if options.kind in ("", case[0]))
    for number, case in enumerate(chosen):
        if number % options.share == 0 and number // options.share % parts == part:
            yield case


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--share", type=int, default=1)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--kind", default="")
    parser.add_argument("--mutants", type=int, default=0)
    options = parser.parse_args()
    sys.dont_write_bytecode = True
    tally, started = Tally(), time.perf_counter()
    root = options.root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    warmed: set[str] = set()
    inputs: set[tuple[str, str]] = set()
    cases = mutated(root, options.mutants) if options.mutants else listed(root)
    for name, kind, fault, command, read in shared(cases, options):
        if name not in warmed:
            warm(kind, root / "warm")
            warmed.add(name)
        inputs.add((name, fault.name))
        attack(kind, name, read, command, fault, root / "case", tally)
    tally.inputs = len(inputs)
    sys.stdout.write(
        json.dumps(asdict(tally) | {"seconds": time.perf_counter() - started, "kinds": len(warmed)})
    )


if __name__ == "__main__":
    main()
