"""Files and folders as reports: each file by the reader of its kind, which its `schema` names; an adapter is audited.

The one reader of reports for drawing and sharing: `gradience plot` takes one report of a path, a page all of them.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from gradience.adapters.locate import CONFIG, natural_key
from gradience.adapters.tensors import TensorFile
from gradience.audit.adapter import audit_adapter
from gradience.digests import sha256_bytes, sha256_file
from gradience.errors import GradienceError, InputError
from gradience.files.artifact import MAX_ARTIFACT_BYTES, Artifact
from gradience.files.digests import root_of
from gradience.files.shared_names import command_text, path_text
from gradience.monitor import monitor_runs
from gradience.reading import read_file
from gradience.reports.base.report import Report
from gradience.reports.calibration import METADATA, Calibration
from gradience.reports.page.render import PageSource, PromptTexts
from gradience.reports.registry import ARTIFACTS, model_of

OF_A_RUN = ("bench_aggregate.json", "shrink.json", "evaluation_sets.json", "evaluation.json", "bench.json")
"""In a folder, the report about all of it."""
LOG, LOG_SUFFIX = "run.jsonl", ".jsonl"
"""Log of a training run."""
CHECKPOINT = "checkpoint-"
"""Beginning of the names of a Trainer's checkpoints."""
NAMES = (*OF_A_RUN, "compression_report.json", "distill_report.json", "audit.json", LOG)
"""File names searched for in a folder, in the order of a page: results first, then their evidence."""
MOST_FILES = 40
"""Most files taken from one folder."""
SCORERS = ("exact", "nll", "multiple_choice")
"""Ways of reading a file of prompts."""


class AnyArtifact(Artifact):
    """Any artifact; only its kind is read."""

    model_config = ConfigDict(extra="ignore")
    repair = (
        "name an adapter's folder, a run.jsonl, or a file that Gradience wrote: audit.json, evaluation.json …"
    )

    schema_: str = "Gradience"


def report_at(path: Path) -> Report:
    """Return the one report of a path: a file's, of a run's folder that about all of it, else the audit of an adapter.

    A folder that is not an adapter may be a training's folder; its log is read.

    Raises InputError (`not-a-report`, and what reading and auditing raise).
    """
    if not path.is_dir():
        return _read(path, path.name).report
    logs = () if (path / CONFIG).is_file() else (LOG,)
    file = next((path / name for name in (*OF_A_RUN, *logs) if (path / name).is_file()), None)
    return audit_adapter(path) if file is None else _read(file, file.name).report


def read_sources(paths: Sequence[Path]) -> list[PageSource]:
    """Return the reports of files and of folders, in the order given.

    Of a folder: the reports with known names in it and in the folders right below, and an audit of each checkpoint that
    has none, or of the folder itself if it is an adapter without reports. Training runs come last, in one report.
    Raises InputError (`not-a-report`, `no-reports`, `many-reports`, and what reading and auditing raise).
    """
    entries = [entry for path in paths for entry in (_all_in(path) if path.is_dir() else [(path, path.name)])]
    logs = [path for path, _ in entries if path.suffix == LOG_SUFFIX]
    sources = [_read(path, name) for path, name in entries if path not in logs]
    return [*sources, PageSource(", ".join(map(path_text, logs)), monitor_runs(logs))] if logs else sources


def _all_in(path: Path) -> list[tuple[Path, str]]:
    """Return the files and the adapters of a folder, each with its name on the page."""
    within = sorted(
        (folder for folder in path.iterdir() if folder.is_dir()), key=lambda folder: natural_key(folder.name)
    )
    places = [path, *within]
    files = [folder / name for name in NAMES for folder in places if (folder / name).is_file()]
    adapters = [folder for folder in within if folder.name.startswith(CHECKPOINT) and _unaudited(folder)]
    if not files and not adapters and _unaudited(path):
        adapters = [path]
    if not files and not adapters:
        raise InputError(
            f"{path}: no report in this folder or directly below it, and the folder is not an adapter",
            code="no-reports",
            hint="name the reports themselves, such as a log that is not called run.jsonl, or each adapter's folder",
        )
    number = len(files) + len(adapters)
    if number > MOST_FILES:
        raise InputError(
            f"{path}: {number} reports (at most {MOST_FILES} of a folder fit on a page)",
            code="many-reports",
            hint="name the files to include",
        )
    return [
        (entry, path_text(entry) if entry == path else str(entry.relative_to(path)))
        for entry in (*files, *adapters)
    ]


