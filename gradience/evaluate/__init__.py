"""Evaluate any number of LoRA adapters on one loaded base model, in the same batches: a record for every example.

Reported numbers are computed only from the records. Only the engines and `checks` import torch; `engine`
imports an engine when it is called.
"""

from gradience.evaluate.engines import engine
from gradience.evaluate.engines.base import Engine, fixed_batches
from gradience.evaluate.records import Divergence, diverge, kl_divergence
from gradience.evaluate.rows import Choices, Classification, Generation, Scores, evaluate_rows

__all__ = [
    "Choices",
    "Classification",
    "Divergence",
    "Engine",
    "Generation",
    "Scores",
    "diverge",
    "engine",
    "evaluate_rows",
    "fixed_batches",
    "kl_divergence",
]
