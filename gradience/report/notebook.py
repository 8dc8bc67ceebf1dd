"""Artifacts in a notebook: importing this module lets them show themselves as HTML.

`import gradience` does so as soon as a public name brings an artifact, so that nothing below imports the faces.
"""

from __future__ import annotations

from gradience.artifacts.base import Artifact


def draw(artifact: Artifact) -> str | None:
    """Return the artifact as HTML; None for one that has no document, which a notebook shows as text."""
    from gradience.artifacts.audit import AuditReport

    if isinstance(artifact, AuditReport):
        from gradience.report.audit import audit_html

        return audit_html(artifact)
    return None


Artifact.draw = staticmethod(draw)
