"""Download files of a Hugging Face Hub repository through huggingface_hub and its cache, and explain its errors.

An address is `org/name@revision:folder` or `hf://…`. A path on this disk takes precedence over
a repository of the same name.

Every response is checked before huggingface_hub uses it. Without the checks it writes files named by the server (a
commit, the ETag of a file), follows redirects to any address, and reads responses of any length:
docs/decisions/025-answers-of-a-hub.md.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from gradience.digests import sha256_file
from gradience.errors import MissingExtra, NetworkError, UsageError, require
from gradience.reading import open_stream
from gradience.words import first_line

_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(rf"({_PART}/{_PART})(?:@([^:@\s\\]+))?(?::([^:\s\\]+))?", re.ASCII)
_URI = re.compile(r"hf:/{1,2}(?:models/)?([^/@:]+/[^/@:]+)(?:@([^/:]+))?(?:[/:](.+?)/?)?", re.ASCII)
SCHEMES = ("hf:/", "http:/", "https:/")
_FILES = (".safetensors", ".bin", ".pt", ".pth", ".npz", ".gguf", ".json", ".jsonl", ".yaml", ".yml", ".zip")
"""File suffixes that a repository name never has."""
OTHERS = ("datasets/", "spaces/", "buckets/", "kernels/")
EXAMPLES = "org/name, org/name@revision:folder or hf://org/name"


@dataclass(frozen=True, slots=True)
class Address:
    """A model repository on the hub, with a revision and a path inside it.

    repo: `org/name`.
    revision: a branch, a tag or a commit; None for the default branch.
    inside: a folder or a file of the repository; empty for its root.
    """

    repo: str
    revision: str | None = None
    inside: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.repo}{revision}{f':{self.inside}' if self.inside else ''}"


def address_of(name: str | os.PathLike[str]) -> Address | None:
    """Return the hub address that `name` means; None for a path, whether it exists or not.

    >>> address_of("org/name@v1:checkpoint-100")
    Address(repo='org/name', revision='v1', inside='checkpoint-100')
    >>> address_of("./org/name") is None
    True

    `first/second` is a path if `first` is on this disk, so a misspelt path is never sent to a server.
    Raises UsageError (`bad-address`) for an address that is not a model on the hub.
    """
    text = os.fspath(name)
    if os.path.lexists(text):
        return None
    if not text.startswith(SCHEMES):
        return None if os.path.lexists(text.partition("/")[0]) else named(text)
    # As huggingface_hub writes it: `hf://[models/]org/name[@revision][/folder]`; a `Path` has one slash less.
    match = _URI.fullmatch(text)
    revision, inside = (match[2] and unquote(match[2]), unquote(match[3] or "")) if match else (None, "")
    if match is None or _NAME.fullmatch(match[1]) is None or match[1].startswith(OTHERS) or _escapes(inside):
        raise UsageError(
            f"{text}: not a model address on the hub", code="bad-address", hint=f"write it as {EXAMPLES}"
        )
    return Address(match[1], revision, inside)


def named(text: str) -> Address | None:
    """Return `org/name[@revision][:folder]` as an address; None for anything else."""
    match = _NAME.fullmatch(text)
    if match is None or (text.lower().endswith(_FILES) and ":" not in text):
        return None
    inside = (match[3] or "").strip("/")
    if _escapes(inside) or ".." in match[1] or "--" in match[1]:
        return None
    return Address(match[1], match[2], inside)


def _escapes(inside: str) -> bool:
    return any(part in ("", ".", "..") for part in inside.split("/")) and inside != ""


LOGIN = "`hf auth login`, or HF_TOKEN"


def _refusal(address: Address, error: BaseException) -> NetworkError | None:
    """Return the error that explains a naming, permission or network error; None for a disk error.

    Codes: hub-gated, hub-not-found, hub-revision, hub-file, hub-offline, hub-token, hub-server, hub-connection,
    hub-incomplete.
    """
    from huggingface_hub import errors

    page = f"{_endpoint()}/{address.repo}"
    match error:
        case errors.LocalEntryNotFoundError() if cause := error.__cause__:  # what kept it from asking the hub
            return _refusal(address, cause) or _unreachable(address, cause)
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            return not_cached(address)
        case errors.GatedRepoError():
            access = f"ask for access at {page}, then log in: {LOGIN}"
            problem = "the repository is gated, and you have no access to it"
            return _error(address, problem, code="hub-gated", hint=access)
        case errors.RepositoryNotFoundError():
            problem = "no such file or folder here, and no such repository on the hub, or it is private"
            check = f"check the name; for a private repository log in: {LOGIN}"
            return _error(address, problem, code="hub-not-found", hint=check)
        case errors.HFValidationError() | errors.DisabledRepoError():
            problem = f"not a repository that can be read: {first_line(error)}"
            return _error(address, problem, code="hub-not-found", hint=f"see {page}")
        case errors.RevisionNotFoundError():
            problem = f"the repository has no revision {address.revision!r}"
            names = f"{page}/tree/main lists its branches and tags"
            return _error(address, problem, code="hub-revision", hint=names)
        case errors.EntryNotFoundError():
            problem = "a file that the hub lists is missing"
            return _error(address, problem, code="hub-file", hint=f"try again, or look at {page}")
        # No JSON, or another shape.
        case errors.FileMetadataError() | ValueError() | TypeError() | LookupError() | AttributeError():
            return no_hub(address)
        case AssertionError():
            return no_hub(address)
        case errors.HfHubHTTPError() if (status := error.response.status_code) in (401, 403):
            problem = f"the hub rejected the token (HTTP {status})"
            return _error(address, problem, code="hub-token", hint=f"log in again: {LOGIN}")
        case errors.HfHubHTTPError():
            problem = f"the hub returned an error (HTTP {error.response.status_code})"
            later = "try again later, or check HF_ENDPOINT if it is set"
            return _error(address, problem, code="hub-server", hint=later)
        case errors.HTTPError():  # type: ignore[attr-defined]  # of httpx, whatever it is called there
            return _unreachable(address, error)
        case OSError(errno=None):
            problem = f"the download is incomplete: {first_line(error)}"
            return _error(
                address, problem, code="hub-incomplete", hint="run it again: downloaded files are kept"
            )
    return None


def _error(address: Address, problem: str, *, code: str, hint: str) -> NetworkError:
    return NetworkError(f"{address}: {problem}", code=code, hint=hint)


def _unreachable(address: Address, error: BaseException) -> NetworkError:
    problem = f"no such file or folder here, and the hub could not be reached: {first_line(error)}"
    hint = "check the network, proxies and HF_ENDPOINT; HF_HUB_OFFLINE=1 reads only the cache"
    return _error(address, problem, code="hub-connection", hint=hint)


def not_cached(address: Address) -> NetworkError:
    """Return the error for a file that is not cached while offline mode is on."""
    problem = "no such file or folder here, not in the hub cache, and offline mode is on"
    hint = "unset HF_HUB_OFFLINE, or download it on a machine with network access: `hf download`"
    return _error(address, problem, code="hub-offline", hint=hint)


def no_hub(address: Address, problem: str = "is not a Hugging Face Hub") -> NetworkError:
    """Return the error for a server that is not a hub. problem: a verb and its object, such as `names …`."""
    hint = "check HF_ENDPOINT, and proxies that return their own pages"
    return _error(address, f"the server at {_endpoint()} {problem}", code="hub-server", hint=hint)


def _endpoint() -> str:
    """Return the address of the hub without its password."""
    from huggingface_hub import constants

    return re.sub(r"//[^/@]*@", "//", constants.ENDPOINT)


MAX_ANSWER = 8 * 2**20
"""Maximum bytes of lists and errors for one address."""
MAX_UNSIZED = 256 * 2**20
"""Maximum bytes of a file of unknown size."""
ANSWER_SECONDS = 60.0
"""Seconds for a response that is not a file, and for each step of a connection."""
MAX_WAIT = 300
"""Longest delay in seconds before a busy server gets the request again: huggingface.co counts requests in 5 minutes."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-fA-F]{1,128}")
_SIZE = re.compile(r"[0-9]{1,15}")
_guard: _Guard | None = None


