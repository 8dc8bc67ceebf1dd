"""What a server says is checked before huggingface_hub uses it: where a request goes, what is named, how long it is.

huggingface_hub makes files of what a server names (its commit, the ETag of a file), follows a redirect to any address,
and reads an answer to its end, however long: docs/decisions/025-answers-of-a-hub.md.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from gradience.errors import NetworkError
from gradience.hub.address import Address
from gradience.hub.failures import no_hub

MAX_ANSWER = 8 * 2**20
"""Bytes of lists and errors while one name is looked up."""
MAX_UNSIZED = 256 * 2**20
"""Bytes of a file whose size the server does not say."""
SECONDS = 60.0
"""For one answer that is no file, and for each step of any connection."""
MAX_WAIT = 300
"""Seconds after which a server that is busy may want to be asked again: huggingface.co counts requests in 5 minutes."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-fA-F]{1,128}")
_guard: _Guard | None = None


@contextmanager
def guarded(address: Address, limit: int | None = None) -> Iterator[None]:
    """Check all that huggingface_hub asks and is answered within. Raises NetworkError (hub-server).

    limit: bytes of a file; by default any number that the server says beforehand.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    global _guard
    factory = _http._GLOBAL_CLIENT_FACTORY
    if not (isinstance(factory, partial) and factory.func is _hooked):
        set_client_factory(partial(_hooked, factory))
    before, _guard = _guard, _Guard(address, limit)
    try:
        yield
    finally:
        _guard = before


def _hooked(factory: Callable[[], Any]) -> Any:
    """A client of huggingface_hub that has every request and answer checked."""
    client = factory()
    hooks = client.event_hooks
    client.event_hooks = {
        "request": [*hooks["request"], _check_request],
        "response": [_check_response, *hooks["response"]],
    }
    return client


def _check_request(request: Any) -> None:
    if _guard is not None:
        _guard.check_request(request)


def _check_response(response: Any) -> None:
    if _guard is not None:
        _guard.check_response(response)


class _Guard:
    """What is known while one name is looked up."""

    def __init__(self, address: Address, limit: int | None) -> None:
        from huggingface_hub import constants

        self.address = address
        self.endpoint = constants.ENDPOINT
        self.left = MAX_ANSWER
        self.limit = limit

    def refuse(self, what: str) -> NetworkError:
        return no_hub(self.address, what)

    def check_url(self, url: str) -> None:
        """Raise NetworkError for an address that is neither the hub's nor public."""
        try:
            to, home = urlsplit(url), urlsplit(self.endpoint)
            same = to.hostname == home.hostname and to.scheme in ("https", home.scheme)
            public = to.scheme == "https" and is_public(to.hostname or "", to.port or 443)
            # Parsers of addresses disagree on where a host ends if there is a backslash.
            allowed = (same or public) and not re.search(r"[\\\s\0-\x1f]", url)
        except ValueError:
            allowed = False
        if not allowed:
            raise self.refuse(
                f"leads to {url[:200]!r}, which is neither its own host nor a public https address"
            )

    def check_request(self, request: Any) -> None:
        """Called before each request, those that follow a redirect included."""
        self.check_url(str(request.url))
        # What is compressed could unfold to any size. huggingface_hub sets no time limit for some requests.
        request.headers["Accept-Encoding"] = "identity"
        limits = request.extensions.get("timeout") or {}
        kinds = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {kind: limits.get(kind) or SECONDS for kind in kinds}

    def check_response(self, response: Any) -> None:
        """Called when the headers of an answer are there, and its content is not."""
        self._check_headers(response)
        response.stream = self._bounded(response)
        if response.is_success and str(response.request.url).startswith(f"{self.endpoint}/api/models/"):
            response.read()
            try:
                content = response.json() if response.content else None
            except (ValueError, RecursionError):
                raise no_hub(self.address) from None
            self._check_listing(content)

    def _check_headers(self, response: Any) -> None:
        headers = response.headers
        if headers.get("Content-Encoding", "identity") != "identity":
            raise self.refuse("compresses an answer although it was asked not to")
        commit = headers.get("X-Repo-Commit")
        if commit is not None and not _COMMIT.fullmatch(commit):
            raise self.refuse(f"names the commit {commit[:80]!r}")
        limits = f"{headers.get('Retry-After', '')} {headers.get('RateLimit', '')}"
        wait = re.search(r"^(\d+)|\bt\s*=\s*(\d+)", limits)
        seconds = (wait[1] or wait[2]) if wait is not None and not response.is_success else "0"
        if int(seconds[:9]) > MAX_WAIT:
            raise self.refuse(f"asks to wait {seconds[:20]} seconds")
        # The ETag of other answers names no file: S3 has its own, as have errors and redirects that are followed.
        host = urlsplit(headers.get("Location") or "").hostname
        followed = response.has_redirect_location and host in (None, urlsplit(self.endpoint).hostname)
        names_a_file = commit is not None and response.status_code < 400 and not followed
        tag = headers.get("X-Linked-Etag") or (headers.get("ETag") if names_a_file else None)
        if tag and not _DIGEST.fullmatch(tag.removeprefix("W/").strip('"')):
            raise self.refuse(f"names the digest {tag[:80]!r} of a file")
        for size in (headers.get("X-Linked-Size"), headers.get("Content-Length")):
            if size is not None and not (size.isascii() and size.isdigit() and len(size) < 16):
                raise self.refuse(f"names the size {size[:80]!r} of a file")
        xet = headers.get("X-Xet-Hash")
        if xet is not None and not _DIGEST.fullmatch(xet):
            raise self.refuse(f"names the digest {xet[:80]!r} of a file")
        route = response.links.get("xet-auth", {}).get("url") or headers.get("X-Xet-Refresh-Route")
        for url in (route, headers.get("X-Xet-Cas-Url")):  # which another client fetches
            if url is not None:
                self.check_url(url)

    def _bounded(self, response: Any) -> Any:
        """The content of an answer, which raises NetworkError where it does not end."""
        url = str(response.request.url).removeprefix(self.endpoint)
        is_file = response.is_success and not re.match(r"/api/(?!resolve-cache/)", url)
        # Of what has a length no more than that is read.
        sized = is_file and "Content-Length" in response.headers and self.limit is None
        stream, until = response.stream, time.monotonic() + SECONDS
        name = type(response).__module__.partition(".")[0]  # httpx, whatever it is called there

        class Bounded(sys.modules[name].SyncByteStream):  # type: ignore[misc]
            def __iter__(bounded) -> Iterator[bytes]:
                unsized = self.limit or MAX_UNSIZED
                for chunk in stream:
                    if is_file:
                        unsized -= 0 if sized else len(chunk)
                    else:
                        self.left -= len(chunk)
                    if unsized < 0 or self.left < 0 or (not is_file and time.monotonic() > until):
                        raise self.refuse("sends an answer that does not end")
                    yield chunk

            def close(bounded) -> None:
                stream.close()

        return Bounded()

    def _check_listing(self, content: Any) -> None:
        """Check the names in a description of a repository, or in a list of its files."""
        files = content
        if isinstance(content, dict):
            commit, files = content.get("sha"), content.get("siblings") or []
            if commit is not None and not (isinstance(commit, str) and _COMMIT.fullmatch(commit)):
                raise self.refuse(f"names the commit {str(commit)[:80]!r}")
        if not isinstance(files, list) or not all(map(_is_file, files)):
            raise self.refuse("lists files with invalid names, sizes or digests")


def _is_file(entry: Any) -> bool:
    """Whether an entry of a list has the name of a file or a folder, and digests and a size where it has any."""
    if not isinstance(entry, dict):
        return False
    lfs = entry.get("lfs") or {}
    name = entry.get("rfilename", entry.get("path"))
    if not isinstance(name, str) or not isinstance(lfs, dict):
        return False
    digests = [entry.get(key) for key in ("oid", "blobId", "xetHash")] + [lfs.get("oid"), lfs.get("sha256")]
    sizes = [entry.get("size"), lfs.get("size")]
    return (
        not any(part in ("", ".", "..") for part in name.split("/"))
        and not any(sign in name for sign in "\0\\")
        and all(each is None or (isinstance(each, str) and _DIGEST.fullmatch(each)) for each in digests)
        and all(each is None or (type(each) is int and 0 <= each < 10**15) for each in sizes)
    )


def is_public(host: str, port: int) -> bool:
    """Return whether every address of a host is public. Of a host that nobody knows here, a proxy may know it."""
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True
    addresses = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in entries]
    return all((getattr(each, "ipv4_mapped", None) or each).is_global for each in addresses)
