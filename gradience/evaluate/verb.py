"""`evaluate_adapters`: what `gradience evaluate` does, as one function: read, check, answer, compare, write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from gradience.arguments import integer_argument, path_argument
from gradience.artifacts.bench_plan import Role
from gradience.artifacts.digests import DIGESTS, Digests, write_digests
from gradience.artifacts.evaluation import EvaluationReport
from gradience.artifacts.exact import as_written
from gradience.artifacts.report import Report
from gradience.artifacts.run import Stopwatch
from gradience.artifacts.whole import write_errors, write_whole
from gradience.digests import sha256_file
from gradience.errors import InputError, OutputError, UsageError, require
from gradience.evaluate.answering import RECORDS, Answering
from gradience.evaluate.engines.base import OutOfMemoryError
from gradience.evaluate.inputs import Inputs, read_inputs
from gradience.evaluate.kept import MANIFEST
from gradience.evaluate.outcome import report_of
from gradience.evaluate.request import request_of
from gradience.models.lock import only_one
from gradience.models.tokenizers import TokenizerOf
from gradience.progress import Watcher

EVALUATION, DOCUMENT = "evaluation.json", "evaluation.md"
LIBRARIES = ("scipy", "torch", "transformers", "peft")


def evaluate_adapters(
    adapters: Iterable[str | os.PathLike[str]],
    *,
    base_model: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    task: str | None = None,
    options: Mapping[str, Any] | None = None,
    output: str | os.PathLike[str] | None = None,
    margin: float | str | Fraction = "0.025",
    with_base: bool = False,
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
    engine: str = "transformers",
    watcher: Watcher | None = None,
) -> EvaluationReport:
    """Evaluate several adapters of one base on the same examples, and compare each with the first of them.

    >>> report = evaluate_adapters(
    ...     ["my_adapter", "smaller"], base_model="embedded:minilm", task="reviews", limit=64
    ... )
    >>> [(row.name, row.n, row.grade) for row in report.adapters]  # 64 examples decide nothing
    [('my_adapter', 64, None), ('smaller', 64, 'C')]

    The base is loaded once, and every adapter answers the same batches. The keywords are the flags of
    `gradience evaluate`:

    adapters: folders of LoRA adapters; the first is the reference.
    base_model: a folder, a name on the hub, or embedded:minilm; by default what the reference's config names.
    data: a file of examples (CSV, TSV or JSON lines), every row of which is evaluated.
    task: a task by its name, in place of data or to say how data are read.
    options: the options of the task.
    output: the folder for evaluation.json and the records; with the same folder an interrupted evaluation resumes.
    margin: the loss that must be excluded, as a share: 0.025 is 2.5 points.
    with_base: the base without an adapter as well; of a classifier the reference's head on the base's own features.
    role: which of the task's examples: "confirm" (test) or "dev".
    limit: at most so many examples.
    batch_size: examples that are answered together; by default as many of like length as fit.
    max_length: tokens of a text to label that are read; 512 by default.
    max_new_tokens: of an answer in free text; by default what the task says.
    dtype: of the base, as in a config of Bench; so are the next three.
    quantization: of the base.
    revision: of the base on the hub.
    tokenizer: "base" or "adapter"; by default the one saved with the reference where there is one.
    device: where the base is.
    engine: what answers, "transformers" or "vllm"; GRADIENCE_ENGINE_PYTHON names the Python of the latter.
    watcher: told of each stage and batch.

    Raises InputError where adapters, data or base cannot be used, UsageError for what makes no sense together,
    MissingExtra, LockedError while another evaluation writes to `output`, OutputError when disk or memory refuse.
    """
    given = {
        "adapters": tuple(path_argument("an adapter", each) for each in _several(adapters)),
        "base_model": None if base_model is None else os.fspath(base_model),
        "data": None if data is None else path_argument("data", data),
        "task": task,
        "options": dict(options or {}),
        "output": None if output is None else path_argument("output", output),
        "margin": margin_of(margin),
        "with_base": with_base,
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
        "engine": engine,
    }
    request = request_of({name: value for name, value in given.items() if value is not None})
    require_libraries()
    return evaluate(read_inputs(request), request.output, watcher)


def evaluate(
    inputs: Inputs,
    output: Path | None,
    watcher: Watcher | None = None,
    *,
    page_of: Callable[[Report], str] | None = None,
    command: str = "",
) -> EvaluationReport:
    """Evaluate what was read; what is finished in `output` is used again. page_of: makes the Markdown beside it."""
    require_libraries()
    watch = Stopwatch(command)
    with nullcontext() if output is None else only_one(output):
        watcher = watcher or Watcher()
        if output is not None:
            note_changes(output, (EVALUATION, DOCUMENT), watcher.note)
        answering = Answering(inputs, output, watcher)
        base = answering.fingerprint
        with memory_errors():
            rows = answering.run()
        report = report_of(answering, rows, base, watch)
        if output is not None:
            _save(report, output, page_of)
        return report


@contextmanager
def memory_errors() -> Iterator[None]:
    """Say what to do where memory ends. Raises OutputError (`out-of-memory`)."""
    try:
        yield
    except OutOfMemoryError as error:
        smaller = "a smaller --batch-size, or none, or " if error.divisible else ""
        raise OutputError(
            f"not enough memory: {error}",
            code="out-of-memory",
            hint=f"try {smaller}--quantization nf4, --dtype bfloat16 or another --device",
        ) from None


def _save(report: EvaluationReport, output: Path, page_of: Callable[[Report], str] | None) -> None:
    """Write the report, the page, and last the digests of both and of the records that it rests on."""
    names = [
        EVALUATION,
        f"{RECORDS}/{MANIFEST}",
        *(file.path for row in report.adapters for file in row.records),
    ]
    with write_errors(output):
        (output / DIGESTS).unlink(missing_ok=True)  # of other files; what is written now is not what it lists
    report.save(output / EVALUATION)
    if page_of is not None:
        names.append(write_whole(output / DOCUMENT, [page_of(report).encode()]).name)
    write_digests(output, names)


def note_changes(output: Path, names: Iterable[str], note: Callable[[str], None]) -> None:
    """Say which of the files that are written anew are not what was written; the records are compared when used."""
    if not (output / DIGESTS).is_file():
        return
    try:
        listed = Digests.read(output / DIGESTS).files
    except InputError as error:
        note(f"{DIGESTS}: made again: {error}")
        return
    for name in names:
        if name in listed and (output / name).is_file() and sha256_file(output / name) != listed[name]:
            note(f"{name}: made again: it is not what was written")


def require_libraries() -> None:
    """Check that the libraries of an evaluation are there. Raises MissingExtra."""
    for module in LIBRARIES:
        require(module, extra="hf")


def margin_of(value: object) -> Fraction:
    """Return a margin exactly as it was written. Raises UsageError (`bad-margin`)."""
    try:
        return as_written(value)
    except ValueError as error:
        raise UsageError(f"margin: {error}", code="bad-margin", hint="a share: 0.025 is 2.5 points") from None


def _several(adapters: Iterable[Any]) -> list[Any]:
    return [adapters] if isinstance(adapters, str | os.PathLike) else list(adapters)
