"""Every way in which the hub fails, as one message each: what huggingface_hub raises -> NetworkError."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from gradience.errors import NetworkError
from gradience.hub.address import Address

LOGIN = "`hf auth login`, or HF_TOKEN"


@contextmanager
def explained(address: Address) -> Iterator[None]:
    """Turn what huggingface_hub raises within into NetworkError; what the disk refuses stays as it is.

    Codes: hub-gated, hub-not-found, hub-revision, hub-file, hub-offline, hub-token, hub-server, hub-connection,
    hub-incomplete.
    """
    from huggingface_hub import errors

    raised = (
        OSError,
        errors.EntryNotFoundError,
        errors.HFValidationError,
        errors.HTTPError,  # type: ignore[attr-defined]  # of httpx, whatever it is called there
    )
    unlike_a_hub = (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        AssertionError,
    )  # no JSON, or another shape
    try:
        yield
    except raised as error:
        explanation = _of_name(address, error) or _of_network(address, error)
        if explanation is None:
            raise
        raise explanation from error
    except unlike_a_hub as error:
        raise no_hub(address) from error


def _of_name(address: Address, error: Exception) -> NetworkError | None:
    """What is wrong with the name, or with the right to it; None where the error says nothing of that."""
    from huggingface_hub import errors

    page = f"{_endpoint()}/{address.repo}"
    match error:
        case errors.GatedRepoError():
            what = "the repository is gated, and you have no access to it"
            hint = f"ask for access at {page}, then log in: {LOGIN}"
            return NetworkError(f"{address}: {what}", code="hub-gated", hint=hint)
        case errors.DisabledRepoError():
            what, hint = "the hub has disabled this repository", f"see {page}"
            return NetworkError(f"{address}: {what}", code="hub-not-found", hint=hint)
        case errors.RepositoryNotFoundError():
            what = "no such file or folder here, and no such repository on the hub, or it is private"
            hint = f"check the name; for a private repository log in: {LOGIN}"
            return NetworkError(f"{address}: {what}", code="hub-not-found", hint=hint)
        case errors.HFValidationError():
            what, hint = "not a name of the hub", "a repository is called org/name"
            return NetworkError(f"{address}: {what}", code="hub-not-found", hint=hint)
        case errors.RevisionNotFoundError():
            what = f"the repository has no revision {address.revision!r}"
            hint = f"{page}/tree/main lists its branches and tags"
            return NetworkError(f"{address}: {what}", code="hub-revision", hint=hint)
        case errors.EntryNotFoundError() if not isinstance(error, errors.LocalEntryNotFoundError):
            what, hint = "a file that the hub lists is not there", f"try again, or look at {page}"
            return NetworkError(f"{address}: {what}", code="hub-file", hint=hint)
    return None


def _of_network(address: Address, error: BaseException) -> NetworkError | None:
    """What is wrong with the way to the hub, or with the hub; None for an error of the disk."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError):  # whatever kept it from asking the hub
        cause = error.__cause__
        if cause is None:
            return not_cached(address)
        return _of_network(address, cause) or _unreachable(address, cause)
    match error:
        case errors.OfflineModeIsEnabled():
            return not_cached(address)
        case errors.FileMetadataError():
            return no_hub(address)
        case errors.HfHubHTTPError() if (status := error.response.status_code) in (401, 403):
            what = f"the hub does not accept the token (HTTP {status})"
            return NetworkError(f"{address}: {what}", code="hub-token", hint=f"log in again: {LOGIN}")
        case errors.HfHubHTTPError():
            what = f"the hub answers with an error (HTTP {error.response.status_code})"
            hint = "try again later, or check HF_ENDPOINT if it is set"
            return NetworkError(f"{address}: {what}", code="hub-server", hint=hint)
        case errors.HTTPError():  # type: ignore[attr-defined]  # of httpx
            return _unreachable(address, error)
        case OSError(errno=None):
            what = f"the download did not arrive whole: {_first_line(error)}"
            hint = "run it again: what has arrived is kept"
            return NetworkError(f"{address}: {what}", code="hub-incomplete", hint=hint)
    return None


def not_cached(address: Address) -> NetworkError:
    """The error for what would have to be fetched, while the network is switched off."""
    return NetworkError(
        f"{address}: no such file or folder here, nor in the cache of the hub, and the network is not to be used",
        code="hub-offline",
        hint="unset HF_HUB_OFFLINE, or fetch it where there is a network: `hf download`",
    )


def no_hub(address: Address, what: str = "") -> NetworkError:
    """Return the error for a server that does not answer as a hub. what: a verb and its object, such as `names …`."""
    return NetworkError(
        f"{address}: the server at {_endpoint()} {what or 'is not a Hugging Face Hub'}",
        code="hub-server",
        hint="check HF_ENDPOINT, and proxies that answer with a page of their own",
    )


def _unreachable(address: Address, error: BaseException) -> NetworkError:
    return NetworkError(
        f"{address}: no such file or folder here, and no connection to the hub, or it broke: {_first_line(error)}",
        code="hub-connection",
        hint="check the network, proxies and HF_ENDPOINT; HF_HUB_OFFLINE=1 reads what is in the cache",
    )


def _endpoint() -> str:
    """The address of the hub, without a password in it."""
    from huggingface_hub import constants

    return re.sub(r"//[^/@]*@", "//", constants.ENDPOINT)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
