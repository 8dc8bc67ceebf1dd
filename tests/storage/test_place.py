"""Files in a place that several machines see: created once, replaced whole, read as they were written."""

from __future__ import annotations

import hashlib

import pytest

from gradience.errors import InputError, OutputError
from gradience.storage.objects import bring, listed, publish
from gradience.storage.place import Place


@pytest.fixture
def place(tmp_path):
    return Place.at(f"file://{tmp_path}/there")


def test_a_file_is_created_once(place):
    assert place.create("a/b", b"1")
    assert not place.create("a/b", b"2")
    assert place.read("a/b") == b"1"


def test_names_are_those_below_a_folder(place):
    for name in ("a/1", "a/b/2", "c/3"):
        place.write(name, b"")
    assert place.names("a") == ["a/1", "a/b/2"]
    assert place.names("nothing") == []


def test_what_is_not_there_is_none_and_can_be_removed(place):
    assert place.read("x") is None
    assert place.written("x") is None
    place.remove("x")


@pytest.mark.parametrize("address", ["nonsense://x", "s4://bucket"])
def test_an_address_that_is_none(address):
    with pytest.raises(InputError) as error:
        Place.at(address)
    assert error.value.code == "storage-address"


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as error:
        Place.at(str(tmp_path / "file")).create("a", b"")
    assert error.value.code == "write-failed"


def digest(content):
    return hashlib.sha256(content).hexdigest()


def finished(folder, **contents):
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "manifest.json").write_text("list")
    return {name: digest(content) for name, content in contents.items()}


def test_a_folder_goes_there_and_comes_back(place, tmp_path):
    files = finished(tmp_path / "one", a=b"1", b=b"2")
    assert publish(place, "42/x", tmp_path / "one", files, "manifest.json")
    assert listed(place, "42/x", "manifest.json") == b"list"
    bring(place, tmp_path / "two", files)
    assert {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()} == {"a": b"1", "b": b"2"}


def test_a_folder_is_finished_once(place, tmp_path):
    one = finished(tmp_path / "one", a=b"1")
    two = finished(tmp_path / "two", a=b"2")
    assert publish(place, "42/x", tmp_path / "one", one, "manifest.json")
    assert not publish(place, "42/x", tmp_path / "two", two, "manifest.json")


def test_a_damaged_file_does_not_arrive(place, tmp_path):
    files = finished(tmp_path / "one", a=b"1")
    publish(place, "42/x", tmp_path / "one", files, "manifest.json")
    place.write(f"objects/{files['a'][:2]}/{files['a']}", b"other")
    with pytest.raises(InputError) as error:
        bring(place, tmp_path / "two", files)
    assert error.value.code == "storage-damaged"
    assert list((tmp_path / "two").iterdir()) == []
