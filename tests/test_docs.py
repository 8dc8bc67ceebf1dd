"""Documents name only existing things. (`make lint` compares generated ones byte for byte.)"""

import ast
import importlib
import json
import pkgutil
import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import typer.main

import gradience.files
import gradience.reports
from gradience.cli.app import app
from gradience.cli.setup import schema_text
from gradience.files.artifact import Artifact
from gradience.reports.registry import ARTIFACTS, model_of

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


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
        for page in [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "llms.txt"]
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not broken


def test_the_index_names_every_page():
    """The site's navigation is made of its links; a page that nobody finds is a warning there, and an error."""
    links = re.findall(r"\]\(([\w/.-]+\.md)\)", (DOCS / "index.md").read_text(encoding="utf-8"))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page.parent.name != "decisions"}
    assert pages - {"index.md"} == set(links)


# ---------------------------------------------------------------- Names in documents exist: names of the


PAGES = [
    page
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")]
    if page.name != "CHANGELOG.md"  # it names what is gone
]
DOTTED = re.compile(r"(?<![\w./-])gradience((?:\.[A-Za-z_]\w*)+)(?![\w/])")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


def text_of(page):
    return page.read_text(encoding="utf-8")


def is_there(parts):
    """Return True if gradience.PARTS is a module, or a name of one."""
    try:
        pkgutil.resolve_name(".".join(["gradience", *parts]))
    except (ImportError, AttributeError):
        return False
    return True


def test_names_of_the_package_are_there():
    named = {(page.name, match) for page in PAGES for match in DOTTED.findall(text_of(page))}
    assert len(named) > 10
    assert [pair for pair in sorted(named) if not is_there(pair[1][1:].split("."))] == []


def test_documents_that_the_package_names_are_there():
    """Its hints and docstrings name pages; `docs/x.md#heading` too."""
    sources = [
        path for end in ("py", "yaml", "json", "md") for path in (ROOT / "gradience").rglob(f"*.{end}")
    ]
    named = {
        (source.name, page)
        for source in [*sources, *(ROOT / "scripts").glob("*"), ROOT / "Makefile"]
        if source.is_file()
        for page in re.findall(r"docs/[\w/-]+\.\w+", text_of(source))
    }
    assert len(named) > 20
    assert {(source, page) for source, page in named if not (ROOT / page).is_file()} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_code_imports_from_the_package_is_there(page):
    """Also check blocks that are not run because they train or need a model."""
    for language, block in FENCE.findall(text_of(page)):
        if language in ("python", "py"):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gradience":
                    for alias in node.names:
                        assert is_there([*node.module.split(".")[1:], alias.name]), alias.name


def options_of(words):
    """Return the command that the first words name, and its arguments."""
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    return known | {"--help", "-h"}, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_of_shown_commands_are_there(page):
    shown = [
        match[1]
        for language, block in FENCE.findall(text_of(page))
        if language in ("", "text", "sh") and page.name != "cli.md"
        for line in block.splitlines()
        if (match := re.match(r"(?:\$ |\.venv/bin/)?gradience ([a-z].*)", line))
    ]
    for command in shown:
        known, words = options_of(shlex.split(re.split(r"\s{2,}|\s[#>|]", command)[0]))
        assert {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)} <= known, command
