"""`shrink_adapter`: what `gradience shrink` does, as one function: audit, plan, make, evaluate, write.

DIR/plan.json       what is decided before anything is evaluated
DIR/rungs/NAME/     each rung that was made, with the report of its compression; and the rewrite control
DIR/records/        the answers on the test rows;  DIR/dev/records/  those on the dev rows
DIR/adapter/        the smallest rung that is shown to hold; the card in it names the evidence
DIR/shrink.json     the evidence
DIR/digests.json    all of these but the rungs, each with its sha256
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.arguments import integer_argument, path_argument, ranks_argument
from gradience.artifacts.bench_plan import Role
from gradience.artifacts.calibration import Calibration, calibration_argument
from gradience.artifacts.card import CARD, write_block
from gradience.artifacts.digests import DIGESTS, files_below, write_digests
from gradience.artifacts.report import Report
from gradience.artifacts.run import Stopwatch
from gradience.artifacts.shrink import ShrinkReport
from gradience.artifacts.whole import check_output, whole_folder, write_errors, write_whole
from gradience.compress.adapter import Documents
from gradience.digests import sha256_file
from gradience.errors import UsageError
from gradience.evaluate.answering import RECORDS
from gradience.evaluate.kept import MANIFEST
from gradience.evaluate.request import request_of
from gradience.evaluate.verb import margin_of, memory_errors, note_changes, require_libraries
from gradience.models.lock import only_one
from gradience.models.tokenizers import TokenizerOf
from gradience.progress import Watcher
from gradience.shrink.outcome import report_of
from gradience.shrink.plan import DEV, PLAN, Prepared, prepare, settle
from gradience.shrink.rungs import HEALED
from gradience.shrink.walk import RUNGS, maker, start_of, start_on_dev, walk

SHRUNK, DOCUMENT, ADAPTER = "shrink.json", "shrink.md", "adapter"
COMPRESSION_DOCUMENT = "compression_report.md"


class Pages(NamedTuple):
    """What makes the Markdown for people, which is no business of a search."""

    document: Callable[[Report], str]
    """A report -> the page beside it."""
    card: Callable[[Path, ShrinkReport | None], str]
    """An adapter's folder, and the evidence about it -> the block of its model card."""


def shrink_adapter(
    adapter: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    base_model: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    task: str | None = None,
    options: Mapping[str, Any] | None = None,
    margin: float | str | Fraction = "0.025",
    rungs: Iterable[int] | None = None,
    calibration: Calibration | str | os.PathLike[str] | None = None,
    heal_prompts: str | os.PathLike[str] | None = None,
    role: Role = "confirm",
    limit: int | None = None,
    batch_size: int | None = None,
    max_length: int | None = None,
    max_new_tokens: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    quantization: Literal["nf4"] | None = None,
    revision: str | None = None,
    tokenizer: TokenizerOf | None = None,
    device: str = "auto",
    watcher: Watcher | None = None,
) -> ShrinkReport:
    """Write the smallest adapter that is shown to be as good as `adapter`, and return the evidence.

    >>> report = shrink_adapter(
    ...     "my_adapter", "shrunk", base_model="embedded:minilm", task="reviews", limit=64, rungs=[4], margin=0.05
    ... )
    >>> report.smallest, [rung.status for rung in report.rungs]
    ('rank4', ['shown'])

    Rungs are smaller copies, and tested from the largest down on the same examples; the first that is not shown to
    hold ends the search. The keywords are the flags of `gradience shrink`:

    adapter: the folder of a LoRA adapter.
    output: the folder for the smaller adapter and the evidence; with the same folder an interrupted search resumes.
    base_model: a folder, a name on the hub, or embedded:minilm; by default what the adapter's config names.
    data: a file of examples (CSV, TSV or JSON lines), every row of which counts.
    task: a task by its name, in place of data or to say how data are read.
    options: the options of the task.
    margin: the loss that must be excluded, as a share: 0.025 is 2.5 points.
    rungs: ranks to test; by default halvings of the audit's p90 suggestion down to 1.
    calibration: what `calibrate_adapter` returned or wrote; rungs keep what matters to the output, at equal sizes.
    heal_prompts: rows without labels; the smallest rung, healed on them, is tested before it as one more rung.
    role: which of the task's examples: "confirm" (test) or "dev".
    limit: at most so many examples.
    batch_size: examples that are answered together; by default as evaluate_adapters has it.
    max_length: tokens of a text to label that are read; 512 by default.
    max_new_tokens: of an answer in free text; by default what the task says.
    dtype: of the base, as in a config of Bench; so are the next three.
    quantization: of the base.
    revision: of the base on the hub.
    tokenizer: "base" or "adapter"; by default the one saved with the adapter where there is one.
    device: where the base is.
    watcher: told of each stage and batch.

    Raises what `compress_adapter` and `evaluate_adapters` raise, UsageError where no rung is smaller.
    """
    given = {
        "adapters": (path_argument("adapter", adapter),),
        "base_model": None if base_model is None else os.fspath(base_model),
        "data": None if data is None else path_argument("data", data),
        "task": task,
        "options": dict(options or {}),
        "margin": margin_of(margin),
        "role": role,
        "limit": None if limit is None else integer_argument("limit", limit),
        "batch_size": None if batch_size is None else integer_argument("batch_size", batch_size),
        "max_length": max_length,
        "max_new_tokens": max_new_tokens,
        "dtype": dtype,
        "quantization": quantization,
        "revision": revision,
        "tokenizer": tokenizer,
        "device": device,
    }
    request = request_of({name: value for name, value in given.items() if value is not None})
    target = path_argument("output", output)
    ranks = None if rungs is None else ranks_argument("rungs", rungs)
    kinds: dict[str, Any] = {
        "calibration": calibration_argument(calibration),
        "heal_prompts": None if heal_prompts is None else path_argument("heal_prompts", heal_prompts),
    }
    require_libraries()
    refuse_output(request.adapters[0], target)
    return shrink(prepare(request, ranks, **kinds), target, watcher)


