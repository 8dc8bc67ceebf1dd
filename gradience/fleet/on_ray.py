"""`gradience fleet --executor ray`: adapters measured by tasks of Ray; all machines see the same paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gradience.errors import require
from gradience.fleet.discover import Member
from gradience.fleet.verb import measured_rows
from gradience.reports.fleet import FleetRow

PART = 32
"""Adapters of one task."""


def rows_on_ray(members: Sequence[Member], **options: Any) -> Iterator[FleetRow]:
    """Yield the row of every adapter, as they come. options: keywords of `measure`. Raises MissingExtra without Ray."""
    ray: Any = require("ray", extra="ray")
    if not ray.is_initialized():
        ray.init(log_to_driver=False, configure_logging=False)
    task = ray.remote(max_retries=5)(_rows)
    there = [member._replace(path=member.path.absolute()) for member in members]
    waiting = [task.remote(there[at : at + PART], options) for at in range(0, len(there), PART)]
    while waiting:
        (done,), waiting = ray.wait(waiting)
        yield from ray.get(done)


def _rows(members: Sequence[Member], options: dict[str, Any]) -> list[FleetRow]:
    return list(measured_rows(members, workers=1, **options))
