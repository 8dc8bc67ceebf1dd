"""The hostile inputs of surfaces, each in a child.

To add a surface, add `tests/hostile/surfaces/NAME.py` with a list of inputs; test_programs.py finds it:

    from hostile.surface import Input, Surface

    GOOD = b'{"prompt": "2 + 2 =", "answer": "4"}'
    VERB = "evaluate in/adapter -b in/base --task jsonl --data in/rows.jsonl -o out/result --dry-run"

    def surface(folder):        # an empty folder, kept: make base models and adapters in it once
        files = {"in/base": tiny_model(folder / "base")}
        return Surface(
            what="rows",        # its row in the table of docs/reliability.md
            good=[Input("good rows", VERB, files | {"in/rows.jsonl": GOOD}, codes={0})],
            inputs=[Input("20 MB in a line", VERB, files | {"in/rows.jsonl": b'{"prompt": "' + b"a" * 20_000_000})],
        )

`good` runs first in the process that forks, so that what the verbs import is loaded once; its exit code must fit.
A forked child has none of its parent's threads: set threads to 1 where a config says how many.
An input runs in a forked child in a folder of its own with `in` (its files), `out` and `tmp`. It must
  - end with one of its exit codes: 3 unless the input says otherwise,
  - say `error: …` once and `hint: …`, and name one of its files; or, with a code of a result, print a result,
  - show no traceback and no character that steers a terminal,
  - change nothing outside `out`, `tmp` and the cache folder, start no process, open no socket, load no pickle (`may`
    allows what the verb itself does, such as "socket." for a hub on this machine),
  - take at most 10 s of processor time, and 500 MB beyond what the process had with its libraries. An input that may
    take more says how much, and quotes the words of docs/reliability.md that say so in `limit`.
"""

import contextlib
import io
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from gradience.cli.app import run
from hostile.expected import MEMORY, problems, strict
from hostile.sandbox import CHANGES, Outcome, contained

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 10
CACHE = "cache"
"""Below the root of all surfaces: where verbs keep what they fetched and unpacked."""

Place = Callable[[Path], None]
Work = Callable[[], int | None]


@dataclass(frozen=True, slots=True)
class Input:
    """One hostile input and what may come of it.

    run    a command as it is typed (in a folder with `in`, `out` and `tmp`), or a function
    files  place below the folder -> its content, a file or folder to link the content of, or what makes it there
    """

    name: str
    run: str | Work
    files: Mapping[str, bytes | str | Path | Place] = field(default_factory=dict)
    codes: Set[int] = frozenset({3})
    seconds: float = SECONDS
    """Of processor time."""
    memory: int = MEMORY
    """Bytes beyond what the process had before."""
    limit: str = ""
    """Quote from docs/reliability.md that allows more than SECONDS or MEMORY."""
    names: Sequence[str] = ()
    """A message holds one of them; by default one of the files or their folders."""
    always: bool = False
    """True if every share of the suite runs it."""


@dataclass(frozen=True, slots=True)
class Surface:
    """The inputs of one surface."""

    what: str
    inputs: Iterable[Input]
    good: Sequence[Input] = ()
    may: Sequence[str] = ()
    """Beginnings of audit events that the verbs themselves raise, such as "socket." or "subprocess."."""


