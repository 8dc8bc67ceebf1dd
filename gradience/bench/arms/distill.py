"""The truncated probe, trained for a few steps without labels to answer as the probe does."""

from __future__ import annotations

from gradience.bench.arms.arm import Distilled
from gradience.bench.arms.truncate import truncate

DISTILL = Distilled(
    "distill",
    truncate,
    "the probe itself, truncated, then trained for a few steps without labels to answer as the probe does",
    needs_control="probe_distilled",
)
