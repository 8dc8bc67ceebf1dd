"""Formats beside PEFT's in which an adapter is written: names, order of axes, settings; one file each."""

from __future__ import annotations

from gradience.compress.forms.diffusers import DIFFUSERS
from gradience.compress.forms.form import Form
from gradience.compress.forms.mlx import MLX
from gradience.errors import UsageError, did_you_mean

PEFT = "peft"
FORMS: dict[str, Form] = {form.name: form for form in (MLX, DIFFUSERS)}
"""Name of a format, as `Adapter.format` has it -> how it is written."""
WRITABLE = (PEFT, *FORMS)
"""What `gradience compress --to` takes."""


def form_of(name: str | None, source: str) -> Form | None:
    """The format to write: that of this name, else that of the adapter where it is one of these; None for PEFT's.

    Raises UsageError (unknown-target).
    """
    if name is None:
        return FORMS.get(source)
    if name not in WRITABLE:
        raise UsageError(
            f"{name!r} is no format that a smaller adapter is written in",
            code="unknown-target",
            hint=did_you_mean(name, WRITABLE, f"one of: {', '.join(WRITABLE)}"),
        )
    return FORMS.get(name)
