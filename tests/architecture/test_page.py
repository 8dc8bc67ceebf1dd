"""docs/architecture.md is true: its rooms, its walks, and the places where a thing is added."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from page import PAGE, PLACES, ROOT, rows


def test_the_drawing_has_every_room_from_the_bottom_up():
    """As pyproject.toml has them, from which import-linter takes the arrows."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = contracts["contracts"][0]["layers"][::-1]
    layer_of = {room: layer for layer, rooms in enumerate(layers) for room in rooms.split(" : ")}
    lines = PAGE.partition("```mermaid\n")[2].partition("```")[0].splitlines()
    drawn = re.findall(r"\w+", "\n".join(line for line in lines if "subgraph" not in line))
    in_order = list(dict.fromkeys(word for word in drawn if word in layer_of))
    assert {*layer_of} - {*in_order} == {"__main__"}
    assert [layer_of[room] for room in in_order] == sorted(layer_of[room] for room in in_order)


@pytest.mark.parametrize("heading", ["The walk of an adapter", "The walk of a YAML", "One file and one line"])
def test_every_file_of_a_table_is_there(heading: str):
    paths = re.findall(r"`([\w/]+(?:\.py|\.json|/))`", "\n".join(map(" ".join, rows(heading))))
    artifacts = {"plan.json", "bench.json", "bench_aggregate.json"}
    assert [
        path for path in paths if path not in artifacts and not (ROOT / "gradience" / path).exists()
    ] == []
    assert len(paths) >= len(rows(heading))


@pytest.mark.parametrize(
    ("kind", "cell"), [(kind, cell) for kind, *_, cell in rows("One file and one line") if cell]
)
def test_what_else_a_thing_needs_is_there(kind: str, cell: str):
    """`NAME` of `path`, which can be imported; or a path alone."""
    for name, path in re.findall(r"`(\w+)` of `([\w/]+)\.py`", cell):
        assert hasattr(import_module(f"gradience.{path.replace('/', '.')}"), name), kind


def test_every_row_has_a_toy_and_every_toy_a_row():
    """`add` takes the place from the page: what it registers elsewhere, no toy would see."""
    tests = Path(__file__).parent.glob("test_toys_*.py")
    toys = {
        kind for test in tests for kind in re.findall(r'\badd\("([^"]+)"', test.read_text(encoding="utf-8"))
    }
    assert toys == {*PLACES}
