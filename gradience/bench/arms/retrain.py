"""Trained from scratch at the smaller ranks: what a training at these ranks would give next time."""

from __future__ import annotations

from gradience.bench.arms.arm import Trained

RETRAIN = Trained("retrain", "retrained from scratch at the smaller ranks", suffix=False)
