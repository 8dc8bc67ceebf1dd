"""Every way in which the hub fails, as one message each: what huggingface_hub raises -> NetworkError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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

    try:
        yield
    except errors.GatedRepoError as error:
        raise NetworkError(
            f"{address}: the repository is gated, and you have no access to it",
            code="hub-gated",
            hint=f"ask for access at {_page(address)}, then log in: {LOGIN}",
        ) from error
    except errors.DisabledRepoError as error:
        raise NetworkError(
            f"{address}: the hub has disabled this repository",
            code="hub-not-found",
            hint=f"see {_page(address)}",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise NetworkError(
            f"{address}: no such file or folder here, and no such repository on the hub, or it is private",
            code="hub-not-found",
            hint=f"check the name; for a private repository log in: {LOGIN}",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NetworkError(
            f"{address}: the repository has no revision {address.revision!r}",
            code="hub-revision",
            hint=f"{_page(address)}/tree/main lists its branches and tags",
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise not_cached(address) from error
    except errors.LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, errors.FileMetadataError):
            raise no_hub(address) from error
        if error.__cause__ is None or isinstance(error.__cause__, errors.OfflineModeIsEnabled):
            raise not_cached(address) from error
        raise _unreachable(address, error.__cause__) from error
    except errors.EntryNotFoundError as error:
        raise NetworkError(
            f"{address}: a file that the hub lists is not there",
            code="hub-file",
            hint=f"try again, or look at {_page(address)}",
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refused(address, error.response) from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # of httpx, whatever it is called there
        raise _unreachable(address, error) from error
    except errors.HFValidationError as error:
        raise NetworkError(
            f"{address}: not a name of the hub", code="hub-not-found", hint="a repository is called org/name"
        ) from error
    except errors.FileMetadataError as error:
        raise no_hub(address) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise NetworkError(
            f"{address}: the download did not arrive whole: {_first_line(error)}",
            code="hub-incomplete",
            hint="run it again: what has arrived is kept",
        ) from error


def not_cached(address: Address) -> NetworkError:
    """The error for what would have to be fetched, while the network is switched off."""
    return NetworkError(
        f"{address}: no such file or folder here, nor in the cache of the hub, and the network is not to be used",
        code="hub-offline",
        hint="unset HF_HUB_OFFLINE, or fetch it where there is a network: `hf download`",
    )


def no_hub(address: Address) -> NetworkError:
    """The error for an endpoint that answers, and not as a hub does."""
    return NetworkError(
        f"{address}: what answers in the place of the hub is none",
        code="hub-server",
        hint="check HF_ENDPOINT, and proxies that answer with a page of their own",
    )


def _refused(address: Address, response: Any) -> NetworkError:
    """The error for an answer with an error status that says nothing more."""
    status = response.status_code
    if status in (401, 403):
        return NetworkError(
            f"{address}: the hub does not accept the token (HTTP {status})",
            code="hub-token",
            hint=f"log in again: {LOGIN}",
        )
    return NetworkError(
        f"{address}: the hub answers with an error (HTTP {status})",
        code="hub-server",
        hint="try again later, or check HF_ENDPOINT if it is set",
    )


def _unreachable(address: Address, error: BaseException) -> NetworkError:
    return NetworkError(
        f"{address}: no such file or folder here, and no connection to the hub, or it broke: {_first_line(error)}",
        code="hub-connection",
        hint="check the network, proxies and HF_ENDPOINT; HF_HUB_OFFLINE=1 reads what is in the cache",
    )


def _page(address: Address) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{address.repo}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
