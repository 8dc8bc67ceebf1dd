"""An adapter audited, planned and compressed in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradience import audit_adapter
from gradience.compress.adapter import write_compressed
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import Criterion, ToRank
from gradience.reports.compression import CompressionReport

ENCODINGS = ("uniform", "patterns", "padded", "folded")


def compress(
    folder: Path, output: Path, criterion: Criterion | None = None, **options: Any
) -> CompressionReport:
    """criterion: rank 2 by default."""
    audited = audit_adapter(folder, adapter=options.get("adapter_name"))
    plan = plan_compression(audited, criterion or ToRank(2), path=folder)
    return write_compressed(folder, plan, output, **options)
