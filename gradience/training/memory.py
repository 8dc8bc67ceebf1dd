"""Peak memory of a stage, on its compute device."""

from collections.abc import Callable
from pathlib import Path

import torch

Reading = Callable[[], int | None]
"""Returns the peak in bytes since measurement started; None if the system cannot report it."""

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
RESET_PEAK = "5"
"""Value that resets the peak resident memory of a Linux process (man 5 proc)."""


def watch_peak(device: torch.device) -> Reading:
    """Start measuring the memory of `device`. Call the result for the peak since then.

    On a GPU: memory allocated by torch. On a CPU: resident memory of this process, if the system can reset
    the earlier peak (Linux); otherwise None, since the peak of the whole process is not that of a stage.
    Memory already in use, such as a loaded base, counts.

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
