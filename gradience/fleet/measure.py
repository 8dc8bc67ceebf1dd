"""One adapter -> its row: what an audit measures, as far as a table of thousands needs it, in a fraction of the time.

The figures are those of `gradience audit` for the same adapter; rows of modules, findings and suggestions are left out.

Rows are appended to `fleet.jsonl.part` as they come, and at the end `fleet.jsonl` is replaced whole. A row is kept
if every file of its adapter has the size and the time of change that it had, unless it is a failure: those are tried
again.
"""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from io import FileIO
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Any, Self, TextIO

import numpy as np
from threadpoolctl import threadpool_limits

from gradience import ranks, spectra
from gradience.adapters.adapter import Adapter, LoraPair, measure_bytes, workers_within
from gradience.adapters.files import Closing
from gradience.adapters.formats import open_adapter
from gradience.adapters.locate import CONFIG
from gradience.adapters.tensors import type_names
from gradience.audit.adapter import spectrum_of
from gradience.blas import processors
from gradience.errors import GradienceError, InputError
from gradience.files.shared_names import path_text, sentence_text
from gradience.files.whole import lock_alone, write_errors, write_whole
from gradience.reading import MAX_DATA_BYTES, MAX_SETTINGS_BYTES, cannot_open, open_stream
from gradience.reports.fleet import FleetRow
from gradience.runtimes.verdict import not_served

_PARTS = (".safetensors", ".json", ".bin", ".pt", ".pth", ".gguf")
"""Ends of the names of files that may be part of an adapter: weights, an index, a config."""


def measure(path: Path, name: str, *, max_memory: int | None = None, allow_pickle: bool = False) -> FleetRow:
    """Return the row of the adapter at `path`; of one that cannot be measured the row that says why.

    name: what the row calls it, the path relative to the root.
    max_memory: bytes that the work may take; as for `audit_adapter`.
    allow_pickle: read pickles as well, in a process with limits.
    """
    try:
        with open_adapter(path, allow_pickle=allow_pickle) as opened:
            work = ((pair, measure_bytes(pair)) for pair in opened.pairs)
            workers_within(max_memory, [opened], work, 1)
            return _row(opened, name)
    except (GradienceError, OSError) as error:
        refusal = cannot_open(path, error) if isinstance(error, OSError) else error
        return failed(name, refusal.code, str(refusal), stamp_of(stamped_files(path)))


def failed(name: str, code: str, message: str, stamp: dict[str, tuple[int, int]] | None = None) -> FleetRow:
    """Return the row of an adapter that could not be measured."""
    return FleetRow(path=name, status="failed", error=code, message=sentence_text(message), stamp=stamp or {})


# ---------------------------------------------------------------- what a row was measured from


def stamp_of(files: Sequence[Path]) -> dict[str, tuple[int, int]]:
    """Return size and time of the last change of each file, by its name. A file that is not there has none."""
    stamp = {}
    for file in files:
        try:
            facts = os.stat(file)
        except OSError:
            continue
        stamp[file.name] = (facts.st_size, facts.st_mtime_ns)
    return stamp


def stamped_files(path: Path) -> list[Path]:
    """Return the files that a row rests on: those of a folder (not of the folders in it), or the file itself and the
    config beside it."""
    try:
        with os.scandir(path) as entries:
            return sorted(
                Path(entry.path) for entry in entries if entry.name.endswith(_PARTS) and entry.is_file()
            )
    except NotADirectoryError:
        return [path, path.with_name(CONFIG)]
    except OSError:  # not there, or not to be read: its row says so
        return []


# ---------------------------------------------------------------- the measures


def _row(opened: Adapter, name: str) -> FleetRow:
    config = opened.config
    updates = [spectrum for pair in opened.pairs for spectrum in _spectra(pair)]
    measured = [(values, scale) for values, scale in updates if values is not None]
    trained = [(values, scale) for values, scale in measured if values.values[0] > 0]
    unmeasured = len(updates) - len(measured)
    missing = unmeasured + len(opened.unaudited)
    common: dict[str, Any] = {}
    if config is not None:
        common = {
            "base_model": None if config.base_model is None else path_text(config.base_model),
            "init": config.init,
            "use_rslora": config.use_rslora,
            "use_dora": config.use_dora,
            "declared_r": config.r,
        }
    if trained:
        common |= _use_of_rank([spectrum.values for spectrum, _ in trained])
        scaled = [spectrum.scaled(scale) for spectrum, scale in trained if scale is not None]
        if not unmeasured and all(scale is not None for _, scale in measured):
            common |= _norms(scaled)
    return FleetRow(
        path=name,
        status="incomplete" if missing else "ok" if trained else "untrained",
        stamp=stamp_of(stamped_files(opened.location.path)),
        sha256=opened.sha256(),
        bytes=opened.bytes,
        format=opened.format,
        dtypes=tuple(sorted({type_names(pair.a.entry.dtype, pair.b.entry.dtype) for pair in opened.pairs})),
        rank=max((pair.rank for pair in opened.pairs), default=None),
        modules=len(updates),
        trained=len(trained),
        unmeasured=missing,
        params=opened.lora_params,
        width=sum(pair.params / pair.rank for pair in opened.pairs),
        not_served=sentence_text(not_served(opened)),
        **common,
    )


