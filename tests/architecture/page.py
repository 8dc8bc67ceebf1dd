"""docs/architecture.md as data: the rows of its tables, and where a thing of each kind is added."""

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
    """The object called `name` of the module `module`."""

    module: str
    name: str


class Addition(NamedTuple):
    """Where a thing is registered, and which objects it needs besides."""

    line: Place
    besides: list[Place]


def places(cell: str) -> list[Place]:
    """Read every "`RULES` of `check/rules/__init__.py`"."""
    return [
        Place(".".join(["gradience", *path.removesuffix("/__init__").split("/")]), name)
        for name, path in re.findall(r"`(\w+)` of `([\w/]+)\.py`", cell)
    ]


def addition(line: str, besides: str) -> Addition:
    """Read the two cells; there is one line."""
    (place,) = places(line)
    return Addition(place, places(besides))


ADDITIONS = {
    re.sub("^an? ", "", kind): addition(line, besides)
    for kind, _, line, besides in rows("One file and one line")
}
"""Kind of thing -> where it is added."""
