"""An adapter audited, planned and compressed in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradience.adapters.formats import open_adapter
from gradience.audit.adapter import audit_opened
from gradience.compress.adapter import write_compressed
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import Criterion, ToRank
from gradience.reports.compression import CompressionReport

ENCODINGS = ("uniform", "patterns", "padded", "folded")


def compress(
    folder: Path,
    output: Path,
    criterion: Criterion | None = None,
    *,
    adapter: str | None = None,
    strength: float | None = None,
    **options: Any,
) -> CompressionReport:
    """criterion: rank 2 by default."""
    with open_adapter(folder, adapter=adapter) as opened:
        plan = plan_compression(audit_opened(opened), criterion or ToRank(2), path=folder, strength=strength)
        return write_compressed(opened, plan, output, **options)
