"""An adapter audited, planned and compressed in one call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gradience.adapters.formats import open_adapter
from gradience.audit.adapter import audit_opened
from gradience.compress.adapter import write_compressed
from gradience.compress.module import CompressedModule, Job
from gradience.compress.settings import WritingSettings
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
    calibration: Any = None,
    **options: Any,
) -> CompressionReport:
    """criterion: rank 2 by default."""
    with open_adapter(folder, adapter=adapter) as opened:
        plan = plan_compression(audit_opened(opened), criterion or ToRank(2), path=folder, strength=strength)
        settings = WritingSettings(**options)
        return write_compressed(opened, plan, output, settings, calibration=calibration)


SLIPS = ["wrong module", "other scale", "sign", "noise"]


def slipping(make: Callable[[Job], CompressedModule], slip: str) -> Callable[[Job], CompressedModule]:
    """Return `make` with a bug: the B that it writes in float32 is not the one whose error it states."""
    first: list[bytes] = []

    def wrong(job: Job) -> CompressedModule:
        written = make(job)
        first.append(written.data_B)
        words = np.frombuffer(written.data_B, dtype=np.float32)
        broken = {
            "wrong module": first[0],
            "other scale": (words * np.float32(1.01)).tobytes(),
            "sign": (-words).tobytes(),
            "noise": (words + np.float32(0.1)).tobytes(),
        }
        return written._replace(data_B=broken[slip])

    return wrong
