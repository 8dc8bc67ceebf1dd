"""What a path holds that can be drawn: an adapter is audited, a run is read, an artifact is the report that it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gradience.errors import InputError

if TYPE_CHECKING:
    from gradience.artifacts.report import Report

OF_A_RUN = ("bench_aggregate.json", "bench.json", "shrink.json", "evaluation.json")
"""In a folder, the report about all of it; a folder with none of them is an adapter's."""


def report_at(path: Path) -> Report:
    """Return the report at `path`, or that of the adapter or the run there.

    Raises InputError (`not-a-report`, and what reading and auditing raise).
    """
    if path.is_dir():
        file = next((path / name for name in OF_A_RUN if (path / name).is_file()), None)
        return _audited(path) if file is None else _artifact(file)
    if path.suffix == ".jsonl":
        from gradience.monitor import monitor_runs

        return monitor_runs([path])
    if path.suffix == ".safetensors":
        return _weights(path)
    return _artifact(path)


def _audited(path: Path) -> Report:
    from gradience.audit.adapter import audit_adapter

    return audit_adapter(path)


def _weights(path: Path) -> Report:
    """A calibration, or the weights of an adapter."""
    from gradience.adapters.tensors import TensorFile
    from gradience.artifacts.calibration import METADATA, Calibration

    with TensorFile.open(path) as file:
        calibrated = METADATA in file.metadata
    return Calibration.read(path).report if calibrated else _audited(path)


def _artifact(path: Path) -> Report:
    """The artifact that a JSON file says it is."""
    from importlib import import_module

    from pydantic_core import from_json

    from gradience.artifacts.base import MAX_ARTIFACT_BYTES
    from gradience.cli.schema import ArtifactName
    from gradience.reading import read_file
    from gradience.report.plots.kinds import KINDS

    text = read_file(path, MAX_ARTIFACT_BYTES)
    try:
        values = from_json(text)
    except ValueError as error:
        raise _no_report(path, str(error)) from None
    schema = values.get("schema") if isinstance(values, dict) else None
    name = str(schema).removeprefix("gradience.").partition("/")[0]
    kind = next((each for each in ArtifactName if each == name and each.model in KINDS), None)
    if kind is None:
        raise _no_report(path, f"its schema is {str(schema)[:80]!r}")
    report: Report = getattr(import_module(kind.module), kind.model).parse(path, text)
    return report


def _no_report(path: Path, why: str) -> InputError:
    return InputError(
        f"{path}: no report that has plots: {why}",
        code="not-a-report",
        hint="name an adapter's folder, a run.jsonl, or a report that Gradience wrote, such as audit.json",
    )
