"""A finding: something a person should know about an adapter."""

from __future__ import annotations

from typing import Literal

from gradience.files.artifact import Part

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""The gravest first."""


class Finding(Part):
    """Something a person should know."""

    code: str
    severity: Severity
    module: str | None = None
    message: str
    hint: str = ""
