"""docs/architecture.md as data: the rows of its tables, and where a thing of each kind is added."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table under `heading`, without its two first lines."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


class Place(NamedTuple):
    """The line that registers a thing: `registry` of the module `module`."""

    module: str
    registry: str

    @classmethod
    def of(cls, cell: str) -> Place:
        """Read "`RULES` of `check/rules/__init__.py`"."""
        registry, path = re.fullmatch(r"`([A-Z]+)` of `([\w/]+)\.py`", cell).groups()
        return cls(".".join(["gradience", *path.removesuffix("/__init__").split("/")]), registry)


PLACES = {re.sub("^an? ", "", kind): Place.of(line) for kind, _, line, _ in rows("One file and one line")}
"""Kind of thing -> where its line stands."""
