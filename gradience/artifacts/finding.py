"""A finding: something a person should know about an adapter, and whether it forbids to suggest a rank."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from gradience.artifacts.base import Part

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""The gravest first."""

BLOCKING = frozenset(("init-not-update", "init-noise", "variant-not-update", "non-finite"))
"""Codes with which no rank may be suggested: B·A is not the learned update, or parts of it are no numbers."""


UNCONVINCING = frozenset(("looks-random",))
"""Codes of an adapter whose spectra say nothing about a smaller rank: none is suggested, but it may be truncated."""


class Finding(Part):
    """Something a person should know."""

    code: str
    severity: Severity
    module: str | None = None
    message: str
    hint: str = ""


def blocks_suggestions(findings: Iterable[Finding]) -> bool:
    """Whether some finding forbids a suggestion."""
    return any(finding.code in BLOCKING | UNCONVINCING for finding in findings)
