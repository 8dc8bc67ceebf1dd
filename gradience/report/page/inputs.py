"""Files and folders as reports: each file by the reader of its kind, which its `schema` names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import cast

from pydantic import ConfigDict, Field

from gradience.artifacts.base import MAX_ARTIFACT_BYTES, Artifact
from gradience.artifacts.calibration import Calibration
from gradience.artifacts.report import Report
from gradience.digests import sha256_bytes
from gradience.errors import InputError
from gradience.monitor import monitor_runs
from gradience.reading import read_file
from gradience.report.page.pieces import Source

KINDS = {
    "gradience.audit": "audit:AuditReport",
    "gradience.bench": "bench:Bench",
    "gradience.bench_aggregate": "bench_aggregate:BenchAggregate",
    "gradience.bench_forecast": "forecast:BenchForecast",
    "gradience.calibration": "calibration:CalibrationReport",
    "gradience.check": "check:CheckReport",
    "gradience.comparison": "comparison:ComparisonReport",
    "gradience.compression": "compression:CompressionReport",
    "gradience.compression_plan": "compression:CompressionPlan",
    "gradience.evaluation": "evaluation:EvaluationReport",
    "gradience.evidence": "evidence:EvidenceReport",
    "gradience.heal": "heal:HealReport",
    "gradience.monitor": "monitor:MonitorReport",
    "gradience.power": "power:PowerReport",
    "gradience.shrink": "shrink:ShrinkReport",
    "gradience.verification": "verification:Verification",
}
"""The schema without its version -> the module of artifacts/ and the class that reads it."""

NAMES = (
    "bench_aggregate.json",
    "shrink.json",
    "evaluation.json",
    "bench.json",
    "compression_report.json",
    "heal_report.json",
    "audit.json",
    "run.jsonl",
)
"""What is looked for in a folder, in the order of the page: what was shown, then what it rests on."""
MOST_FILES = 40
"""Of a folder."""


class Named(Artifact):
    """Any artifact, of which only the kind is read."""

    model_config = ConfigDict(extra="ignore")
    repair = "name a file that Gradience wrote: audit.json, bench.json, evaluation.json, run.jsonl …"

    schema_: str = Field(default="Gradience", alias="schema")


def read_sources(paths: Sequence[Path]) -> list[Source]:
    """Return the reports of files and of run folders, in the order given.

    Raises InputError (`not-a-report`, `no-reports`, and what the readers of the artifacts raise).
    """
    return [_read(file, name) for path in paths for file, name in _files(path)]


def _files(path: Path) -> Iterator[tuple[Path, str]]:
    """The file itself, or the known names in a folder and in the folders right within it; each with what it is called
    on the page: a page is shared, and tells no more of the path."""
    if not path.is_dir():
        yield path, path.name
        return
    within = sorted(folder for folder in path.iterdir() if folder.is_dir())
    places = [path, *within]
    files = [folder / name for name in NAMES for folder in places if (folder / name).is_file()]
    if not files:
        raise InputError(
            f"{path}: no report in this folder, nor in the folders in it",
            code="no-reports",
            hint="an adapter is audited first: gradience audit ADAPTER --output audit.json",
        )
    if len(files) > MOST_FILES:
        raise InputError(
            f"{path}: {len(files)} reports, and a page takes at most {MOST_FILES} of a folder",
            code="many-reports",
            hint="name the files that you want",
        )
    yield from ((file, str(file.relative_to(path))) for file in files)


def _read(path: Path, name: str) -> Source:
    if path.suffix == ".jsonl":
        return Source(name, monitor_runs([path]))
    if path.suffix == ".safetensors":
        return Source(name, Calibration.read(path).report)
    text = read_file(path, MAX_ARTIFACT_BYTES)
    schema = Named.parse(path, text).schema_
    kind = KINDS.get(schema.partition("/")[0])
    if kind is None:
        raise InputError(
            f"{path}: no report is made of this kind of file: {schema[:120]!r}",
            code="not-a-report",
            hint=Named.repair,
        )
    reader = cast("type[Report]", resolve_name(f"gradience.artifacts.{kind}"))
    report = reader.parse(path, text)
    return Source(name, report, sha256_bytes(text).hex(), verification_of(report))


def verification_of(report: Report) -> str:
    """Return the command that checks a report against what it was made from; empty where there is none."""
    if type(report).__name__ in ("Bench", "BenchAggregate"):
        return "gradience bench verify DIR"
    return ""
