"""pip itself, without a network: it looks into a local folder, as `--find-links` lets it."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from gradience.errors import InputError, NetworkError
from gradience.models import packages
from gradience.models.packages import Release, fetch


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the only place where pip looks."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    return folder


def released(path: Path, version: str = "1.0") -> Release:
    content = path.read_bytes()
    return Release("tiny-asset", version, path.name, hashlib.sha256(content).hexdigest(), len(content))


def tiny_wheel(folder: Path) -> Path:
    path = folder / "tiny_asset-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("tiny_asset/model", "weights")
        info = "tiny_asset-1.0.dist-info"
        zipped.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\n")
        zipped.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        zipped.writestr(f"{info}/RECORD", "")
    return path


def tiny_source_archive(folder: Path, marker: Path) -> Path:
    path = folder / "tiny-asset-1.0.tar.gz"
    files = {
        "tiny-asset-1.0/PKG-INFO": "Metadata-Version: 1.1\nName: tiny-asset\nVersion: 1.0\n",
        "tiny-asset-1.0/setup.py": f"open({str(marker)!r}, 'w').close()\n"
        "from setuptools import setup\nsetup(name='tiny-asset', version='1.0')\n",
    }
    with tarfile.open(path, "w:gz") as tarred:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tarred.addfile(info, io.BytesIO(text.encode()))
    return path


def test_a_wheel_arrives_and_the_second_time_pip_is_not_called(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = released(tiny_wheel(index))
    path = fetch(release, tmp_path / "archives")
    assert path.read_bytes() == (index / release.filename).read_bytes()
    assert [entry.name for entry in path.parent.iterdir()] == [release.filename], "no scratch stays"

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    assert fetch(release, tmp_path / "archives") == path


def test_a_source_archive_arrives_and_its_setup_py_never_runs(index: Path, tmp_path: Path) -> None:
    marker = tmp_path / "setup-py-was-executed"
    release = released(tiny_source_archive(index, marker))
    assert fetch(release, tmp_path / "archives").name == release.filename
    assert not marker.exists()


def test_other_bytes_than_the_pinned_ones_are_refused(index: Path, tmp_path: Path) -> None:
    release = released(tiny_wheel(index))
    with zipfile.ZipFile(index / release.filename, "a") as zipped:
        zipped.writestr("tiny_asset/extra", "tampered")
    with pytest.raises(InputError, match="wrong sha256") as caught:
        fetch(release, tmp_path / "archives")
    assert caught.value.code == "asset-hash"
    assert not list((tmp_path / "archives").iterdir())


def test_what_cannot_be_had_is_one_clear_error(index: Path, tmp_path: Path) -> None:
    release = Release("tiny-asset", "1.0", "tiny_asset-1.0-py3-none-any.whl", "0" * 64, 86_000_000)
    with pytest.raises(
        NetworkError, match=r"cannot fetch tiny_asset-1\.0-py3-none-any\.whl \(86 MB\)"
    ) as caught:
        fetch(release, tmp_path / "archives")
    error = caught.value
    assert (error.code, error.exit_code) == ("assets-unavailable", 7)
    assert release.page in error.hint
    assert str(tmp_path / "archives") in error.hint, "the hint says where a file fetched by hand goes"
    assert not list((tmp_path / "archives").iterdir())


def test_an_environment_without_pip_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pip(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, stdout="", stderr="/usr/bin/python: No module named pip\n")

    monkeypatch.setattr(packages.subprocess, "run", no_pip)
    with pytest.raises(NetworkError, match="has no pip"):
        fetch(Release("x", "1", "x-1-py3-none-any.whl", "0" * 64, 1), tmp_path)
