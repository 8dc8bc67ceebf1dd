"""One version: the package, the citation, the change log and every git tag of a release name the same."""

import hashlib
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import gradience
from gradience import digests as module
from gradience.cli.app import run
from gradience.digests import code_version
from gradience.errors import MissingExtra, require

ROOT = Path(__file__).resolve().parent.parent
FILES = ["gradience/__init__.py", "CITATION.cff", "CHANGELOG.md", "docs/citing.md"]
RELEASE = re.compile(r"^## \[([\d.]+)\] - (\d{4}-\d\d-\d\d)$", flags=re.MULTILINE)


def versions(read):
    """The versions that the files name; those with a date name the same one. `read`: path -> text."""
    package, citation, changes, citing = map(read, FILES)
    cited = yaml.safe_load(citation)
    newest = RELEASE.search(changes)
    assert newest is not None
    ours = citing.partition("\n}")[0]
    bibtex = dict(re.findall(r"^  (version|date) += \{(.+)\}", ours, flags=re.MULTILINE))
    assert (
        newest.groups() == (cited["version"], cited["date-released"]) == (bibtex["version"], bibtex["date"])
    )
    return {re.search(r'^__version__ = "(.+)"$', package, flags=re.MULTILINE)[1], cited["version"]}


def git(repository, *words):
    done = subprocess.run(["git", "-C", str(repository), *words], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def files_of(repository, tag):
    return lambda path: git(repository, "show", f"{tag}:{path}")


def tags_that_lie(repository):
    """The tags of releases in `repository` whose files name another version."""
    tags = git(repository, "tag", "--list", "v[0-9]*").split() if (repository / ".git").exists() else []
    return [tag for tag in tags if versions(files_of(repository, tag)) != {tag[1:]}]


def test_the_files_and_the_command_name_one_version(command):
    assert versions(lambda path: (ROOT / path).read_text(encoding="utf-8")) == {gradience.__version__}
    assert command("--version").out == f"gradience {gradience.__version__}\n"


def test_a_tag_points_to_its_version():
    assert tags_that_lie(ROOT) == []


def test_a_released_change_is_one_line():
    """A line that is wrapped, or a duplicate heading, is what a merge by union leaves behind."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    _, unreleased, *released = re.split(r"^(?=## \[)", text, flags=re.MULTILINE)
    assert unreleased.startswith("## [Unreleased]\n")
    for release in released:
        _, *groups = re.split(r"^### ", release, flags=re.MULTILINE)
        names = [group.partition("\n")[0] for group in groups]
        assert names == [name for name in ("Added", "Changed", "Fixed", "Security") if name in names]
        entries = [line for group in groups for line in group.splitlines()[1:] if line and line[0] != "#"]
        assert [entry for entry in entries if not re.fullmatch(r"- .+\.", entry) or len(entry) > 120] == []
    every = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(every) == len(set(every))


# ---------------------------------------------------------------- Identity of the code: the commit of a


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "clone" / "gradience"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("x = 1\n", encoding="utf-8")
    (folder / "b.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(module, "PACKAGE", folder)
    return folder


def test_an_installed_package_has_the_digest_of_its_files(package):
    rows = [
        json.dumps([name, hashlib.sha256((package / name).read_bytes()).hexdigest()]) + "\n"
        for name in ("a.py", "b.json")
    ]
    expected = f"files {hashlib.sha256(''.join(rows).encode()).hexdigest()}"
    assert code_version() == expected
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.pyc").write_bytes(b"compiled")
    assert code_version() == expected
    (package / "a.py").write_text("x = 2\n", encoding="utf-8")
    assert code_version() != expected


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_clone_has_its_commit_and_says_if_it_was_modified(package):
    def here(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        return git(package.parent, *identity, *words).strip()

    installed = code_version()
    here("init", "-q")
    here("add", ".")
    here("commit", "-qm", "first")
    assert code_version() == f"commit {here('rev-parse', 'HEAD')}"
    (package.parent / "notes.txt").write_text("beside the package")
    assert code_version() == f"commit {here('rev-parse', 'HEAD')}"
    (package / "c.py").write_text("new and untracked")
    assert code_version().startswith(f"commit {here('rev-parse', 'HEAD')}, modified: files ")
    (package / "c.py").unlink()
    shutil.rmtree(package.parent / ".git")
    assert code_version() == installed


# ---------------------------------------------------------------- Install instructions point to this


INDEX = r"\b(?:pip|pipx|uv)\b.*\binstall\b.*[\s\"'`]gradience(?![\w/.-])|[\"']gradience\["
FROM_THE_INDEX = re.compile(INDEX)
TEXT = (".py", ".md", ".yaml", ".yml", ".cff", ".sh", ".txt", ".ipynb", "Makefile")


def extras() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return list(project["project"]["optional-dependencies"])


def test_no_page_and_no_message_sends_anybody_to_the_package_index():
    """Every text that a user may read, the sources with their messages among them."""
    pages = [ROOT / name for name in git(ROOT, "ls-files").splitlines() if name.endswith(TEXT)]
    rows = [
        f"{page.relative_to(ROOT)}: {line.strip()}"
        for page in pages
        if page != Path(__file__).resolve()
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


def test_the_other_project_of_this_name_is_reported(tmp_path, monkeypatch, capsys):
    other = tmp_path / "gradience-0.11.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: gradience\nVersion: 0.11.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for arguments in (["env"], ["audit", str(tmp_path / "none")], ["audit", "--no-such-option"]):
        run(arguments)
        text = " ".join("".join(capsys.readouterr()).split())
        assert "another project, gradience 0.11.0, is installed here too" in text
        assert "pip uninstall gradience gradience-lora" in text
