"""Limits that hosts of LoRA adapters document (`hosts.json`). None of them was run.

>>> limit_of("together:kimi-k2").max_rank
16
"""

from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from gradience.errors import UsageError
from gradience.files.artifact import artifact_row
from gradience.reading import MAX_SETTINGS_BYTES, read_file


@artifact_row
class HostLimit:
    """Limits of one host, for all its models or for one."""

    host: str
    name: str
    model: str | None
    """Model family with a limit of its own; null for all others."""
    max_rank: int
    source: str
    """Address of the page, or of the thread that quotes it."""
    date: str
    """Date on which the source was read."""
    fine_tuning: bool = False
    """True if the source states the limit for training on the host, and none for serving."""
    min_rank: int = 1
    adapters_per_base: int | None = None
    modules: tuple[str, ...] = ()
    """Module types that may have LoRA; empty if the source names none."""

    @property
    def words(self) -> str:
        """Name the limit and its source."""
        model = f" for {self.model}" if self.model else ""
        ranks = (
            f"rank {self.min_rank} to {self.max_rank}"
            if self.min_rank > 1
            else f"rank at most {self.max_rank}"
        )
        model += " in fine-tuning on this host" if self.fine_tuning else ""
        return f"{ranks}{model}, documented by {self.name} ({self.source}, read {self.date}; not run)"


@cache
def host_limits() -> tuple[HostLimit, ...]:
    """Return every documented limit."""
    data = read_file(Path(__file__).with_name("hosts.json"), MAX_SETTINGS_BYTES)
    return TypeAdapter(tuple[HostLimit, ...]).validate_json(data)


def limit_of(target: str) -> HostLimit:
    """Return the limit of `HOST` or `HOST:MODEL`; a model without a row has the host's.

    Raises UsageError (`unknown-host`).
    """
    host, _, model = target.lower().partition(":")
    rows = [row for row in host_limits() if row.host == host]
    if not rows:
        known = ", ".join(sorted({row.host for row in host_limits()}))
        raise UsageError(
            f"{target}: no documented limits", code="unknown-host", hint=f"use one of {known}, or --rank K"
        )
    general = next(row for row in rows if row.model is None)
    return next(
        (row for row in rows if row.model and model and row.model in model.replace("_", "-")), general
    )
