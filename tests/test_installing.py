"""Install instructions point to this repository; the name `gradience` on the package index is another project."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gradience.errors import MissingExtra, require

ROOT = Path(__file__).resolve().parent.parent
INDEX = r"\b(?:pip|pipx|uv)\b.*\binstall\b.*[\s\"'`]gradience(?![\w/.-])|[\"']gradience\["
FROM_THE_INDEX = re.compile(INDEX)
TEXT = {".py", ".md", ".yaml", ".yml", ".cff", ".sh", ".txt", ".ipynb"}
ROOMS = ("gradience", "docs", "scripts", "benchmarks", "examples", "tests", ".github")


def extras() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return list(project["project"]["optional-dependencies"])


def pages() -> list[Path]:
    """Every text that a user may read, the sources with their messages among them."""
    inside = [page for room in ROOMS for page in (ROOT / room).rglob("*") if page.suffix in TEXT]
    return [
        *(
            page
            for page in [*ROOT.glob("*.md"), *ROOT.glob("*.cff"), ROOT / "Makefile", *inside]
            if page != Path(__file__).resolve()
        )
    ]


def test_no_page_and_no_message_sends_anybody_to_the_package_index():
    rows = [
        f"{page.relative_to(ROOT)}: {line.strip()}"
        for page in pages()
        for line in page.read_text(encoding="utf-8", errors="replace").splitlines()
        if FROM_THE_INDEX.search(line)
    ]
    assert rows == []


@pytest.mark.parametrize("extra", extras())
def test_a_missing_package_is_installed_from_the_clone(extra):
    with pytest.raises(MissingExtra) as caught:
        require("surely_not_installed", extra=extra)
    assert f'pip install ".[{extra}]"' in caught.value.hint
    assert "clone" in caught.value.hint


def test_the_other_project_of_this_name_is_reported(tmp_path):
    other = tmp_path / "gradience-0.11.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: gradience\nVersion: 0.11.0\n")
    for arguments in (["env"], ["audit", tmp_path / "none"], ["audit", "--no-such-option"]):
        done = subprocess.run(
            [sys.executable, "-m", "gradience", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )
        text = " ".join((done.stdout + done.stderr).split())
        assert "another project, gradience 0.11.0, is installed here too" in text
        assert "pip uninstall gradience gradience-lora" in text
