"""Ctrl-C while modules are imported: the process ends with 130 and no traceback. Nothing is written by then."""

import os
import signal
from types import FrameType


def end(signum: int, frame: FrameType | None) -> None:
    """End the process at once, as a shell expects it after Ctrl-C."""
    os._exit(128 + signum)


def until_ready() -> None:
    """Let Ctrl-C end the process quietly until `main` has taken over."""
    signal.signal(signal.SIGINT, end)
