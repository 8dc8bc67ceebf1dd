"""Documents name only existing things. (`make lint` compares generated ones byte for byte.)"""

import importlib
import json
import pkgutil
import re
from pathlib import Path

import jsonschema
import pytest
import typer.main

import gradience.files
import gradience.reports
from gradience.cli.app import app
from gradience.cli.schema import schema_text
from gradience.files.artifact import Artifact
from gradience.reports.registry import ARTIFACTS, model_of

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def commands(command=None, path="gradience"):
    command = command or typer.main.get_command(app)
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{path} {name}")


def test_every_command_and_option_has_help():
    for path, command in commands():
        assert command.help, path
        assert [param.name for param in command.params if not param.help] == [], path


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_schema_is_valid(name):
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_text(name)))


def leaves(kind):
    """The classes below `kind` that have none below them."""
    below = kind.__subclasses__()
    return [kind] if not below else [leaf for each in below for leaf in leaves(each)]


def test_every_artifact_has_a_schema():
    """An artifact is a file that somebody else reads: none is left out."""
    with_schema = {model_of(name).__name__ for name in ARTIFACTS}
    for package in (gradience.files, gradience.reports):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    ours = {
        cls.__name__
        for cls in leaves(Artifact)
        if cls.__module__.startswith(("gradience.files.", "gradience.reports."))
    }
    assert ours == with_schema


def test_files_that_pages_name_are_there():
    folders = "gradience|tests|docs|scripts|benchmarks|examples|[.]github|[.]ci"
    pages = {page: page.read_text(encoding="utf-8") for page in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]}
    named = {
        (page.name, path.rstrip(".,:"))
        for page, text in pages.items()
        for path in re.findall(rf"(?<![\w/.-])(?:{folders})/[\w./*-]+", text)
    }
    assert len(named) > 50
    assert {(page, path) for page, path in named if not any(ROOT.glob(path))} == set()


def test_links_between_documents_lead_somewhere():
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not broken


def test_the_index_names_every_page():
    """The site's navigation is made of its links; a page that nobody finds is a warning there, and an error."""
    links = re.findall(r"\]\(([\w/.-]+\.md)\)", (DOCS / "index.md").read_text(encoding="utf-8"))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page.parent.name != "decisions"}
    assert pages - {"index.md"} == set(links)
