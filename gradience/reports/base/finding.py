"""A finding: something that the user should know about an adapter."""

from typing import Literal

from gradience.files.artifact import Part

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""The most severe first."""


class Finding(Part):
    """Something that the user should know."""

    code: str
    severity: Severity
    module: str | None = None
    message: str
    hint: str = ""
