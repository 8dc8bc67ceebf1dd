"""Parts of every report that names an adapter: its commit on the hub, and its initial adapter."""

from gradience.files.artifact import Part
from gradience.files.hub import HubCommit


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
