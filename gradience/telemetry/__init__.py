"""run.jsonl: what happened in a training run, one JSON object a line.

`TelemetryWriter` appends, `TelemetryReader` reads. Both work in any training loop and need
nothing but the standard library. The format is described in docs/reference/files.md.
"""

from gradience.telemetry.records import SCHEMA, ReadIssue, Record, TelemetryReader, last_position
from gradience.telemetry.writer import RunStatus, TelemetryWriter

__all__ = [
    "SCHEMA",
    "ReadIssue",
    "Record",
    "RunStatus",
    "TelemetryReader",
    "TelemetryWriter",
    "last_position",
]
