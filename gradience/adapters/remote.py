"""An adapter on the hub: config and weights are fetched, the tokenizer if a model is to run, and then read as here."""

import fnmatch
import posixpath
import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from posixpath import basename
from typing import NamedTuple

from gradience.adapters.locate import (
    CONFIG,
    PICKLE_SUFFIXES,
    PICKLES,
    WEIGHT_SUFFIXES,
    lone_weights,
    natural_key,
    no_weights,
    pickle_error,
)
from gradience.errors import InputError, NetworkError
from gradience.files.hub import (
    Address,
    HubCommit,
    cached,
    download,
    is_cached,
    is_offline,
    list_files,
    need_client,
    not_cached,
    remember_absent,
)
from gradience.words import listed

Weights = tuple[tuple[str, ...], ...]
"""Choices of files of weights, as patterns: the first choice whose patterns all match is fetched, first file last."""
_PLAIN = re.compile(r"[\w.+-]{1,200}", re.ASCII)
"""Allowed names of fetched files, so that a name from the hub cannot steer the download."""
MAX_LONE = 2 * 2**30
"""Largest file that is downloaded without being named by the user, if its name is not a known one."""


TOKENIZER = "tokenizer_config.json"
"""The file that every tokenizer has; it is fetched last, so its presence means that all files are there."""
BESIDE_TOKENIZER = (
    *(
        "tokenizer.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
    ),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
)
Fetched = tuple[Path, HubCommit]
"""Local path of a downloaded adapter, and its commit."""


class _Choice(NamedTuple):
    folder: str
    files: tuple[str, ...]
    """In the order in which they are fetched."""
    point: str = ""
    """The requested file, if it is not the folder."""


@cache
def fetch_adapter(address: Address, weights: Weights, adapter: str | None = None) -> Fetched:
    """Download the adapter at `address`, once per process, so that every read sees the same commit.

    weights: file choices.   adapter: a sub-folder, if the repository contains several adapters.
    Raises NetworkError (`hub-…`), InputError for a repository that holds something else, MissingExtra without
    huggingface_hub.
    """
    need_client(address)
    if is_offline() or re.fullmatch(r"[0-9a-f]{40}", address.revision or ""):
        kept = _kept(address, weights, adapter)
        if kept is not None:
            return kept
        if is_offline():
            raise not_cached(address)
    choice = _choose(address, list_files(address), weights, adapter)
    root, commit = download(address, [posixpath.join(choice.folder, name) for name in choice.files])
    return root / choice.folder / choice.point, HubCommit(address, commit)


@cache
def fetch_tokenizer(source: HubCommit, folder: Path) -> None:
    """Download the tokenizer files stored beside a hub adapter into its `folder` in the cache.

    Raises NetworkError (`hub-…`; `hub-offline` if only the hub can tell whether there are any).
    """
    address = Address(source.address.repo, source.commit)
    inside = "/".join(folder.parts[folder.parts.index(source.commit) + 1 :])
    last = posixpath.join(inside, TOKENIZER)
    if is_cached(address, last) is not None:
        return
    if is_offline():
        raise NetworkError(
            f"{source.address}: the hub cache does not show whether it has its own tokenizer, and offline mode "
            "is on",
            code="hub-offline",
            hint="use the base's tokenizer (--tokenizer base), or unset HF_HUB_OFFLINE",
        )
    files = list_files(address)
    if last not in files:
        remember_absent(address, last)
        return
    wanted = [*(posixpath.join(inside, name) for name in BESIDE_TOKENIZER), last]
    download(address, [name for name in wanted if name in files])


def _kept(address: Address, weights: Weights, adapter: str | None) -> Fetched | None:
    """Return the cached adapter if it is complete, which the file that is fetched last shows."""
    folders = [*([posixpath.join(address.inside, adapter)] if adapter else []), address.inside]
    wanted = [(folder, choice[0], "") for folder in folders for choice in weights]
    if adapter:
        wanted.append((address.inside, adapter, ""))
    if address.inside:
        above, file = posixpath.split(address.inside)
        wanted.append((above, file, file))
    for folder, name, point in wanted:
        root = cached(address, posixpath.join(folder, name))
        if root is not None:
            return root / folder / point, HubCommit(address, root.name)
    return None


def _choose(
    address: Address, files: Mapping[str, int | None], weights: Weights, adapter: str | None
) -> _Choice:
    """Return what to fetch of the files of a repository. Raises NetworkError (`hub-file`), InputError."""
    folder = address.inside
    if address.inside in files:
        folder, name = posixpath.split(address.inside)
        named = tuple(choice for choice in weights if name == choice[0])
        if not named and name != CONFIG:
            return _single(address, files, folder, name)
        weights = named or weights
    within = posixpath.join(folder, adapter or "").strip("/")
    folder = within if _beside(files, within) else folder
    beside = _beside(files, folder)
    # Folders that hold adapters, no more than two levels down.
    known = {choice[0] for choice in weights}
    depth = address.inside.count("/") + 3
    folders = {
        posixpath.dirname(path) for path in files if 1 <= path.count("/") <= depth and basename(path) in known
    }
    revision = f"@{address.revision}" if address.revision else ""
    shown = [f"{address.repo}{revision}:{inner[:80]}" for inner in sorted(folders, key=natural_key)]
    hint = f"name one: {listed(shown, 3)}" if shown else ""
    if not beside and folder:
        raise NetworkError(
            f"{address}: there is no {folder!r} in this repository at this revision",
            code="hub-file",
            hint=hint or "check the name of the folder",
        )
    config = [CONFIG] if CONFIG in beside else []
    for choice in weights:
        fitting = [
            sorted(name for name in fnmatch.filter(beside, pattern) if _PLAIN.fullmatch(name))
            for pattern in choice
        ]
        if all(fitting):
            return _Choice(folder, (*config, *(name for names in reversed(fitting) for name in names)))
    if adapter in beside:
        return _single(address, files, folder, adapter)._replace(point="")
    lone = lone_weights(beside)
    if lone is not None and _PLAIN.fullmatch(lone) and not hint:
        size = files[posixpath.join(folder, lone)]
        if size is not None and size > MAX_LONE:
            raise InputError(
                f"{address}: its only weight file, {lone[:80]}, has {size / 1e9:.1f} GB: a full model, by its "
                "size; nothing was downloaded",
                code="full-model",
                hint=f"if it is the adapter, name it: {address.repo}:{lone[:80]}",
            )
        return _Choice(folder, (*config, lone), lone)
    if hint and not set(PICKLES) & set(beside):
        raise InputError(f"{address}: the adapters are in sub-folders", code="several-adapters", hint=hint)
    raise no_weights(address, sorted(beside))


def _single(address: Address, files: Collection[str], folder: str, name: str) -> _Choice:
    """One file of weights under another name, and the config beside it."""
    if name.lower().endswith(PICKLE_SUFFIXES):
        raise pickle_error(address, name)
    if not name.lower().endswith(WEIGHT_SUFFIXES) or not _PLAIN.fullmatch(name):
        raise InputError(
            f"{address}: not a weight file",
            code="not-an-adapter",
            hint="name the repository, a folder in it, or a weight file",
        )
    config = [CONFIG] if CONFIG in _beside(files, folder) else []
    return _Choice(folder, (*config, name), name)


def _beside(files: Collection[str], folder: str) -> list[str]:
    """The names of the files in one folder of the repository."""
    return [basename(path) for path in files if posixpath.dirname(path) == folder]