def refuse_output(adapter: Path, output: Path) -> None:
    """Refuse an output in or over the adapter, or with an adapter in it that no search has written.

    Raises UsageError (`output-is-input`, `output-exists`, `not-ours`).
    """
    check_output(output / ADAPTER, adapter, force=(output / SHRUNK).exists() or (output / PLAN).exists())
    if output.resolve() == adapter.resolve():
        raise UsageError(
            f"{output}: the output is the adapter itself",
            code="output-is-input",
            hint="choose another output folder",
        )


def shrink(
    prepared: Prepared,
    output: Path,
    watcher: Watcher | None = None,
    *,
    pages: Pages | None = None,
    command: str = "",
) -> ShrinkReport:
    """Search the smallest rung that holds; what is finished in `output` is used again.

    pages: makes what is written for people.
    """
    require_libraries()
    watch, watcher = Stopwatch(command), watcher or Watcher()
    with only_one(output):
        note_changes(output, (PLAN, SHRUNK, DOCUMENT), watcher.note)
        prepared = replace(prepared, plan=settle(prepared.plan, output, watcher.note))
        make = maker(prepared, output, _documents(pages))
        for rung in prepared.plan.rungs:
            if rung.kind == HEALED.name:  # while no other base is loaded
                watcher.stage(f"{rung.name}/heal", 1, None)
                make(rung)
        with memory_errors():
            dev = start_on_dev(prepared, output, watcher, make)
            start = start_of(dev)
            answering, walked = walk(prepared, start, output, watcher, make)
        plan_sha256 = sha256_file(output / PLAN)
        report = report_of(prepared, plan_sha256, answering.fingerprint, dev, start, walked, watch)
        put_in_place(output, report.smallest)
        _save(report, output, pages)
        return report


def _save(report: ShrinkReport, output: Path, pages: Pages | None) -> None:
    """Write the report, its pages, and last the digests of all, of the plan, the adapter and the records."""
    with write_errors(output):
        (output / DIGESTS).unlink(missing_ok=True)  # of other files; what is written now is not what it lists
    report.save(output / SHRUNK)
    if pages is not None:
        write_whole(output / DOCUMENT, [pages.document(report).encode()])
        if report.smallest is not None:
            write_block(output / ADAPTER, pages.card(output / ADAPTER, report))
    rows = [report.reference, report.control.result, *(rung.result for rung in report.rungs)]
    names = {
        PLAN,
        SHRUNK,
        f"{RECORDS}/{MANIFEST}",
        *(file.path for row in rows if row for file in row.records),
    }
    if pages is not None:
        names.add(DOCUMENT)
    beside = tuple(f"{folder}/" for folder in (ADAPTER, DEV))
    write_digests(output, {*names, *(name for name in files_below(output) if name.startswith(beside))})


def put_in_place(output: Path, name: str | None) -> None:
    """Have the rung of this name in `adapter/`, as it was evaluated; None leaves no adapter there."""
    target = output / ADAPTER
    if name is None:
        with write_errors(target):
            if target.exists():
                shutil.rmtree(target)
        return
    source = output / RUNGS / name
    if target.exists() and all(_same(source / file, target / file) for file in (WEIGHTS, CONFIG)):
        return
    with whole_folder(target, force=True) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)


def _same(a: Path, b: Path) -> bool:
    return b.is_file() and sha256_file(a) == sha256_file(b)


def _documents(pages: Pages | None) -> Documents | None:
    if pages is None:
        return None
    return lambda folder, report: {
        COMPRESSION_DOCUMENT: pages.document(report),
        CARD: pages.card(folder, None),
    }
