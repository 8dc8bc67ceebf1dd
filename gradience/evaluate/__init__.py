"""One loaded base model, any number of LoRA adapters, the same batches for each: a record for every example.

Every number that is reported is counted over the records, never the other way round. Only engines need torch, and
`engine` imports one when it is called.
"""

from gradience.evaluate.batches import fixed_batches
from gradience.evaluate.choose import evaluate_choices
from gradience.evaluate.classify import evaluate_classification
from gradience.evaluate.comparison import Divergence, diverge, kl_divergence
from gradience.evaluate.engines import engine
from gradience.evaluate.engines.base import Engine
from gradience.evaluate.generate import evaluate_generation
from gradience.evaluate.score import evaluate_scores

__all__ = [
    "Divergence",
    "Engine",
    "diverge",
    "engine",
    "evaluate_choices",
    "evaluate_classification",
    "evaluate_generation",
    "evaluate_scores",
    "fixed_batches",
    "kl_divergence",
]
