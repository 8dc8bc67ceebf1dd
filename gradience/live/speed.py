"""How fast training is: the time between two logs, without what was not training."""

from __future__ import annotations

import time


class Speed:
    """Steps per second since the log before; evaluations and measurements are taken out."""

    def __init__(self, step: int = 0) -> None:
        """step: the one at which training begins, now."""
        self._restart(step)

    def _restart(self, step: int) -> None:
        self._began, self._step, self._apart = time.perf_counter(), step, 0.0

    def leave_out(self, seconds: float) -> None:
        """Take out `seconds` since the last log that went into something else."""
        self._apart += seconds

    def at(self, step: int, sequences_per_step: int) -> dict[str, float]:
        """Return `steps_per_second` and `samples_per_second` until now, and begin again; nothing without a step."""
        seconds = time.perf_counter() - self._began - self._apart
        steps = step - self._step
        self._restart(step)
        if seconds <= 0 or steps <= 0:
            return {}
        return {
            "steps_per_second": round(steps / seconds, 4),
            "samples_per_second": round(steps * sequences_per_step / seconds, 3),
        }
