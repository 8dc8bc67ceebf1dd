"""One loaded base model, any number of LoRA adapters, the same batches for each: a record for every example.

Every number that is reported is counted over the records, never the other way round. Names are imported on first
use, so that records are compared without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradience.evaluate.batches import fixed_batches
    from gradience.evaluate.classify import evaluate_classification
    from gradience.evaluate.comparison import Divergence, diverge, kl_divergence
    from gradience.evaluate.engines import engine
    from gradience.evaluate.engines.base import Engine
    from gradience.evaluate.engines.transformers.engine import TransformersEngine
    from gradience.evaluate.generate import evaluate_generation
    from gradience.evaluate.score import evaluate_scores

_HOME = {
    "Divergence": "comparison",
    "Engine": "engines.base",
    "TransformersEngine": "engines.transformers.engine",
    "diverge": "comparison",
    "engine": "engines",
    "evaluate_classification": "classify",
    "evaluate_generation": "generate",
    "evaluate_scores": "score",
    "fixed_batches": "batches",
    "kl_divergence": "comparison",
}

__all__ = [
    "Divergence",
    "Engine",
    "TransformersEngine",
    "diverge",
    "engine",
    "evaluate_classification",
    "evaluate_generation",
    "evaluate_scores",
    "fixed_batches",
    "kl_divergence",
]


def __getattr__(name: str) -> Any:
    """The public name `name`, imported from the file it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