@contextmanager
def guarded(address: Address) -> Iterator[None]:
    """Check every request and response of huggingface_hub in the block, and explain its errors.

    Raises NetworkError (see `_refusal`); errors of the disk are unchanged.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    global _guard
    factory = _http._GLOBAL_CLIENT_FACTORY
    if not (isinstance(factory, partial) and factory.func is _hooked):
        set_client_factory(partial(_hooked, factory))
    before, _guard = _guard, _Guard(address)
    try:
        yield
    except Exception as error:
        refusal = _refusal(address, error)
        if refusal is None:
            raise
        raise refusal from error
    finally:
        _guard = before


def _hooked(factory: Callable[[], Any]) -> Any:
    """Return a client of huggingface_hub whose requests and responses are checked."""
    client = factory()
    hooks = client.event_hooks

    def check_request(request: Any) -> None:
        if _guard is not None:
            _guard.check_request(request)

    def check_response(response: Any) -> None:
        if _guard is not None:
            _guard.check_response(response)

    client.event_hooks = {
        "request": [*hooks["request"], check_request],
        "response": [check_response, *hooks["response"]],
    }
    return client


class _Guard:
    """Checks and limits for one address."""

    def __init__(self, address: Address) -> None:
        from huggingface_hub import constants

        self.address = address
        self.endpoint = constants.ENDPOINT
        self.left = MAX_ANSWER

    def refuse(self, problem: str) -> NetworkError:
        return no_hub(self.address, problem)

    def check_url(self, url: str) -> None:
        """Raise NetworkError for an address that is neither the hub's nor public."""
        try:
            to, home = urlsplit(url), urlsplit(self.endpoint)
            same = to.hostname == home.hostname and to.scheme in ("https", home.scheme)
            public = to.scheme == "https" and is_public(to.hostname or "", to.port or 443)
            # URL parsers disagree about the end of the host if there is a backslash.
            allowed = (same or public) and not re.search(r"[\\\s\0-\x1f]", url)
        except ValueError:
            allowed = False
        if not allowed:
            raise self.refuse(
                f"leads to {url[:200]!r}, which is neither its own host nor a public https address"
            )

    def check_request(self, request: Any) -> None:
        """Check a request before it is sent; redirects are requests of their own."""
        self.check_url(str(request.url))
        # A compressed response could expand to any size. huggingface_hub sets no time limit for some requests.
        request.headers["Accept-Encoding"] = "identity"
        limits = request.extensions.get("timeout") or {}
        kinds = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {kind: limits.get(kind) or ANSWER_SECONDS for kind in kinds}

    def check_response(self, response: Any) -> None:
        """Check the headers of a response before its content is read."""
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
            raise self.refuse("compresses a response although compression was refused")
        limits = f"{headers.get('Retry-After', '')} {headers.get('RateLimit', '')}"
        wait = re.search(r"^(\d+)|\bt\s*=\s*(\d+)", limits)
        seconds = (wait[1] or wait[2]) if wait is not None and not response.is_success else "0"
        if int(seconds[:9]) > MAX_WAIT:
            raise self.refuse(f"asks to wait {seconds[:20]} seconds")
        # Only some ETags name a file: S3, errors and redirects have their own.
        commit = headers.get("X-Repo-Commit")
        host = urlsplit(headers.get("Location") or "").hostname
        followed = response.has_redirect_location and host in (None, urlsplit(self.endpoint).hostname)
        names_a_file = commit is not None and response.status_code < 400 and not followed
        tag = headers.get("X-Linked-Etag") or (headers.get("ETag") if names_a_file else None)
        for what, pattern, value in (
            ("commit", _COMMIT, commit),
            ("digest", _DIGEST, tag and tag.removeprefix("W/").strip('"')),
            ("digest", _DIGEST, headers.get("X-Xet-Hash")),
            ("size", _SIZE, headers.get("X-Linked-Size")),
            ("size", _SIZE, headers.get("Content-Length")),
        ):
            if value is not None and not pattern.fullmatch(value):
                raise self.refuse(f"names the {what} {value[:80]!r}")
        route = response.links.get("xet-auth", {}).get("url") or headers.get("X-Xet-Refresh-Route")
        for url in (route, headers.get("X-Xet-Cas-Url")):  # fetched by a different client
            if url is not None:
                self.check_url(url)

    def _bounded(self, response: Any) -> Any:
        """Return the content of a response. Raises NetworkError if it exceeds the limits."""
        url = str(response.request.url).removeprefix(self.endpoint)
        is_file = response.is_success and not re.match(r"/api/(?!resolve-cache/)", url)
        stream = response.stream
        if is_file and "Content-Length" in response.headers:
            return stream  # the client reads no more than an announced length
        until = math.inf if is_file else time.monotonic() + ANSWER_SECONDS
        name = type(response).__module__.partition(".")[0]  # httpx, whatever it is called there

        class Bounded(sys.modules[name].SyncByteStream):  # type: ignore[misc]
            def __iter__(bounded) -> Iterator[bytes]:
                of_file = MAX_UNSIZED
                for chunk in stream:
                    of_file -= len(chunk)
                    self.left -= 0 if is_file else len(chunk)
                    if min(of_file, self.left) < 0 or time.monotonic() > until:
                        raise self.refuse("sends an endless response")
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
    """Return True if a list entry has a valid file or folder name, and valid digests and size if present."""
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
        and all(
            digest is None or (isinstance(digest, str) and _DIGEST.fullmatch(digest)) for digest in digests
        )
        and all(size is None or (type(size) is int and 0 <= size < 10**15) for size in sizes)
    )


