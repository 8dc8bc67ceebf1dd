"""One version: the package, the citation, the change log and every git tag of a release name the same."""

import re
import subprocess
from pathlib import Path

import yaml

import gradience
from gradience.cli.app import run

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


def test_the_files_and_the_command_name_one_version(capsys):
    assert versions(lambda path: (ROOT / path).read_text(encoding="utf-8")) == {gradience.__version__}
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"gradience {gradience.__version__}\n"


def test_a_tag_points_to_its_version():
    assert tags_that_lie(ROOT) == []


def test_a_released_change_is_one_line():
    """A line that is wrapped, or a duplicate heading, is what a merge by union leaves behind."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    _, unreleased, *released = re.split(r"^(?=## \[)", text, flags=re.MULTILINE)
    assert unreleased.startswith("## [Unreleased]\n")
    for release in released:
        _, *groups = re.split(r"^### ", release, flags=re.MULTILINE)
        assert [group.partition("\n")[0] for group in groups] == ["Added", "Changed", "Fixed", "Security"]
        entries = [line for group in groups for line in group.splitlines()[1:] if line and line[0] != "#"]
        assert [entry for entry in entries if not re.fullmatch(r"- .+\.", entry) or len(entry) > 120] == []
    every = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(every) == len(set(every))
