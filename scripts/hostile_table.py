"""The table of docs/reliability.md: what a run of `make hostile` came to, goal by goal."""

import json
from collections.abc import Mapping
from typing import Any

from hostile_figures import KEPT

BESIDE = ("goal", "what", "run", "seconds", "survivors")


def hostile_table() -> str:
    """One row for each goal and what of it was run."""
    lines = ["| goal | what | figures | seconds | run on |", "|---|---|---|---|---|"]
    for row in json.loads(KEPT.read_text(encoding="utf-8"))["rows"]:
        lines.append(
            f"| {row['goal']} | {row['what']} | {_figures(row)} | {row.get('seconds', '')} | {row['run']['date']} |"
        )
    runs = sorted({row["run"]["on"] for row in json.loads(KEPT.read_text(encoding="utf-8"))["rows"]})
    return "\n".join([*lines, "", f"Run on {'; '.join(runs)}."])


def _figures(row: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:,}"
        for name, value in row.items()
        if name not in BESIDE and isinstance(value, int | float)
    )
