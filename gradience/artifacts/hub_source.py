"""Where on the hub an adapter was read, for every artifact that names one."""

from __future__ import annotations

from gradience.artifacts.base import Part
from gradience.hub.client import Source


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