def _spectra(pair: LoraPair) -> Iterator[tuple[spectra.Spectrum | None, float | None]]:
    """Yield (spectrum, scale) of each expert; None for a spectrum that cannot be measured."""
    loaded = pair.load()
    for expert in range(pair.experts):
        try:
            measured: spectra.Spectrum | None = spectrum_of(loaded, expert)
        except spectra.NonFiniteFactor:
            measured = None
        yield None if measured is None or measured.error_bound >= 1 else measured, pair.scale


def _use_of_rank(updates: Sequence[spectra.FloatArray]) -> dict[str, float]:
    needed = [spectra.rank_that_holds(spectra.cumulative_energy(values), 0.90) for values in updates]
    return {
        "stable_rank_median": median(map(spectra.stable_rank, updates)),
        "energy_rank_90_p50": float(ranks.percentile(needed, 50)),
        "energy_rank_90_p90": float(ranks.percentile(needed, 90)),
    }


def _norms(updates: Sequence[spectra.FloatArray]) -> dict[str, Any]:
    """Return the fields computed from scaled singular values; empty if they overflow or are all 0."""
    peak = max(float(values[0]) for values in updates)
    if not 0 < peak < math.inf:
        return {}
    # Relative to the largest: squares of norms beyond 1e154 would overflow.
    energies = [np.square(values / peak) for values in updates]
    total = sum(float(energy.sum()) for energy in energies)
    largest = max(map(len, energies))
    steps = [step for step in ranks.VLLM_MAX_LORA_RANKS if step < largest]
    norm = peak * math.sqrt(total)
    return {
        "lost_energy_at": {
            step: sum(spectra.lost_energy(energy, step) for energy in energies) / total for step in steps
        },
        "fro_norm": norm if math.isfinite(norm) else None,
    }


# ---------------------------------------------------------------- fleet.jsonl, and how it survives a kill

PART = ".part"
MAX_ROW = MAX_SETTINGS_BYTES
"""Bytes of a line."""
FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Never through a link, and never waiting for the reader of a pipe."""
BEGINS = b'{"schema":"gradience.fleet_row/'
"""First bytes of a row that was written here."""


class FleetJournal(Closing):
    """The rows of one run, on the disk. Use as a context manager; only one process at a time."""

    def __init__(self, output: Path, part: Path, file: FileIO, stack: ExitStack) -> None:
        self._output, self._part, self._file, self._stack = output, part, file, stack

    @classmethod
    def begin(cls, output: Path) -> Self:
        """Open or continue the journal of a file.

        Raises LockedError (output-locked), InputError (not-a-file, not-ours), OutputError (write-failed).
        """
        part = output.with_name(output.name + PART)
        with write_errors(part), ExitStack() as stack:
            file = stack.enter_context(os.fdopen(os.open(part, FLAGS, 0o666), "ab", buffering=0))
            lock_alone(file.fileno(), output)
            with open_stream(part) as rows:
                head = rows.read(len(BEGINS))
            if not BEGINS.startswith(head):  # it is neither continued nor removed
                raise InputError(
                    f"{part}: not the unfinished rows of a fleet run, so nothing is written to it",
                    code="not-ours",
                    hint="move this file away, or give another --output",
                )
            return cls(output, part, file, stack.pop_all())

    def close(self) -> None:
        """Close the journal; what it holds stays for the next run."""
        self._stack.close()

    def kept(self, paths: Mapping[str, Path]) -> dict[str, FleetRow]:
        """Return the rows of earlier runs that still hold, by name.

        paths: the adapters of this run by name. Raises InputError if the earlier file was not written by Gradience.
        """
        kept: dict[str, FleetRow] = {}
        finished = read_rows(self._output) if self._output.exists() else ()
        for row in chain(self._unfinished(), finished):
            path = paths.get(row.path)
            if path is None or row.status == "failed" or row.path in kept:
                continue
            if stamp_of(stamped_files(path)) == row.stamp:
                kept[row.path] = row
        return kept

    def _unfinished(self) -> Iterator[FleetRow]:
        """Yield the rows of a killed run. After a line that a kill cut short, new rows go on."""
        end = 0
        for line in _lines(self._part):
            try:
                if not (line.startswith(BEGINS) and line.endswith(b"\n")):
                    break
                yield FleetRow.parse(self._part, line)
            except InputError:
                break
            end += len(line)
        with write_errors(self._part):
            self._file.truncate(end)

    def add(self, row: FleetRow) -> None:
        """Append a row. Raises OutputError (write-failed)."""
        with write_errors(self._output):
            rest = memoryview(_line_of(row))
            while rest:
                rest = rest[self._file.write(rest) :]

    def finish(self, rows: Iterable[FleetRow]) -> None:
        """Write the file, with these rows, and remove the journal."""
        write_whole(self._output, map(_line_of, rows))
        with write_errors(self._part):
            self._part.unlink()


def _line_of(row: FleetRow) -> bytes:
    return row.to_json(indent=None).encode() + b"\n"


def read_rows(path: Path) -> Iterator[FleetRow]:
    """Yield the rows of a `fleet.jsonl`, one in memory at a time. Raises InputError as `Artifact.read` does."""
    for line in _lines(path):
        yield FleetRow.parse(path, line)


def _lines(path: Path) -> Iterator[bytes]:
    with open_stream(path, limit=MAX_DATA_BYTES) as file:
        while line := file.readline(MAX_ROW + 1):
            if len(line) > MAX_ROW:
                raise InputError(
                    f"{path}: not rows of a fleet: a line of more than {MAX_ROW:,} bytes",
                    code="artifact-invalid",
                    hint=FleetRow.repair,
                )
            yield line


# ---------------------------------------------------------------- adapters spread over processes
#
# A thread for each process hands it an adapter and waits for the reply. A request is a line of JSON on the process's
# standard input, a reply a line on its standard output, so that no untrusted data is unpacked in the parent process.
# A worker ends when its input closes: then the parent has ended too. A process that dies of an adapter (memory, a fault
# in a library) costs only that adapter's reply; another takes its place.

Request = dict[str, Any]
"""`task`, measure or truncate; `path` and `name` of an adapter; `options`, and what else the task takes."""


def reply(request: Request) -> bytes:
    """Return the reply to a request, a line of JSON."""
    path, options = Path(request["path"]), request["options"]
    if request["task"] == "measure":
        return measure(path, request["name"], **options).to_json(indent=None).encode() + b"\n"
    from gradience.fleet.verb import truncate

    row = FleetRow.model_validate(request["row"])
    written = truncate(row, path, Path(request["target"]), request["rank"], options)
    return json.dumps(asdict(written)).encode() + b"\n"


def serve(requests: TextIO) -> None:
    """Answer every request on standard output, in order, until there are no more."""
    with threadpool_limits(limits=1, user_api="blas"):
        for line in requests:
            sys.stdout.buffer.write(reply(json.loads(line)))
            sys.stdout.buffer.flush()


WORTH_A_PROCESS = 16
"""Minimum adapters per process, so that its start pays off."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


