"""A process that ends when its parent does, whatever ends that one: no command goes on beside its successor."""

import ctypes
import signal
import sys

_SET_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux."""


def ends_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; elsewhere than on Linux nothing does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
