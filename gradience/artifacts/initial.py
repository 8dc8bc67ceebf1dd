"""The initial adapter that an update is the difference to, for every artifact of such a difference."""

from __future__ import annotations

from gradience.adapters.adapter import Adapter
from gradience.artifacts.base import Part
from gradience.artifacts.hub_source import HubSource, hub_source
from gradience.artifacts.shared_names import path_text


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
