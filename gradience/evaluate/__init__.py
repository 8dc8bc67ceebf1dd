"""One loaded base model, any number of LoRA adapters, the same batches for each: a record for every example.

Every number that is reported is counted over the records, never the other way round. Names are imported on first
use, so that records are compared without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradience.evaluate.batches import fixed_batches
    from gradience.evaluate.classification import classify
    from gradience.evaluate.comparison import Divergence, diverge, kl_divergence
    from gradience.evaluate.evaluation import evaluate_classification, evaluate_generation, evaluate_scores
    from gradience.evaluate.generation import Output, generate
    from gradience.evaluate.session import Session

_HOME = {
    "Divergence": "comparison",
    "Output": "generation",
    "Session": "session",
    "classify": "classification",
    "diverge": "comparison",
    "evaluate_classification": "evaluation",
    "evaluate_generation": "evaluation",
    "evaluate_scores": "evaluation",
    "fixed_batches": "batches",
    "generate": "generation",
    "kl_divergence": "comparison",
}

__all__ = [
    "Divergence",
    "Output",
    "Session",
    "classify",
    "diverge",
    "evaluate_classification",
    "evaluate_generation",
    "evaluate_scores",
    "fixed_batches",
    "generate",
    "kl_divergence",
]


def __getattr__(name: str) -> Any:
    """The public name `name`, imported from the file it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
