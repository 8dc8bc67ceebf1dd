"""What goes wrong with a storage is one message with its code; the real client's own are in tests/conformance."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from gradience.bench.config.load import BenchConfig, load_config
from gradience.bench.config.shipped import find_config
from gradience.errors import GradienceError, InputError, UsageError
from gradience.storage.failures import check_address
from gradience.storage.lease import claim
from gradience.storage.place import Place


class ClientError(Exception):
    """As botocore's: no OSError."""


class NoCredentialsError(ClientError):
    pass


class EndpointConnectionError(ClientError):
    pass


class ParamValidationError(ClientError):
    pass


class Broken:
    """A file system of which every call raises."""

    protocol = ("s3", "s3a")

    def __init__(self, error: Exception) -> None:
        self.error = error

    def unstrip_protocol(self, path: str) -> str:
        return f"s3://{path}"

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: object, **more: object) -> None:
            raise self.error

        return call


@pytest.fixture
def broken():
    return lambda error: Place(Broken(error), "bucket/mine", (ClientError,))


CALLS = {
    "create": lambda place, file: place.create("a", b""),
    "write": lambda place, file: place.write("a", b""),
    "read": lambda place, file: place.read("a"),
    "written": lambda place, file: place.written("a"),
    "remove": lambda place, file: place.remove("a"),
    "names": lambda place, file: place.names("a"),
    "put": lambda place, file: place.put(file, "a"),
    "get": lambda place, file: place.get("a", file),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (NoCredentialsError("Unable to locate credentials"), "storage-access", 7),
        (PermissionError("Access Denied"), "storage-access", 7),
        (
            EndpointConnectionError('Could not connect to the endpoint URL: "http://x"'),
            "storage-connection",
            7,
        ),
        (TimeoutError("timed out"), "storage-connection", 7),
        (ParamValidationError("Parameter validation failed:\nInvalid bucket name"), "storage-address", 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_a_client_raises(broken, tmp_path, call, error, code, exit_code):
    with pytest.raises(GradienceError) as caught:
        CALLS[call](broken(error), tmp_path / "file")
    assert (caught.value.code, caught.value.exit_code) == (code, exit_code)
    assert str(caught.value).startswith("s3://bucket/mine/a: ")
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("call", ["create", "write", "put", "names"])
def test_a_bucket_that_is_not_there(broken, tmp_path, call):
    with pytest.raises(InputError) as caught:
        CALLS[call](broken(FileNotFoundError("The specified bucket does not exist")), tmp_path / "file")
    assert caught.value.code == "storage-address"
    assert "The specified bucket does not exist" in str(caught.value)


def test_a_file_that_a_finished_folder_lists_and_that_is_not_there(broken, tmp_path):
    with pytest.raises(InputError) as caught:
        broken(FileNotFoundError("no")).get("objects/ab", tmp_path / "file")
    assert caught.value.code == "storage-damaged"


@pytest.mark.parametrize(("call", "code"), [("put", "write-failed"), ("get", "unreadable")])
def test_a_disk_that_fails(broken, tmp_path, call, code):
    with pytest.raises(GradienceError) as caught:
        CALLS[call](broken(OSError(5, "Input/output error")), tmp_path / "file")
    assert (caught.value.code, caught.value.exit_code) == (code, 5)


def test_what_is_a_bug_keeps_its_traceback(broken):
    with pytest.raises(ZeroDivisionError):
        broken(ZeroDivisionError()).read("a")


def test_a_holder_outlives_a_storage_that_is_away_for_a_moment(tmp_path, monkeypatch):
    """Its heartbeat goes on, and it ends only where another has taken over."""
    place, lost, tried = Place.at(str(tmp_path)), threading.Event(), threading.Event()

    def away(self, name):
        tried.set()
        raise GradienceError("away", code="storage-connection")

    with monkeypatch.context() as patch:
        patch.setattr(Place, "read", away)
        mine = claim(place, "leases/1", heartbeat=0.02, on_loss=lost.set)
        assert tried.wait(30)
    assert mine.is_held
    place.create("leases/1.2", b"another")
    assert lost.wait(30)
    mine.release()


REFUSED = [
    "gs://bucket/mine",
    "abfs://c@a/mine",
    "memory://x",
    "simplecache::s3://b",
    "/shared",
    "s3://",
    "file://x",
]


@pytest.mark.parametrize("address", REFUSED)
def test_a_storage_over_which_no_run_was_made_is_refused(address):
    with pytest.raises(InputError) as caught:
        check_address(address)
    assert caught.value.code == "storage-address"


@pytest.mark.parametrize("address", ["s3://bucket/mine", "file:///shared/mine"])
def test_those_over_which_runs_were_made(address):
    check_address(address)


def test_a_config_says_so_before_anything_is_run():
    with pytest.raises(UsageError, match=r"(?s)runtime\.storage.*gs://bucket.*s3://bucket/prefix"):
        load_config(find_config("minilm_reviews"), ["runtime.storage=gs://bucket/mine"])
    config: BenchConfig = load_config(find_config("minilm_reviews"), ["runtime.storage=s3://bucket/mine"])
    assert config.runtime.storage == "s3://bucket/mine"
