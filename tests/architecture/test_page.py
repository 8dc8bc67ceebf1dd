"""docs/architecture.md is true: its packages, its walks, and the places where a thing is added."""

import re
import tomllib
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pytest
from page import ADDITIONS, PAGE, ROOT, rows

TOYS = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("test_toys_*.py"))]


def test_the_drawing_has_every_room_from_the_bottom_up():
    """As pyproject.toml has them, from which import-linter takes the arrows."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = contracts["contracts"][0]["layers"][::-1]
    layer_of = {package: layer for layer, packages in enumerate(layers) for package in packages.split(" : ")}
    (picture,) = re.findall(r"^!\[.+\]\((.+\.svg)\)$", PAGE, flags=re.MULTILINE)
    drawing = ElementTree.parse(ROOT / "docs" / picture).getroot()
    packages = [element for element in drawing.iter() if element.get("class") == "package"]
    assert sorted(package.text for package in packages) == sorted(layer_of)
    from_below = sorted(packages, key=lambda package: -float(package.attrib["y"]))
    assert [layer_of[package.text] for package in from_below] == sorted(layer_of.values())


@pytest.mark.parametrize("heading", ["The walk of an adapter", "The walk of a YAML", "One file and one line"])
def test_every_file_of_a_table_is_there(heading: str):
    paths = re.findall(r"`([\w/]+(?:\.py|\.json|/))`", "\n".join(map(" ".join, rows(heading))))
    artifacts = {"plan.json", "bench.json", "bench_aggregate.json"}
    assert [
        path for path in paths if path not in artifacts and not (ROOT / "gradience" / path).exists()
    ] == []
    assert len(paths) >= len(rows(heading))


@pytest.mark.parametrize("kind", ADDITIONS)
def test_what_a_thing_needs_is_there(kind: str):
    for module, name in (ADDITIONS[kind].line, *ADDITIONS[kind].besides):
        assert hasattr(import_module(module), name)


def test_every_row_has_a_toy_and_every_toy_a_row():
    """`add` takes the place from the page: what it registers elsewhere, no toy would see."""
    assert {kind for toys in TOYS for kind in re.findall(r'\badd\("([^"]+)"', toys)} == {*ADDITIONS}


def test_no_toy_patches_anything_but_what_the_page_names():
    """`add` is the only way: it takes the line and what is besides from the page, and refuses another name."""
    others = r"monkeypatch|setattr|setitem|mock|sys\.modules|import_module|__dict__|vars\(|exec\("
    assert [re.findall(others, toys) for toys in TOYS] == [[]] * len(TOYS)
    arguments = [arguments for toys in TOYS for arguments in re.findall(r"def test_\w+\(([^)]*)\)", toys)]
    assert {*re.findall(r"\w+", " ".join(arguments))} <= {
        "add",
        "new_file",
        "command",
        "artifact",
        "tmp_path",
    }


def test_what_the_page_does_not_name_cannot_be_patched(add):
    with pytest.raises(AssertionError, match="LayerAudit"):
        add("finding", None, LayerAudit=None)
    with pytest.raises(AssertionError, match="LayerAudit"):
        add("measure", None, name="nothing")
