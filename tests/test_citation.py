"""This software and the original work are cited as two things, everywhere alike."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import gradience

ROOT = Path(__file__).resolve().parent.parent
CFF = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
ORIGINAL = CFF["references"][0]


def entries() -> dict[str, dict[str, str]]:
    """The BibTeX entries of docs/citing.md: key -> fields."""
    text = (ROOT / "docs" / "citing.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^@software\{(\w+),\n(.*?)^\}", text, flags=re.MULTILINE | re.DOTALL)
    return {key: dict(re.findall(r"^ +(\w+) += \{(.*)\}", body, flags=re.MULTILINE)) for key, body in blocks}


@pytest.mark.parametrize(
    ("key", "cited"),
    [("gradience_implementation", CFF), ("nanney2026gradience", ORIGINAL)],
    ids=["ours", "original"],
)
def test_bibtex_says_what_the_citation_file_says(key, cited):
    entry = entries()[key]
    assert re.sub(r"[{}]", "", entry["title"]) == cited["title"]
    assert entry["date"] == cited["date-released"]
    assert entry["url"]
    author = cited["authors"][0]
    assert author.get("family-names", author.get("name")) in entry["author"]


def test_the_two_are_told_apart():
    assert CFF["title"] != ORIGINAL["title"]
    assert CFF["authors"] != ORIGINAL["authors"]
    assert CFF["version"] == gradience.__version__
    assert ORIGINAL["url"] not in str({name: value for name, value in CFF.items() if name != "references"})


def test_the_packages_address_is_not_passed_off_as_the_originals():
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert [label for label, url in urls.items() if url == ORIGINAL["url"]] == ["Original work"]
