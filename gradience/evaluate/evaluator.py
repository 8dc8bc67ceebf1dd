"""Evaluates adapters for Bench: one loaded base, the same examples in the same batches, records for each.

The base is loaded when the first evaluation that is not done yet asks for it, and an adapter when it is first
evaluated. So a run that is taken up again after all evaluations loads nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from gradience.artifacts.records import Evaluation
from gradience.evaluate import Session, evaluate_classification, evaluate_generation, evaluate_scores
from gradience.models.load import load_base
from gradience.models.settings import ModelSettings
from gradience.tasks.base import ClassificationTask, Task

SCORED_AT_ONCE = 16
"""Responses in a batch of teacher-forced scoring: its logits over a whole vocabulary take the memory."""


class Judge:
    """The task's examples of one role, and whoever is to answer them."""

    def __init__(
        self,
        task: Task,
        model: ModelSettings,
        items: Sequence[Any],
        *,
        batch_size: int,
        max_length: int,
        max_new_tokens: int | None = None,
        device: str = "auto",
        on_block: Callable[[int, int], None] | None = None,
    ) -> None:
        """`items` are examples of `task`. `max_length`: tokens of a text to label that are read."""
        self.task, self.model, self.items, self.device = task, model, items, device
        self.batch_size, self.max_length = batch_size, max_length
        self.max_new_tokens = max_new_tokens
        self.on_block = on_block
        self.loads = 0
        """How often the base has been loaded."""
        self._session: Session | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What decides an answer, beside adapter, base and examples."""
        found = {"batch_size": self.batch_size}
        if isinstance(self.task, ClassificationTask):
            return found | {"max_length": self.max_length}
        return found | {
            "max_new_tokens": self.max_new_tokens or self.task.max_new_tokens,
            "stop": list(self.task.stop),
            "filters": list(self.task.filters),
        }

    def answers(
        self, name: str, adapter: Path, path: Path, *, lora: bool = True, allow_inert: bool = False
    ) -> Evaluation[Any]:
        """The records of the adapter called `name`: labels, or generated answers. They lie at `path`."""
        session = self._with(name, adapter)
        if isinstance(self.task, ClassificationTask):
            return evaluate_classification(
                session,
                name,
                self.items,
                batch_size=self.batch_size,
                max_length=self.max_length,
                lora=lora,
                scoring=self.task.scoring,
                path=path,
                on_block=self.on_block,
                allow_inert=allow_inert,
            )
        return evaluate_generation(
            session,
            name,
            self.items,
            filters=self.task.filters,
            same=self.task.same,
            max_new_tokens=self.max_new_tokens or self.task.max_new_tokens,
            stop=self.task.stop,
            batch_size=self.batch_size,
            scoring=self.task.scoring,
            path=path,
            on_block=self.on_block,
            allow_inert=allow_inert,
        )

    def closeness(
        self, name: str, adapter: Path, path: Path, *, reference: tuple[str, Path], allow_inert: bool = False
    ) -> Evaluation[Any]:
        """Log-likelihood, KL and flips on the gold responses, against the adapter `reference`; for causal models."""
        self._with(*reference)
        session = self._with(name, adapter)
        return evaluate_scores(
            session,
            [name],
            self.items,
            reference=reference[0],
            batch_size=min(self.batch_size, SCORED_AT_ONCE),
            paths={name: path},
            on_block=self.on_block,
            allow_inert=allow_inert,
        )[name]

    def forget(self, name: str) -> None:
        """Drop an adapter that is evaluated."""
        if self._session is not None and name in self._session.adapters:
            self._session.remove(name)

    def close(self) -> None:
        """Free the memory of the base: a training needs it."""
        self._session = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _with(self, name: str, adapter: Path) -> Session:
        if self._session is None:
            self._session = self._load()
        if name not in self._session.adapters:
            self._session.add(name, adapter)
        return self._session

    def _load(self) -> Session:
        labels = len(self.task.label_names) if isinstance(self.task, ClassificationTask) else None
        base = load_base(self.model, labels=labels, device=self.device)
        self.loads += 1
        return Session(base.model, base.tokenizer, untrained=base.untrained)
