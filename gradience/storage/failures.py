"""What the client of a storage raises, as one message: who is not let in, what cannot be reached, what is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from gradience.errors import GradienceError, InputError, NetworkError, OutputError, ReadError

RUN = ("file", "s3")
"""Protocols that runs were made over. Of another it is not known whether of two who create a file one succeeds."""
ACCESS = ("Credential", "Token", "SSO")
"""In the names of botocore's exceptions for who cannot say who he is."""


def check_address(address: str) -> None:
    """Raise InputError (`storage-address`) for what is no address of a storage that was run."""
    protocol, colon, rest = address.partition("://")
    if not colon or protocol not in RUN or not rest.strip("/"):
        raise InputError(
            f"{address}: not an address of a storage that runs were made over",
            code="storage-address",
            hint="give s3://bucket/prefix or file:///folder; other storages were not run",
        )
    if protocol == "file" and not rest.startswith("/"):
        raise InputError(
            f"{address}: a relative folder is another one on another machine",
            code="storage-address",
            hint=f"give the folder from the root: file:///…/{rest}",
        )


def client_errors(address: str) -> tuple[type[Exception], ...]:
    """What the client of the storage raises that is no OSError."""
    if not address.startswith("s3://"):
        return ()
    raised = import_module("botocore.exceptions")
    return raised.BotoCoreError, raised.ClientError


@contextmanager
def explained(path: str, errors: tuple[type[Exception], ...], *, writes: bool = False) -> Iterator[None]:
    """Raise what happens inside as an error that a user can act on; that a file is there, or is not, stays as it is."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except (OSError, *errors) as error:  # type: ignore[misc]
        raise _explained(path, error, writes=writes, remote=bool(errors)) from None


def status_of(error: BaseException) -> int | None:
    """Return the status of the answer that an error of botocore is about, or that of s3fs was made of."""
    for each in (error, error.__cause__):
        answer = getattr(each, "response", None)
        if isinstance(answer, dict):
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status if isinstance(status, int) else None
    return None


def no_bucket(path: str, error: OSError) -> InputError:
    """For a storage into which nothing can be put, since there is none."""
    return InputError(
        f"{path}: {_line(error)}",
        code="storage-address",
        hint="create the bucket, or give the address of one that is there",
    )


def cannot_write(path: str, error: Exception) -> OutputError:
    """For a storage that is there, and refuses a file."""
    return OutputError(
        f"{path}: cannot write: {_line(error)}",
        code="write-failed",
        hint="check the storage, its permissions and the free space",
    )


def _explained(path: str, error: Exception, *, writes: bool, remote: bool) -> GradienceError:
    name = type(error).__name__
    if remote and (isinstance(error, PermissionError) or any(word in name for word in ACCESS)):
        return NetworkError(
            f"{path}: {_line(error)}",
            code="storage-access",
            hint="give this machine credentials that may read and write there (AWS_ACCESS_KEY_ID, a profile, a role)",
        )
    if name == "ParamValidationError":
        return InputError(
            f"{path}: {_line(error)}",
            code="storage-address",
            hint="give s3://bucket/prefix or file:///folder",
        )
    if remote and (isinstance(error, ConnectionError | TimeoutError) or not isinstance(error, OSError)):
        return NetworkError(
            f"{path}: {_line(error)}",
            code="storage-connection",
            hint="check the address, AWS_ENDPOINT_URL and the network, and run again: what is finished is kept",
        )
    if writes:
        return cannot_write(path, error)
    return ReadError(
        f"{path}: cannot be read: {_line(error)}",
        code="unreadable",
        hint="check the storage and its permissions",
    )


def _line(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()) or (
        "no answer" if isinstance(error, TimeoutError) else type(error).__name__
    )
