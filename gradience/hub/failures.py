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
        explanation = _explanation(address, error)
        if explanation is None:
            raise
        code, what, hint = explanation
        raise NetworkError(f"{address}: {what}", code=code, hint=hint) from error
    except unlike_a_hub as error:
        raise no_hub(address) from error


Explanation = tuple[str, str, str]
"""A code, what is wrong, and what to do next."""


def _explanation(address: Address, error: BaseException) -> Explanation | None:
    """What is wrong with the name, with the right to it, or with the way to the hub; None for an error of the disk."""
    from huggingface_hub import errors

    page = f"{_endpoint()}/{address.repo}"
    match error:
        case errors.LocalEntryNotFoundError():  # whatever kept it from asking the hub
            cause = error.__cause__
            if cause is None:
                return _offline()
            return _explanation(address, cause) or _unreachable(cause)
        case errors.GatedRepoError():
            hint = f"ask for access at {page}, then log in: {LOGIN}"
            return "hub-gated", "the repository is gated, and you have no access to it", hint
        case errors.DisabledRepoError():
            return "hub-not-found", "the hub has disabled this repository", f"see {page}"
        case errors.RepositoryNotFoundError():
            what = "no such file or folder here, and no such repository on the hub, or it is private"
            return "hub-not-found", what, f"check the name; for a private repository log in: {LOGIN}"
        case errors.HFValidationError():
            return "hub-not-found", "not a name of the hub", "a repository is called org/name"
        case errors.RevisionNotFoundError():
            what = f"the repository has no revision {address.revision!r}"
            return "hub-revision", what, f"{page}/tree/main lists its branches and tags"
        case errors.EntryNotFoundError():
            return "hub-file", "a file that the hub lists is not there", f"try again, or look at {page}"
        case errors.OfflineModeIsEnabled():
            return _offline()
        case errors.FileMetadataError():
            refusal = no_hub(address)
            return refusal.code, str(refusal).removeprefix(f"{address}: "), refusal.hint
        case errors.HfHubHTTPError() if (status := error.response.status_code) in (401, 403):
            return "hub-token", f"the hub does not accept the token (HTTP {status})", f"log in again: {LOGIN}"
        case errors.HfHubHTTPError():
            what = f"the hub answers with an error (HTTP {error.response.status_code})"
            return "hub-server", what, "try again later, or check HF_ENDPOINT if it is set"
        case errors.HTTPError():  # type: ignore[attr-defined]  # of httpx
            return _unreachable(error)
        case OSError(errno=None):
            what = f"the download did not arrive whole: {_first_line(error)}"
            return "hub-incomplete", what, "run it again: what has arrived is kept"
    return None


def _offline() -> Explanation:
    what = "no such file or folder here, nor in the cache of the hub, and the network is not to be used"
    return "hub-offline", what, "unset HF_HUB_OFFLINE, or fetch it where there is a network: `hf download`"


def _unreachable(error: BaseException) -> Explanation:
    what = f"no such file or folder here, and no connection to the hub, or it broke: {_first_line(error)}"
    hint = "check the network, proxies and HF_ENDPOINT; HF_HUB_OFFLINE=1 reads what is in the cache"
    return "hub-connection", what, hint


def not_cached(address: Address) -> NetworkError:
    """The error for what would have to be fetched, while the network is switched off."""
    code, what, hint = _offline()
    return NetworkError(f"{address}: {what}", code=code, hint=hint)


def no_hub(address: Address, what: str = "") -> NetworkError:
    """Return the error for a server that does not answer as a hub. what: a verb and its object, such as `names …`."""
    return NetworkError(
        f"{address}: the server at {_endpoint()} {what or 'is not a Hugging Face Hub'}",
        code="hub-server",
        hint="check HF_ENDPOINT, and proxies that answer with a page of their own",
    )


def _endpoint() -> str:
    """The address of the hub, without a password in it."""
    from huggingface_hub import constants

    return re.sub(r"//[^/@]*@", "//", constants.ENDPOINT)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
