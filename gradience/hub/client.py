"""What a repository holds, and some of its files on this disk: all through huggingface_hub, in its cache."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gradience.digests import sha256_file
from gradience.errors import MissingExtra, NetworkError, require
from gradience.hub.address import Address
from gradience.hub.failures import explained, no_hub
from gradience.hub.guard import guarded
from gradience.reading import open_stream

SECONDS = 20.0
"""To wait for the list of a repository's files; downloads have huggingface_hub's own limits."""
_BARS: ContextVar[bool] = ContextVar("bars", default=True)


@dataclass(frozen=True, slots=True)
class Source:
    """Where on the hub something was read.

    commit: of the files that were read, whatever the branch points to later.
    """

    address: Address
    commit: str


@contextmanager
def with_bars(shown: bool) -> Iterator[None]:
    """While this lasts, downloads draw huggingface_hub's bars on a terminal (which they do without it), or not."""
    token = _BARS.set(shown)
    try:
        yield
    finally:
        _BARS.reset(token)


def need_client(address: Address) -> None:
    """Raise MissingExtra, which names the address, where huggingface_hub is not installed."""
    try:
        require("huggingface_hub", extra="hub")
    except MissingExtra as error:
        raise MissingExtra(
            f"{address}: no such file or folder here; a name on the hub needs huggingface_hub, which is not installed",
            code=error.code,
            hint=error.hint,
        ) from None


def is_offline() -> bool:
    """Whether huggingface_hub may not use the network (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def list_files(address: Address) -> Mapping[str, int | None]:
    """Return every file of the repository with its size. Raises NetworkError (see `explained`, and hub-server)."""
    from huggingface_hub import HfApi

    with explained(address), guarded(address):
        info = HfApi().model_info(
            address.repo, revision=address.revision, files_metadata=True, timeout=SECONDS
        )
        return {file.rfilename: file.size for file in info.siblings or ()}


def download(address: Address, names: Sequence[str], *, limit: int | None = None) -> tuple[Path, str]:
    """Fetch files of one commit into the cache. Returns the folder of that commit, and the commit.

    names: paths in the repository.   limit: bytes of one file, whatever the server said of its size.
    Raises NetworkError (see `explained`, and hub-corrupted).
    """
    # The first file is asked for by the revision, so that the cache knows it offline; the others by its commit.
    revision, root = address.revision, Path()
    for name in names:
        path = _whole(address, name, _downloaded(address, name, revision, limit=limit))
        _refuse_pointer(address, name, path)
        root = path.parents[name.count("/")]
        revision = _commit(address, root)
    return root, root.name


def _downloaded(
    address: Address, name: str, revision: str | None, *, again: bool = False, limit: int | None = None
) -> Path:
    from huggingface_hub import hf_hub_download

    bars = None if _BARS.get() else _no_bars()
    with explained(address), guarded(address, limit):
        return Path(
            hf_hub_download(address.repo, name, revision=revision, tqdm_class=bars, force_download=again)
        )


def _whole(address: Address, name: str, path: Path) -> Path:
    """The file, downloaded once more if its bytes are not those of its digest. Raises NetworkError (hub-corrupted)."""
    if _is_corrupted(path):
        path = _downloaded(address, name, _commit(address, path.parents[name.count("/")]), again=True)
        if _is_corrupted(path):
            raise NetworkError(
                f"{address}: {name} arrived twice with other bytes than its sha256 on the hub",
                code="hub-corrupted",
                hint="check the disk, and proxies between here and the hub, then run it again",
            )
    return path


def _is_corrupted(path: Path) -> bool:
    """Whether a file in the cache has another sha256 than the blob that it links to is called by."""
    digest = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    return re.fullmatch(r"[0-9a-f]{64}", digest) is not None and sha256_file(path) != digest


def _no_bars() -> type[Any]:
    """A class of bars that draw nothing."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Silent(tqdm):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **(keywords | {"disable": True}))  # type: ignore[no-untyped-call]

    return Silent


def cached(address: Address, name: str) -> Path | None:
    """Return the folder of the commit, where the file `name` of it is in the cache; the hub is not asked."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(address.repo, name, revision=address.revision)
    return Path(path).parents[name.count("/")] if isinstance(path, str) else None


def is_cached(address: Address, name: str) -> bool | None:
    """Return whether the commit has a file of this name, as far as the cache tells; None if it does not."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(address.repo, name, revision=address.revision)
    return None if path is None else isinstance(path, str)


def remember_absent(address: Address, name: str) -> None:
    """Let huggingface_hub note in its cache that the commit has no file of this name."""
    try:
        _downloaded(address, name, address.revision)
    except NetworkError as error:
        if error.code != "hub-file":
            raise


@cache
def fetch_folder(
    address: Address, patterns: tuple[str, ...], ignore: tuple[str, ...] = (), *, local: bool = False
) -> tuple[Path, str]:
    """Fetch the files of a folder that fit the patterns, all of one commit: the folder on this disk, and the commit.

    local: look into the cache alone. Asked once for a process. Raises NetworkError (see `explained`), MissingExtra.
    """
    need_client(address)
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.file_download import repo_folder_name

    inside = f"{address.inside}/" if address.inside else ""
    # Up to 2.1 huggingface_hub asks for the files of a pinned commit even where it is offline.
    alone = local or constants.HF_HUB_OFFLINE
    folder = repo_folder_name(repo_id=address.repo, repo_type="model")
    blobs = Path(constants.HF_HUB_CACHE, folder, "blobs")
    known = {blob.name for blob in blobs.iterdir()} if blobs.is_dir() else set()
    with explained(address), guarded(address):
        root = snapshot_download(
            address.repo,
            revision=address.revision,
            allow_patterns=[inside + pattern for pattern in patterns],
            ignore_patterns=[inside + pattern for pattern in ignore],
            local_files_only=alone,
            tqdm_class=None if _BARS.get() else _no_bars(),
        )
    commit = _commit(address, Path(root))
    for path in Path(root).rglob("*"):
        if path.is_symlink() and os.path.basename(os.readlink(path)) not in known:
            _whole(address, path.relative_to(root).as_posix(), path)
    return Path(root) / address.inside, commit


def _commit(address: Address, root: Path) -> str:
    """The commit whose folder this is, as the hub named it. Raises NetworkError where that is none."""
    if re.fullmatch(r"[0-9a-f]{40}", root.name) is None:
        raise no_hub(address)
    return root.name


def _refuse_pointer(address: Address, name: str, path: Path) -> None:
    """Raise NetworkError where the repository itself holds a Git LFS pointer in the place of a file."""
    with open_stream(path) as file:
        head = file.read(40)
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise NetworkError(
            f"{address}: {name} is a Git LFS pointer on the hub, not the file itself: its upload is incomplete",
            code="hub-lfs-pointer",
            hint="ask its author to upload the file itself (`hf upload`), or name an earlier commit of it",
        )