def lay_out(files: Mapping[str, bytes | str | Path | Place], folder: Path) -> None:
    """Make a fresh folder with these files."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("in", "out", "tmp"):
        (folder / name).mkdir(parents=True)
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path) and content.is_dir():
            shutil.copytree(content, place, copy_function=os.link, symlinks=True, dirs_exist_ok=True)
        elif isinstance(content, Path):
            os.link(content, place)
        elif callable(content):
            content(place)
        else:
            place.write_bytes(content.encode() if isinstance(content, str) else content)


def sparse(size: int) -> Place:
    """A file of zeros that takes no space."""

    def make(place: Path) -> None:
        with place.open("wb") as file:
            file.truncate(size)

    return make


def contents(folder: Path) -> dict[str, tuple[int, ...]]:
    """Everything in the folder but for `out` and `tmp`, with what changes where somebody writes."""
    return {
        str(path.relative_to(folder)): (stat.st_mode, stat.st_size, stat.st_mtime_ns, stat.st_ino)
        for path in folder.rglob("*")
        if path.relative_to(folder).parts[0] not in ("out", "tmp")
        for stat in [path.lstat()]
        if not path.is_dir()
    }


def work_of(case: Input, folder: Path) -> Work:
    """What the child does."""

    def work() -> int | None:
        tempfile.tempdir = str(folder / "tmp")
        return run(shlex.split(case.run)) if isinstance(case.run, str) else case.run()

    return work


def warm(case: Input, folder: Path) -> None:
    """Do a good input here, so that the children need import nothing."""
    lay_out(case.files, folder)
    here, stdout = os.getcwd(), io.TextIOWrapper(io.BytesIO(), "utf-8")
    os.chdir(folder)
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(io.StringIO()) as said:
        code = work_of(case, folder)() or 0
    tempfile.tempdir = None
    os.chdir(here)
    assert code in case.codes, f"{case.name}: {code}: {said.getvalue()}"


def attack(case: Input, surface: Surface, folder: Path, figures: Counter[str]) -> list[str]:
    """Run one input, count how it ended, and return what is wrong with that."""
    lay_out(case.files, folder)
    before = contents(folder)
    writable = [folder / "out", folder / "tmp", folder.parent.parent / CACHE]
    outcome = contained(work_of(case, folder), folder, writable, surface.may, int(case.seconds) + 2)
    names = case.names or [part for name in case.files for part in (name, os.path.dirname(name))]
    outcome = replace(outcome, peak_bytes=max(0, outcome.peak_bytes - outcome.had_bytes))
    wrong = [*problems(outcome, names, case.codes, case.memory, case.seconds)]
    if isinstance(case.run, str) and "--json" in case.run and not (outcome.code or strict(outcome.stdout)):
        wrong.append("its JSON is not strict")
    if changed := sorted(set(before.items()) ^ set(contents(folder).items())):
        wrong.append(f"changed {sorted({name for name, _ in changed})}")
    if max(case.seconds / SECONDS, case.memory / MEMORY) > 1:
        words = " ".join((ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").split())
        assert case.limit, f"{case.name}: no words of docs/reliability.md"
        assert case.limit in words, case.name
    count(figures, outcome, bool(changed))
    return [f"{surface.what} | {case.name} | {problem}" for problem in wrong]


def count(figures: Counter[str], outcome: Outcome, changed: bool) -> None:
    """Add an outcome to the figures: a row of the table."""
    wrote = outcome.tried.startswith(("open ", *CHANGES))
    figures["inputs"] += 1
    figures["writes outside the output"] += wrote or changed
    figures["executions"] += bool(outcome.tried) and not wrote
    figures["tracebacks"] += b"Traceback (most recent call last)" in outcome.stderr
    over = outcome.cpu_seconds > SECONDS or outcome.peak_bytes > MEMORY or outcome.code < 0
    figures["over 10 s or 500 MB"] += over
    figures["slowest, seconds"] = max(figures["slowest, seconds"], round(outcome.cpu_seconds, 1))
    figures["largest, MB"] = max(figures["largest, MB"], round(outcome.peak_bytes / 1e6))


def attacked(name: str, root: Path, share: int, only: str) -> dict[str, Any]:
    """Run every `share`-th input of a surface whose name contains `only`, and those that are always run."""
    kept = root / name
    kept.mkdir(parents=True, exist_ok=True)
    surface: Surface = import_module(f"hostile.surfaces.{name}").surface(kept)
    for number, case in enumerate(surface.good):
        warm(case, kept / f"good{number}")
    figures, wrong, started = Counter(), [], time.perf_counter()
    for number, case in enumerate(case for case in surface.inputs if only in case.name):
        if case.always or number % share == 0:
            wrong += attack(case, surface, kept / "case", figures)
    figures["seconds"] = round(time.perf_counter() - started)
    return {"what": surface.what, "figures": figures, "problems": wrong}


def main(root: str, names: Sequence[str], share: int = 1, only: str = "") -> list[dict[str, Any]]:
    """The figures and the problems of each of these surfaces."""
    sys.dont_write_bytecode = True
    home = Path(root).resolve()
    os.environ["XDG_CACHE_HOME"] = str(home / CACHE)
    return [attacked(name, home, share, only) for name in names]
