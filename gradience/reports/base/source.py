"""Parts of every report that names an adapter: its commit on the hub, and its initial adapter."""

from __future__ import annotations

from gradience.adapters.adapter import Adapter
from gradience.files.artifact import Part
from gradience.files.hub import HubCommit
from gradience.files.shared_names import path_text


class HubSource(Part):
    """A commit of a repository on the hub."""

    repo: str
    """`org/name`."""
    revision: str | None = None
    """The requested branch, tag or commit; null for the default branch."""
    commit: str
    """The commit that was read."""
    inside: str = ""
    """The folder or file of the repository; empty for its root."""


def commit_of(source: HubSource | None) -> list[str]:
    """Return `commit 0123456789ab` for a screen; empty for an adapter on disk."""
    return [] if source is None else [f"commit {source.commit[:12]}"]


def hub_source(source: HubCommit | None) -> HubSource | None:
    """Return the source of an adapter as a part of an artifact; None for an adapter on disk."""
    if source is None:
        return None
    address = source.address
    return HubSource(
        repo=address.repo, revision=address.revision, commit=source.commit, inside=address.inside
    )


class InitialAdapter(Part):
    """The adapter before training: the update is s·(B·A − B₀·A₀), of twice the rank."""

    path: str
    """Source of the initial adapter: a path, or a repository name on the hub."""
    sha256: str
    """Digest of its weights."""
    source: HubSource | None = None
    """Hub repository and revision; null for an adapter on disk."""


def initial_of(opened: Adapter) -> InitialAdapter | None:
    """Return the initial adapter that was subtracted from the pairs of `opened`; None if none was."""
    initial = opened.initial
    if initial is None:
        return None
    return InitialAdapter(
        path=path_text(initial.location.path), sha256=initial.sha256(), source=hub_source(initial.source)
    )