def is_public(host: str, port: int) -> bool:
    """Return True if every address of a host is public. A host unknown here may be known to a proxy."""
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in entries]
    return all((getattr(address, "ipv4_mapped", None) or address).is_global for address in addresses)


SECONDS = 20.0
"""Time limit for the list of a repository's files; downloads have huggingface_hub's own limits."""


@dataclass(frozen=True, slots=True)
class HubCommit:
    """Hub repository and commit that files were read from.

    commit: the commit of these files, even if the branch moves afterwards.
    """

    address: Address
    commit: str


def need_client(address: Address) -> None:
    """Raise MissingExtra, naming the address, if huggingface_hub is not installed."""
    try:
        require("huggingface_hub", extra="hub")
    except MissingExtra as error:
        raise MissingExtra(
            f"{address}: no such file or folder here; a name on the hub needs huggingface_hub, which is not installed",
            code=error.code,
            hint=error.hint,
        ) from None


def check_push(repo: str, *, upload: bool) -> Address:
    """Return the repository to push to. Raises UsageError (bad-address), MissingExtra, NetworkError (hub-token)."""
    address = named(repo)
    if address is None or address != Address(address.repo):
        raise UsageError(
            f"{repo}: not a repository name on the hub",
            code="bad-address",
            hint="give org/name, without a revision",
        )
    need_client(address)
    from huggingface_hub import get_token

    if upload and get_token() is None:
        raise _error(address, "no token for the hub", code="hub-token", hint=f"log in: {LOGIN}")
    return address


