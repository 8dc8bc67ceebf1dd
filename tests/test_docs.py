"""Generated documents say what the code says. (`make lint` compares them byte for byte.)"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import typer.main

import gradience.artifacts
from gradience.artifacts.base import Artifact
from gradience.artifacts.report import Report
from gradience.cli.app import app
from gradience.cli.demo import example_adapter
from gradience.cli.exit_codes import ExitCode
from gradience.cli.schema import ArtifactName, schema_text

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def commands(command=None, path="gradience"):
    command = command or typer.main.get_command(app)
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{path} {name}")


@pytest.mark.parametrize(
    ("path", "command"), list(commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_and_option_has_help_and_is_in_the_reference(path, command):
    reference = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    section = reference.partition(f"\n## {path}\n")[2].partition("\n## ")[0]
    assert section, f"docs/reference/cli.md has no section {path}: run make docs"
    assert command.help
    for param in command.params:
        assert param.help, f"{path}: {param.name} has no help"
        is_argument = param.param_type_name == "argument"
        for name in [param.metavar or param.name] if is_argument else [*param.opts, *param.secondary_opts]:
            assert name in section, f"docs/reference/cli.md does not know {path} {name}: run make docs"


def test_the_reference_has_no_command_that_is_gone():
    headings = re.findall(
        r"^## (gradience.*)$", (DOCS / "reference" / "cli.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert headings == [path for path, _ in commands()]


def shape(schema):
    """Keys of every block: what must not drift (versions of pydantic word the rest differently)."""
    return {
        name: (list(model["properties"]), model.get("required"), model["additionalProperties"])
        for name, model in {"": schema, **schema.get("$defs", {})}.items()
    }


@pytest.mark.parametrize("name", ArtifactName)
def test_the_committed_schema_is_that_of_the_model(name):
    committed = json.loads((DOCS / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(committed)
    assert shape(committed) == shape(json.loads(schema_text(name)))


@pytest.mark.parametrize("name", ArtifactName)
def test_the_first_keys_of_an_artifact_are_in_its_section(name):
    reference = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    section = reference.partition(f"\n### {name}\n")[2].partition("\n<!--")[0].partition("\n### ")[0]
    keys = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
    keys += re.findall(r"`(\w+)`", section.rpartition("\nAnd ")[2])
    assert sorted(keys) == sorted(json.loads(schema_text(name))["properties"])
    assert f"](../schemas/{name}.schema.json)" in section


def test_every_artifact_has_a_schema():
    """An artifact is a file that somebody else reads: none is left out."""
    with_schema = {name.model for name in ArtifactName}
    for module in pkgutil.iter_modules(gradience.artifacts.__path__, "gradience.artifacts."):
        importlib.import_module(module.name)
    kinds = {*Artifact.__subclasses__(), *Report.__subclasses__()} - {Report}
    ours = {cls.__name__ for cls in kinds if cls.__module__.startswith("gradience.artifacts.")}
    assert ours == with_schema


@pytest.mark.parametrize("option", [["--json"], ["--layers", "--json"]], ids=" ".join)
def test_a_real_audit_fits_the_committed_schema(option):
    done = subprocess.run(
        [sys.executable, "-m", "gradience", "audit", str(example_adapter()), *option],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    schema = json.loads((DOCS / "schemas" / "audit.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads(done.stdout), schema)


def test_every_exit_code_is_documented():
    text = (DOCS / "reference" / "exit_codes.md").read_text(encoding="utf-8")
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)] == list(ExitCode)


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


def test_check_mode_notices_an_outdated_file(tmp_path):
    """The check that CI relies on can fail."""
    copy = tmp_path / "repository"
    for name in ("scripts", "docs"):
        (copy / name).mkdir(parents=True)
        subprocess.run(["cp", "-r", f"{ROOT / name}/.", str(copy / name)], check=True)
    shutil.copy(ROOT / "pyproject.toml", copy)
    page = copy / "docs" / "reference" / "cli.md"
    page.write_text(page.read_text(encoding="utf-8") + "edited by hand\n", encoding="utf-8")
    script = str(copy / "scripts" / "generate_docs.py")
    check = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert check.returncode == 1
    assert "out of date: docs/reference/cli.md" in check.stdout
    subprocess.run([sys.executable, script], check=True, capture_output=True)
    assert (
        subprocess.run([sys.executable, script, "--check"], check=False, capture_output=True).returncode == 0
    )
    assert "edited by hand" not in page.read_text(encoding="utf-8")