Reply = tuple[Request, bytes | str]
"""A request and its reply. A string is the reason why the process ended during the request."""


def replies(requests: Sequence[Request], *, workers: int | None = None) -> Iterator[Reply]:
    """Yield every request with its reply, as they come.

    workers: most processes; the processor count by default. With few requests this process does it all by itself.
    """
    count = min(workers or processors(), len(requests) // WORTH_A_PROCESS)
    if count <= 1:
        with threadpool_limits(limits=1, user_api="blas"):
            for request in requests:
                yield request, reply(request)
        return
    free: SimpleQueue[_Process] = SimpleQueue()

    def ask(request: Request) -> Reply:
        process = free.get()
        try:
            return request, process.ask(request)
        finally:
            free.put(process)

    with ExitStack() as stack:
        for _ in range(count):
            free.put(stack.enter_context(closing(_Process())))
        pool = ThreadPoolExecutor(count)
        stack.callback(
            pool.shutdown, wait=True, cancel_futures=True
        )  # they begin nothing more once this is left
        for done in as_completed([pool.submit(ask, request) for request in requests]):
            yield done.result()


class _Process:
    """A process of this file, started at the first request, and restarted after it died."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None

    def ask(self, request: Request) -> bytes | str:
        """Return the reply to a request."""
        running = self._running or self._start()
        assert running.stdin is not None
        assert running.stdout is not None
        try:
            running.stdin.write(json.dumps(request).encode() + b"\n")
            running.stdin.flush()
            line = running.stdout.readline()
        except BrokenPipeError:
            line = b""
        if line.endswith(b"\n"):
            return line
        self.close()
        return f"the process that worked on it ended with exit code {running.returncode}"

    def _start(self) -> subprocess.Popen[bytes]:
        self._running = subprocess.Popen(
            [sys.executable, "-P", "-m", "gradience.fleet.measure"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_THREAD},
            process_group=0,  # Ctrl-C reaches only the parent, which then closes the input
        )
        return self._running

    def close(self) -> None:
        """Close its input and wait until it has ended."""
        running, self._running = self._running, None
        if running is None:
            return
        for pipe in (running.stdin, running.stdout):
            with suppress(BrokenPipeError):  # a request that nobody read
                if pipe is not None:
                    pipe.close()
        running.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the parent was killed
    serve(sys.stdin)
