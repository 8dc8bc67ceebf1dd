"""Files in a place that several machines see: created once, replaced whole, read as they were written."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from gradience.errors import GradienceError, InputError, OutputError
from gradience.storage.objects import bring, listed, publish
from gradience.storage.place import Place


@pytest.fixture
def place(tmp_path):
    return Place.at(f"file://{tmp_path}/there")


def test_a_file_is_created_once(place):
    assert place.create("a/b", b"1")
    assert not place.create("a/b", b"2")
    assert place.read("a/b") == b"1"


def test_of_many_who_create_a_file_at_once_one_does(place):
    """Again and again: the file system of fsspec looks first and writes then, and let two through once in forty."""
    for attempt in range(200):
        begin, created = threading.Barrier(8), []

        def create(who, name=f"leases/{attempt}.1", begin=begin, created=created):
            begin.wait()
            created.append((place.create(name, who), who))

        threads = [threading.Thread(target=create, args=(bytes([65 + who]),)) for who in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [who for succeeded, who in created if succeeded]
        assert winners == [place.read(f"leases/{attempt}.1")]
    assert list(Path(place.root).rglob(".*")) == []


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EOPNOTSUPP], ids=["FAT", "others"])
def test_a_file_system_without_hard_links_takes_the_name_first(place, monkeypatch, refusal):
    def refused(*_, **__):
        raise OSError(refusal, "no hard links here")

    monkeypatch.setattr(os, "link", refused)
    assert place.create("a/b", b"1")
    assert not place.create("a/b", b"2")
    assert place.read("a/b") == b"1"


def test_a_link_whose_answer_was_lost_is_a_success(place, monkeypatch):
    link = os.link

    def answer_lost(source, target):
        link(source, target)
        raise FileExistsError(errno.EEXIST, "sent again, and there already")

    monkeypatch.setattr(os, "link", answer_lost)
    assert place.create("a/b", b"1")


def test_a_storage_that_lets_two_create_a_file_is_refused(place):
    place.check_exclusive()
    assert place.names("") == []

    class IgnoresConditions(MemoryFileSystem):
        def pipe_file(self, path, value, mode="overwrite", **more):
            super().pipe_file(path, value, **more)

    with pytest.raises(InputError) as error:
        Place(IgnoresConditions(), "/bucket").check_exclusive()
    assert error.value.code == "storage-not-exclusive"


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


def test_processes_of_one_machine_bring_the_same_files_beside_each_other(place, tmp_path, monkeypatch):
    content = b"w" * 100_000
    files = finished(tmp_path / "one", weights=content)
    publish(place, "42/x", tmp_path / "one", files, "manifest.json")
    get, begin, errors = Place.get, threading.Barrier(4), []

    def slow(self, name, file):
        begin.wait()
        get(self, name, file)
        time.sleep(0.05)

    def brings():
        try:
            bring(place, tmp_path / "two", files)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    monkeypatch.setattr(Place, "get", slow)
    threads = [threading.Thread(target=brings) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()} == {"weights": content}


class Answers(Exception):
    """As botocore's: with the answer of the server."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


class Server(MemoryFileSystem):
    """A storage that answers a put with these statuses, one after the other, and then as it should."""

    protocol = "s3"
    cachable = False

    def __init__(self, *statuses: int, writes: bool = False) -> None:
        super().__init__()
        self.statuses, self.writes, self.store = list(statuses), writes, {}

    def pipe_file(self, path, value, mode="overwrite", **more):
        if self.statuses:
            if self.writes:
                super().pipe_file(path, value)
            raise Answers(self.statuses.pop(0))
        super().pipe_file(path, value, mode=mode, **more)


@pytest.mark.parametrize(
    ("statuses", "writes", "created"),
    [([409, 409], False, True), ([412], False, False), ([412], True, True)],
    ids=["met another put", "is there, by another server's words", "is there: ours, whose answer was lost"],
)
def test_what_a_server_answers_to_a_put(statuses, writes, created):
    server = Server(*statuses, writes=writes)
    assert Place(server, f"/bucket{id(server)}", (Answers,)).create("a", b"mine") == created


def test_a_server_that_keeps_refusing_is_an_error():
    server = Server(*[409] * 9)
    with pytest.raises(GradienceError):
        Place(server, f"/bucket{id(server)}", (Answers,)).create("a", b"mine")
