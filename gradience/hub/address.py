"""How a repository on the hub is named: `org/name@revision:folder`, `hf://…`, or the address of a page.

A name is looked for on this disk first; only what is not there, and looks like a name on the hub, is one.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from gradience.errors import UsageError

_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(rf"({_PART}/{_PART})(?:@([^:@\s\\]+))?(?::([^:\s\\]+))?", re.ASCII)
_SCHEME = re.compile(r"(hf|https?):/{1,2}(?=[^/])", re.IGNORECASE)
"""One slash as well: that is what is left of two in a `Path`."""
_SPECIAL = re.compile(r"(refs/(?:pr|convert)/[^/]+)(?:/|$)")
"""Revisions with slashes in them, as pages and `hf://` write them."""
_FILES = (".safetensors", ".bin", ".pt", ".pth", ".npz", ".gguf", ".json", ".jsonl", ".yaml", ".yml", ".zip")
"""How the name of a file ends: then it is none of a repository."""
HUB = "https://huggingface.co"
OTHERS = ("datasets", "spaces", "buckets", "kernels")
EXAMPLES = "org/name, org/name@revision:folder, hf://org/name, or the address of the repository's page"


@dataclass(frozen=True, slots=True)
class Address:
    """A repository of models on the hub, and where in it.

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
    """Return what `name` means on the hub; None for a path: what is on this disk, or could only be there.

    >>> address_of("org/name@v1:checkpoint-100")
    Address(repo='org/name', revision='v1', inside='checkpoint-100')
    >>> address_of("./org/name") is None
    True

    `first/second` is a path as well if `first` is on this disk: a misspelt path is not sent anywhere.
    Raises UsageError (`bad-address`) for an address of something else than a model on the hub.
    """
    text = os.fspath(name)
    if os.path.lexists(text):
        return None
    scheme = _SCHEME.match(text)
    if scheme is None:
        return None if os.path.lexists(text.partition("/")[0]) else named(text)
    rest = text[scheme.end() :]
    address = _of_uri(rest) if scheme[1].lower() == "hf" else _of_page(rest)
    if address is None:
        raise UsageError(
            f"{text}: not the address of a model on the hub", code="bad-address", hint=f"such as {EXAMPLES}"
        )
    return address


def named(text: str) -> Address | None:
    """Return `org/name[@revision][:folder]` as an address; None for anything else."""
    match = _NAME.fullmatch(text)
    if match is None or (text.lower().endswith(_FILES) and ":" not in text):
        return None
    inside = (match[3] or "").strip("/")
    return (
        None
        if _escapes(inside) or ".." in match[1] or "--" in match[1]
        else Address(match[1], match[2], inside)
    )


def _of_uri(rest: str) -> Address | None:
    """`org/name[@revision][/folder]`, with or without `models/`; `:folder` is understood as well."""
    parts = rest.removeprefix("models/").split("/", 1)
    if len(parts) < 2 or parts[0] in OTHERS:
        return None
    organisation, (name, sign, tail) = parts[0], re.split(r"(@|[/:]|$)", parts[1], maxsplit=1)
    revision, inside = _revision_first(tail) if sign == "@" else (None, tail)
    return _checked(f"{organisation}/{name}", revision, inside)


def _of_page(rest: str) -> Address | None:
    """`huggingface.co/org/name[/tree|blob|resolve/revision[/folder]]`, or the same of HF_ENDPOINT."""
    page = urlsplit(f"https://{rest}")
    hosts = {"huggingface.co", "hf.co", urlsplit(os.environ.get("HF_ENDPOINT", HUB)).netloc}
    parts = page.path.strip("/").split("/", 3)
    if page.netloc not in hosts or len(parts) < 2 or parts[0] in OTHERS:
        return None
    repo = "/".join(parts[:2])
    if len(parts) == 2:
        return _checked(repo, None, "")
    if parts[2] not in ("tree", "blob", "resolve") or len(parts) == 3:
        return None
    return _checked(repo, *_revision_first(parts[3]))


def _revision_first(tail: str) -> tuple[str, str]:
    """Split `revision/folder`, where some revisions have slashes of their own."""
    special = _SPECIAL.match(tail)
    if special:
        return special[1], tail[special.end() :]
    revision, _, inside = re.split(r"([/:]|$)", tail, maxsplit=1)
    return revision, inside


def _checked(repo: str, revision: str | None, inside: str) -> Address | None:
    revision, inside = revision and unquote(revision), unquote(inside).strip("/")
    return (
        None
        if _NAME.fullmatch(repo) is None or _escapes(inside) or revision == ""
        else Address(repo, revision, inside)
    )


def _escapes(inside: str) -> bool:
    return any(part in ("", ".", "..") for part in inside.split("/")) and inside != ""
