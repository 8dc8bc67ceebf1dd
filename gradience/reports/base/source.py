"""Parts of every report that names an adapter: its commit on the hub, and its initial adapter."""

from __future__ import annotations

from gradience.adapters.adapter import Adapter
from gradience.files.artifact import Part
from gradience.files.hub import Source
from gradience.files.shared_names import path_text


class HubSource(Part):
    """A commit of a repository on the hub."""

    repo: str
    """`org/name`."""
    revision: str | None = None
    """The branch, tag or commit that was asked for; null: the default branch."""
    commit: str
    """The commit that was read."""
    inside: str = ""
    """The folder or file of the repository; empty for its root."""


def commit_of(source: HubSource | None) -> list[str]:
    """Return `commit 0123456789ab` for a screen; nothing for an adapter that was on this disk."""
    return [] if source is None else [f"commit {source.commit[:12]}"]


def hub_source(source: Source | None) -> HubSource | None:
    """Return where an adapter was read as a part of an artifact; None for one that was on this disk."""
    if source is None:
        return None
    address = source.address
    return HubSource(
        repo=address.repo, revision=address.revision, commit=source.commit, inside=address.inside
    )


class InitialAdapter(Part):
    """The adapter before training: the update is s·(B·A − B₀·A₀), of twice the rank."""

    path: str
    """Where it was read from: a path, or the name on the hub."""
    sha256: str
    """Digest of its weights."""
    source: HubSource | None = None
    """Where on the hub it was read; null for one on the disk."""


def initial_of(opened: Adapter) -> InitialAdapter | None:
    """Return the initial adapter that the pairs of `opened` are the difference to; None where they are none."""
    initial = opened.initial
    if initial is None:
        return None
    return InitialAdapter(
        path=path_text(initial.location.path), sha256=initial.sha256(), source=hub_source(initial.source)
    )
