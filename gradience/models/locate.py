"""A base model by its name -> a folder on this disk: an embedded package, a folder, or one commit on the hub."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from gradience.errors import InputError, UsageError
from gradience.files.hub import Address, address_of, fetch_folder
from gradience.models import embedded
from gradience.models.local_only import is_local_only
from gradience.models.settings import ModelSettings

EMBEDDED: dict[str, tuple[Callable[[], Path], str]] = {
    "embedded:minilm": (embedded.minilm, "sentence-transformers/all-MiniLM-L6-v2"),
    "embedded:smollm2": (embedded.smollm2, "HuggingFaceTB/SmolLM2-135M-Instruct"),
}
"""Base models available without a hub: name in a config -> the weights' folder, and the base name for
adapters.
"""

KNOWN: Mapping[str, Mapping[str, Any]] = {
    "mistralai/Mistral-7B-v0.1": {"model_type": "mistral"},
    "distilbert-base-uncased": {"model_type": "distilbert"},
    "embedded:minilm": {
        "model_type": "bert",
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "vocab_size": 30522,
    },
    "embedded:smollm2": {
        "model_type": "llama",
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
}
"""Shapes of the models that shipped configs name, so that a forecast works without a network: fields of their
config.json that differ from what transformers assumes for the type."""

BESIDE = ("*.json", "*.txt", "*.model", "*.jinja")
"""Files beside the weights that affect a base's outputs: config and tokenizer."""
EVERYTHING = (*BESIDE, "*.safetensors")
"""Files downloaded from the hub: neither code nor pickles."""
OTHER_COPIES = ("*/*.safetensors", "consolidated*")
"""The same weights once more, for other programs."""


class BaseSource(NamedTuple):
    """A base model on this disk."""

    folder: Path
    name: str
    """The name that an adapter records as its base."""
    commit: str | None = None
    """On the hub: the commit that `folder` holds."""


def locate(settings: ModelSettings, files: tuple[str, ...] = EVERYTHING) -> BaseSource:
    """Return the folder of the base, downloaded if needed (inside `local_only`: only from the hub's cache).

    files: patterns of the files needed from a hub repository.
    Raises UsageError (`unknown-model`, `bad-address`, `two-revisions`), InputError (`model-not-found`, for a
    name that can only be a folder), NetworkError (`hub-…`), and the errors of the embedded packages.
    """
    name = settings.name
    if name in EMBEDDED:
        make, upstream = EMBEDDED[name]
        return BaseSource(make(), upstream)
    if name.startswith("embedded:"):
        raise UsageError(
            f"model.name: no such base model: {name}",
            code="unknown-model",
            hint=f"use {' or '.join(EMBEDDED)}, a hub name or a folder",
        )
    path = settings.path
    if path.exists():
        return BaseSource(path, name if settings.folder is None else str(path))
    address = hub_address(settings)
    if address is None:
        raise InputError(
            f"{path}: no such folder",
            code="model-not-found",
            hint="name the folder of a base model (in a config a relative path starts at the config's folder), a hub"
            " name, or embedded:minilm",
        )
    folder, commit = fetch_folder(address, files, OTHER_COPIES, local=is_local_only())
    return BaseSource(folder, address.repo, commit)


def local_base(name: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder of a base model on this disk, or of one in a package; None for a name on the hub."""
    if str(name) in EMBEDDED:
        return EMBEDDED[str(name)][0]()
    return Path(name) if name is not None and os.path.isdir(name) else None


def hub_address(settings: ModelSettings) -> Address | None:
    """Return the hub address of a base that is not on disk; None for a name that can only be a folder.

    Raises UsageError (`bad-address`, `two-revisions`).
    """
    name = settings.name
    address = address_of(name) or (None if is_path(name) else Address(name))
    if address is None or settings.revision is None:
        return address
    if address.revision not in (None, settings.revision):
        raise UsageError(
            f"{name}: a different revision is also given: {settings.revision}",
            code="two-revisions",
            hint="give only one revision",
        )
    return replace(address, revision=settings.revision)


def plain_name(name: str) -> str:
    """Return the repository of an address on the hub, as named in configs; any other name unchanged."""
    address = address_of(name)
    return name if address is None else address.repo


def recorded_base(name: str) -> str:
    """Return the last part of a base model's name, as records hold it: the base may be stored elsewhere.

    >>> recorded_base("models/mistral"), recorded_base("org/name@v1")
    ('mistral', 'name')
    """
    return Path(EMBEDDED[name][1] if name in EMBEDDED else plain_name(name)).name


def last_part(name: str) -> str:
    """Return the last part of a base model's name or path, in lower case: a copy may be in another folder."""
    return name.rstrip("/\\").replace("\\", "/").rpartition("/")[2].casefold()


def require_weights(folder: Path, *, pickles: bool = True) -> None:
    """Raise InputError (`model-unreadable`) unless there are weights in `folder`; without `pickles` in safetensors."""
    if any(folder.glob("*.safetensors")):
        return
    if not pickles and any(folder.glob("*.bin")):
        raise InputError(
            f"{folder}: the adapter's config names this base model, but its weights are a pickle",
            code="model-unreadable",
            hint=f"if you trust it, name it yourself: --base-model {folder}",
        )
    if not any(folder.glob("*.bin")):
        raise InputError(
            f"{folder}: contains no weights",
            code="model-unreadable",
            hint="put config.json, *.safetensors and the tokenizer's files there",
        )


def is_path(name: str) -> bool:
    """Return whether a name can only be a folder: on the hub there is `name` and `owner/name`."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
