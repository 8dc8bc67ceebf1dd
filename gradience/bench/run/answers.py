"""The stage of an evaluation: records of an adapter's answers, and of a causal model's divergence from the probe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradience.bench.config.load import BenchConfig
from gradience.bench.run.numerics import refuse_mixture
from gradience.bench.run.weights import require_weights
from gradience.bench.verdict.facts import ANSWERS, SCORES, StoredAdapter
from gradience.evaluate.evaluator import Evaluator
from gradience.progress import Progress
from gradience.tasks.base import ClassificationTask, Task


def evaluator_of(config: BenchConfig, task: Task, examples: Sequence[Any], on_batch: Progress) -> Evaluator:
    """The evaluator that the config describes; nothing is loaded yet."""
    return Evaluator(
        task,
        config.model,
        examples,
        batch_size=config.train.per_device_eval_batch_size,
        max_length=config.train.max_length,
        max_new_tokens=config.task.generation.max_new_tokens,
        device=config.runtime.device,
        on_batch=on_batch,
        engine_name=config.runtime.engine,
    )


def evaluate_adapter(
    evaluator: Evaluator,
    adapter: StoredAdapter,
    reference: StoredAdapter | None,
    folder: Path,
    *,
    seed: Path,
    inert: bool,
) -> None:
    """Write the records of `adapter` into `folder`. reference: the probe; None for the probe itself.

    seed: folder of the evaluations that these are compared with. inert: it may leave the base as it is.
    """
    refuse_mixture(seed, ANSWERS, evaluator.numerics)
    needed = [each.folder for each in (adapter, reference) if each is not None]
    for each in needed:
        require_weights(each)
    evaluator.expect(needed)  # of a run that is resumed, the probe is the larger one
    evaluator.answers(adapter.name, adapter.folder, folder / ANSWERS, lora=adapter.lora, allow_inert=inert)
    if reference is None:
        return
    if not isinstance(evaluator.task, ClassificationTask):
        evaluator.scores(
            adapter.name,
            adapter.folder,
            folder / SCORES,
            reference=(reference.name, reference.folder),
            allow_inert=inert,
        )
    evaluator.forget(adapter.name)
