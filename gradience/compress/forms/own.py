"""Formats whose adapters are written back as they came. Every other is written in PEFT's form, or not at all."""

from __future__ import annotations

from gradience.compress.forms.diffusers import DIFFUSERS
from gradience.compress.forms.form import Form
from gradience.compress.forms.mlx import MLX

OWN: dict[str, Form] = {"mlx": MLX, "diffusers": DIFFUSERS}
"""`Adapter.format` -> how a smaller one is written."""