def push_files(folder: Path, names: Sequence[str], address: Address, message: str) -> str:
    """Upload files of `folder` in one commit to the default branch; return the commit. A new repository is private.

    The token is that of huggingface_hub's own login. Raises NetworkError.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    api = HfApi()
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names]
    try:
        with guarded(address):
            api.create_repo(address.repo, private=True, exist_ok=True)
            return str(api.create_commit(address.repo, operations, commit_message=message).oid)
    except NetworkError as error:
        if error.code != "hub-not-found":
            raise
        hint = f"log in with a token that may write to {address.repo}: {LOGIN}"
        raise _error(address, "the hub refused the upload", code="hub-token", hint=hint) from error


def is_offline() -> bool:
    """Return True if huggingface_hub must not use the network (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def list_files(address: Address) -> Mapping[str, int | None]:
    """Return every file of the repository with its size. Raises NetworkError (see `guarded`)."""
    from huggingface_hub import HfApi

    with guarded(address):
        info = HfApi().model_info(
            address.repo, revision=address.revision, files_metadata=True, timeout=SECONDS
        )
        return {file.rfilename: file.size for file in info.siblings or ()}


def download(address: Address, names: Sequence[str]) -> tuple[Path, str]:
    """Download files of one commit into the cache. Returns the folder of that commit, and the commit.

    names: paths in the repository. Raises NetworkError (see `guarded`, hub-corrupted, hub-lfs-pointer).
    """
    # The first file is requested by the revision, so that the cache knows it offline; the others by its commit.
    revision, root = address.revision, Path()
    for name in names:
        path = _fetched(address, name, revision)
        with open_stream(path) as file:
            head = file.read(40)
        if head.startswith(b"version https://git-lfs.github.com/spec/"):
            problem = f"{name} is a Git LFS pointer on the hub, not the file itself: its upload is incomplete"
            hint = "ask its author to upload the actual file (`hf upload`), or name an earlier commit"
            raise _error(address, problem, code="hub-lfs-pointer", hint=hint)
        root = path.parents[name.count("/")]
        revision = _commit(address, root)
    return root, root.name


def _fetched(address: Address, name: str, revision: str | None) -> Path:
    """Return a file in the cache, downloaded again if it does not match its digest. Raises NetworkError."""
    from huggingface_hub import hf_hub_download

    for again in (False, True):
        with guarded(address):
            path = Path(hf_hub_download(address.repo, name, revision=revision, force_download=again))
        if not _is_corrupted(path):
            return path
        revision = _commit(address, path.parents[name.count("/")])
    problem = f"{name} was downloaded twice and does not match its sha256 on the hub"
    hint = "check the disk, and proxies between here and the hub, then run it again"
    raise _error(address, problem, code="hub-corrupted", hint=hint)


def _is_corrupted(path: Path) -> bool:
    """Return True if a cached file does not match the sha256 in the name of its blob."""
    digest = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    return re.fullmatch(r"[0-9a-f]{64}", digest) is not None and sha256_file(path) != digest


def cached(address: Address, name: str) -> Path | None:
    """Return the commit's folder if its file `name` is in the cache. The hub is not contacted."""
    path = _in_cache(address, name)
    return Path(path).parents[name.count("/")] if isinstance(path, str) else None


def is_cached(address: Address, name: str) -> bool | None:
    """Return True if the commit has a file of this name; None if the cache does not know."""
    path = _in_cache(address, name)
    return None if path is None else isinstance(path, str)


def _in_cache(address: Address, name: str) -> object:
    from huggingface_hub import try_to_load_from_cache

    return try_to_load_from_cache(address.repo, name, revision=address.revision)


def remember_absent(address: Address, name: str) -> None:
    """Let huggingface_hub note in its cache that the commit has no file of this name."""
    try:
        _fetched(address, name, address.revision)
    except NetworkError as error:
        if error.code != "hub-file":
            raise


@cache
def fetch_folder(
    address: Address, patterns: tuple[str, ...], ignore: tuple[str, ...] = (), *, local: bool = False
) -> tuple[Path, str]:
    """Download the files of a folder that match the patterns, all from one commit. Return the local folder
    and the commit.

    local: use only the cache. The result is cached per process. Raises NetworkError (see `guarded`),
    MissingExtra.
    """
    need_client(address)
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.file_download import repo_folder_name

    inside = f"{address.inside}/" if address.inside else ""
    folder = repo_folder_name(repo_id=address.repo, repo_type="model")
    blobs = Path(constants.HF_HUB_CACHE, folder, "blobs")
    known = {blob.name for blob in blobs.iterdir()} if blobs.is_dir() else set()
    with guarded(address):
        snapshot = snapshot_download(
            address.repo,
            revision=address.revision,
            allow_patterns=[inside + pattern for pattern in patterns],
            ignore_patterns=[inside + pattern for pattern in ignore],
            # Up to 2.1 huggingface_hub requests the files of a pinned commit even if it is offline.
            local_files_only=local or constants.HF_HUB_OFFLINE,
        )
    root = Path(snapshot)
    commit = _commit(address, root)
    for path in root.rglob("*"):
        is_new = path.is_symlink() and os.path.basename(os.readlink(path)) not in known
        if is_new and _is_corrupted(path):
            _fetched(address, path.relative_to(root).as_posix(), commit)
    return root / address.inside, commit


def _commit(address: Address, root: Path) -> str:
    """Return the commit of this folder, as reported by the hub. Raises NetworkError if it is not a commit."""
    if _COMMIT.fullmatch(root.name) is None:
        raise no_hub(address)
    return root.name