def _unaudited(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and not (folder / "audit.json").is_file()


def _read(path: Path, name: str) -> PageSource:
    if path.is_dir():
        return PageSource(name, audit_adapter(path))
    if path.suffix == LOG_SUFFIX:
        return PageSource(name, monitor_runs([path]))
    if path.suffix == ".safetensors":
        return PageSource(name, _weights(path))
    text = read_file(path, MAX_ARTIFACT_BYTES)
    schema = AnyArtifact.parse(path, text).schema_
    kind = schema.partition("/")[0].removeprefix("gradience.")
    reader = model_of(kind) if kind in ARTIFACTS else None
    if reader is None or not issubclass(reader, Report):
        raise InputError(
            f"{path}: cannot report on this kind of file: {schema[:120]!r}",
            code="not-a-report",
            hint=AnyArtifact.repair,
        )
    source = source_of(reader.parse(path, text), path.parent)
    return replace(source, name=name, sha256=sha256_bytes(text).hex())


def source_of(report: Report, folder: Path | None, *, data: Path | None = None) -> PageSource:
    """Return a report in memory as a source of a page.

    folder: folder of the records that the report names. data: file of its examples, if it is known.
    """
    if folder is None:
        return PageSource("", report)
    prompts = partial(prompts_of, report, folder, data)
    return PageSource("", report, verify=verification_of(report, folder), folder=folder, prompts=prompts)


def prompts_of(report: Report, folder: Path, data: Path | None = None) -> PromptTexts:
    """Return the prompts of a report's examples; empty if their data cannot be read again.

    The data belong to a task that comes with Gradience, or are a file of the recorded name and digest: `data`, or one
    in the working directory, in `folder`, or in the folder above. Nothing is fetched, and no code of a user's task is
    run.
    """
    from gradience import tasks
    from gradience.models.embedded import REVIEWS, cache_folder

    named = getattr(report, "data", report)
    task, source = getattr(named, "task", ""), getattr(named, "source", {})
    files = []
    for words in source.values():
        name, _, sha256 = words.partition(" sha256:")
        places = [place / Path(name).name for place in (Path(), folder, folder.parent)]
        places += [] if data is None else [data]
        files += [path for path in places if sha256 and path.is_file() and sha256_file(path) == sha256]
    unpacked = task == "reviews" and any((cache_folder() / "assets").glob(f"{REVIEWS.key}*"))
    if task not in tasks.PROFILES or not (files or unpacked or task == "arithmetic"):
        return PromptTexts({})
    # prompts do not depend on the scorer that was chosen, but a file may be readable only for one
    scorers = [{"scorer": name} for name in (SCORERS if task == "jsonl" else ())]
    for options in scorers or [{}]:
        with suppress(GradienceError):  # such as columns that an option named
            loaded = tasks.load(task, {"file": files[0], **options} if files else {}, needed=())
            texts = {example.id: _prompt(example) for example in loaded.examples.all}
            return PromptTexts(texts, getattr(loaded, "label_names", ()))
    return PromptTexts({})


def _prompt(example: Any) -> str:
    """Return the text that a model is given."""
    if hasattr(example, "messages"):
        return "\n".join(f"{role}: {text}" for role, text in example.messages[:-1])
    text: str = example.prompt if hasattr(example, "prompt") else example.text
    return "\n".join(filter(None, [text, getattr(example, "text_pair", None)]))


def _weights(path: Path) -> Report:
    """Return a calibration, or the weights of an adapter."""
    with TensorFile.open(path) as file:
        calibrated = METADATA in file.metadata
    return Calibration.read(path).report if calibrated else audit_adapter(path)


def verification_of(report: Report, folder: Path) -> str:
    """Return the command that checks a report in `folder` against its sources; empty if there is none.

    The command includes the folder's digest, so that others who have the folder can check it as well.
    """
    if type(report).__name__ not in ("Bench", "BenchAggregate"):
        return ""
    root = root_of(folder)
    return command_text(["gradience", "verify", path_text(folder), *(["--root", root] if root else [])])
