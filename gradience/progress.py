"""How far a piece of work is: the one signature for it, from the audit to the training."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called after each piece (a module, a step, a batch) with how many are done, and how many there are in all."""
