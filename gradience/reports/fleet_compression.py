"""`fleet_compression.json`: a batch of adapters that was brought to one rank."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from gradience.files.artifact import ROW_CONFIG, Float12
from gradience.reports.base.report import Report
from gradience.reports.base.run import RunInfo

TruncationStatus = Literal["written", "reused", "small enough", "failed"]


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class Truncated:
    """What became of one adapter of the batch."""

    path: str
    status: TruncationStatus
    """`reused`: an earlier run of the same batch has written it. `small enough`: left as it is, nothing written."""
    old_rank: int | None = None
    old_bytes: int | None = None
    new_bytes: int | None = None
    measured_error: Float12 | None = None
    """‖ΔW − ΔW′‖_F/‖ΔW‖_F."""
    error: str | None = None
    """Code of the error."""
    message: str | None = None


class FleetCompression(Report):
    """A batch of adapters, brought to one rank: `fleet_compression.json` in the folder of the batch.

    >>> batch = compress_fleet("fleet.jsonl", "batch", rank=4)
    >>> batch.written, batch.small_enough, batch.failed
    (2, 1, 0)
    """

    row_field: ClassVar[str] = "adapters"
    repair: ClassVar[str] = "run the batch again: finished adapters are kept"

    schema_: Literal["gradience.fleet_compression/1"] = Field(
        default="gradience.fleet_compression/1", alias="schema"
    )
    rank: int
    written: int
    reused: int
    small_enough: int
    failed: int
    old_bytes: int
    """Of those that were written or reused."""
    new_bytes: int
    adapters: tuple[Truncated, ...]
    run: RunInfo
