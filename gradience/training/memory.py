"""The peak of memory of a stage, on the device where it computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

Reading = Callable[[], int | None]
"""Bytes at most since the watching began; None where the system cannot tell."""

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
RESET_PEAK = "5"
"""What Linux takes as the order to forget the peak of a process's resident memory (man 5 proc)."""


def watch_peak(device: torch.device) -> Reading:
    """Begin to watch the memory of `device`; call what this gives for the peak since then.

    On a GPU: what torch had allocated there. On a processor: the resident memory of this process, where the system can
    forget the peak of before (Linux); elsewhere None, since a peak of the whole process is none of a stage. What lay
    there already, such as a loaded base, counts.

    >>> peak = watch_peak(torch.device("cpu"))
    >>> block = bytearray(10_000_000)
    >>> measured = peak()
    >>> measured is None or measured > 10_000_000
    True
    """
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: int(torch.cuda.max_memory_allocated(device))
    if device.type == "cpu" and _forget_peak():
        return _resident_peak
    return lambda: None


def _forget_peak() -> bool:
    try:
        CLEAR.write_text(RESET_PEAK)
    except OSError:  # no such file: not Linux; read-only or without permission: a container
        return False
    return True


def _resident_peak() -> int | None:
    """`VmHWM` of this process, in bytes."""
    line = next((line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:")), None)
    return 1024 * int(line.split()[1]) if line else None
