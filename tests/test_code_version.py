"""Identity of the code: the commit of a clean clone, else the digest of what a wheel holds."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from gradience import code_version as module
from gradience.code_version import code_version


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "clone" / "gradience"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("x = 1\n", encoding="utf-8")
    (folder / "b.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(module, "PACKAGE", folder)
    return folder


def test_an_installed_package_has_the_digest_of_its_files(package: Path) -> None:
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
def test_a_clone_has_its_commit_and_says_if_it_was_modified(package: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(package.parent), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    installed = code_version()
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    assert code_version() == f"commit {git('rev-parse', 'HEAD')}"
    (package.parent / "notes.txt").write_text("beside the package")
    assert code_version() == f"commit {git('rev-parse', 'HEAD')}"
    (package / "c.py").write_text("new and untracked")
    assert code_version().startswith(f"commit {git('rev-parse', 'HEAD')}, modified: files ")
    (package / "c.py").unlink()
    shutil.rmtree(package.parent / ".git")
    assert code_version() == installed
