"""The rows of a fleet: what `compress --fleet` is given, and what `gradience fleet` finds of an earlier run."""

from __future__ import annotations

from dataclasses import replace

import fleet_sample

from hostile.kinds import ADAPTERS, BAD, GOOD, Kind, commands

ROWS = "in/fleet.jsonl"
EARLIER, JOURNAL = "out/fleet.jsonl", "out/fleet.jsonl.part"


def fleets() -> dict[str, Kind]:
    """Every kind, by name."""
    row = fleet_sample.fleet_row()
    rows = [row.model_copy(update={"path": BAD}), row.model_copy(update={"path": GOOD, "rank": 2})]
    content = b"".join(row.to_json(indent=None).encode() + b"\n" for row in rows)
    batch = f"compress --fleet {ROWS} --to-rank 2 --output out/small"
    again = f"fleet {BAD} {GOOD} --output {EARLIER}"
    earlier = Kind(
        EARLIER,
        "lines",
        ADAPTERS | {EARLIER: content},
        commands(again, f"{again} --json"),
        tolerant=True,  # a row that is missing is measured again
        optional=True,
    )
    return {
        "rows of a fleet": Kind(
            ROWS,
            "lines",
            ADAPTERS | {ROWS: content},
            commands(batch, f"{batch} --json"),
            tolerant=True,  # fewer rows are rows
            codes=frozenset({0, 4}),  # one row is outdated, the other small enough
        ),
        "rows of an earlier run of a fleet": earlier,
        "journal of a fleet": replace(earlier, target=JOURNAL, files=ADAPTERS | {JOURNAL: content}),
    }
