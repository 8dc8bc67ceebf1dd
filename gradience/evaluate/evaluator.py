"""Evaluate adapters on one loaded base: the same examples in the same batches, and records for each adapter.

The base is loaded when the first evaluation that is not done yet needs it, and an adapter when it is first
evaluated. So a run that is resumed after all evaluations loads nothing.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from gradience.evaluate.batches import SCORED_SHARE
from gradience.evaluate.engines import engine
from gradience.evaluate.engines.base import Draft, Engine
from gradience.evaluate.rows import (
    Choices,
    Classification,
    Generation,
    Procedure,
    Scores,
    draft_of,
    evaluate_rows,
    follow_rows,
)
from gradience.files.records import Evaluation, GenerationRecord
from gradience.models.settings import ModelSettings
from gradience.progress import Progress
from gradience.tasks.base import ChoiceTask, ClassificationTask, GenerationTask, LikelihoodTask, Task

SCORED_AT_ONCE = 16
"""Responses in a batch of teacher-forced scoring. Few, since logits over the whole vocabulary need much memory."""


POSITIONS = 1000
"""Maximum number of positions at which the noise of the two largest logits is measured."""


NamedAdapter = tuple[str, Path]
"""Name of an adapter and PEFT's folder."""


class LoadedBase:
    """One base for several evaluators: loaded when the first of them needs it, freed by `close`."""

    def __init__(self) -> None:
        self.engine: Engine | None = None

    def close(self) -> None:
        """Free the memory of the base."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None


@dataclass(eq=False)
class Evaluator:
    """The task's examples of one role, and the engine that answers them."""

    task: Task
    model: ModelSettings
    examples: Sequence[Any]
    _: KW_ONLY
    max_length: int
    """Maximum tokens of a text to label."""
    batch_size: int | None = None
    """Examples that are answered together (default: as many as `batch_tokens` hold)."""
    batch_tokens: int | None = None
    max_new_tokens: int | None = None
    device: str = "auto"
    on_batch: Progress | None = None
    engine_name: str = "transformers"
    tokenizer: Any = None
    """Tokenizer of the base, with the rows that it has encoded already."""
    looks: tuple[int, ...] = ()
    """Numbers of examples, up to all of them (default: all at once)."""
    base: LoadedBase = field(default_factory=LoadedBase)
    owns_base: bool = True
    """False: other evaluators of the same model share the base, and its owner closes it."""

    def __post_init__(self) -> None:
        self.looks = self.looks or (len(self.examples),)
        self.engine_type = engine(self.engine_name)
        self._labels = len(self.task.label_names) if isinstance(self.task, ClassificationTask) else None
        self.engine_type.check(self.model, labels=self._labels)
        self.engine_type.require(self.task.kind)
        self._near_tie: dict[str, float] = {}
        self._expected: list[Path] = []

    def procedure(self, *, lora: bool = True) -> Procedure:
        """Return the procedure that answers the task's rows."""
        task = self.task
        if isinstance(task, ClassificationTask):
            return Classification(max_length=self.max_length, lora=lora)
        if isinstance(task, ChoiceTask):
            return Choices(choose_by=task.choose_by, decide=task.decide)
        if isinstance(task, LikelihoodTask):
            return Scores(rolling=task.rolling)
        return Generation(
            filters=task.filters,
            same=task.same,
            decide=task.decide,
            stop=task.stop,
            max_new_tokens=self.max_new_tokens or task.max_new_tokens,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that determines an answer, besides adapter, base and examples."""
        settings = {"engine": self.engine_type.name, **self.engine_type.decides(), **self._batches()}
        task = self.task
        if isinstance(task, ClassificationTask):
            return settings | {"max_length": self.max_length}
        if isinstance(task, ChoiceTask):
            return settings | {"choose_by": task.choose_by, "prompts": "once for all choices"}
        if isinstance(task, LikelihoodTask):
            return settings | {"end": not task.rolling, "rolling": task.rolling}
        return settings | {
            "max_new_tokens": self.max_new_tokens or task.max_new_tokens,
            "stop": list(task.stop),
            "filters": list(task.ways),
        }

    @property
    def numerics(self) -> dict[str, Any]:
        """Device, threads and versions of an evaluation on this machine. Loads nothing."""
        return self.engine_type.numerics(self.device)

    def answers(
        self,
        adapter: NamedAdapter | None,
        path: Path | None,
        *,
        lora: bool = True,
        allow_inert: bool = False,
        look: int | None = None,
    ) -> Evaluation[Any]:
        """Return the records of an adapter, None for the base: labels, choices, or generated answers.

        They are stored at `path`, if given. look: number of the look up to which examples are answered; None: all.
        """
        procedure = self.procedure(lora=lora)
        return self._rows(self.engine_with(adapter), procedure, adapter, path, look, allow_inert=allow_inert)

    def scores(
        self,
        adapter: NamedAdapter | None,
        path: Path | None,
        *,
        reference: NamedAdapter,
        allow_inert: bool = False,
        look: int | None = None,
    ) -> Evaluation[Any] | None:
        """Return log-likelihood, KL and flips on the gold responses, against the adapter `reference`.

        adapter: None for the base. Returns None if the engine provides no likelihoods.
        """
        engine, task = self.engine_with(reference, adapter), self.task
        scorer = engine if isinstance(task, LikelihoodTask) else engine.divergence
        if scorer is None:
            return None
        rolling = isinstance(task, LikelihoodTask) and task.rolling
        procedure = Scores(reference=reference[0], rolling=rolling)
        return self._rows(scorer, procedure, adapter, path, look, allow_inert=allow_inert)

    @property
    def follows(self) -> bool:
        """True if another adapter's answers speed up an adapter's own."""
        known = self.engine_type.follows and self.model.type == "causal_lm"
        return known and isinstance(self.task, GenerationTask)

    def follow(
        self,
        adapter: NamedAdapter | None,
        paths: Sequence[Path],
        drafts: Sequence[GenerationRecord],
        *,
        reference: NamedAdapter,
        look: int | None = None,
    ) -> None:
        """Write what `answers` and, with a second path, `scores` write, in one pass with another adapter's drafts.

        drafts: the answers of the reference.
        """
        engine, looks = self.engine_with(reference, adapter), self.looks[:look]
        generation = self.procedure()
        assert isinstance(generation, Generation)
        follow_rows(
            engine,
            generation,
            adapter and adapter[0],
            self.examples[: looks[-1]],
            drafts,
            reference=reference[0],
            near_tie=self._noise_of(engine, generation, reference[0], drafts),
            **self._batches(),
            scoring=self.task.scoring,
            paths=paths,
            on_batch=self.on_batch,
            looks=looks,
        )

    def _noise_of(
        self, engine: Engine, generation: Generation, reference: str, drafts: Sequence[GenerationRecord]
    ) -> float:
        """Return the noise of the two largest logits, measured once: on answers before the first look."""
        if reference not in self._near_tie:
            first = list(zip(self.examples, drafts, strict=False))[: self.looks[0]]
            mean = sum(draft.n_tokens for _, draft in first) / len(first)
            step = max(1, int(len(first) * mean / POSITIONS))
            drafts_of_some = [Draft(row.prompt, draft_of(draft)) for row, draft in first[::step]]
            self._near_tie[reference] = engine.near_tie(
                reference, drafts_of_some, generation.decoding(engine)
            )
        return self._near_tie[reference]

    def _rows(
        self,
        engine: Engine,
        procedure: Procedure,
        adapter: NamedAdapter | None,
        path: Path | None,
        look: int | None,
        *,
        allow_inert: bool,
    ) -> Evaluation[Any]:
        looks = self.looks[:look]
        is_beside = procedure.kind == "scores" and not isinstance(self.task, LikelihoodTask)
        return evaluate_rows(
            engine,
            procedure,
            adapter and adapter[0],
            self.examples[: looks[-1]],
            looks=looks,
            **self._batches(scored=procedure.kind == "scores", at_once=engine.batches_at_once),
            scoring=None if is_beside else self.task.scoring,
            path=path,
            on_batch=self.on_batch,
            allow_inert=allow_inert,
        )

    def _batches(self, *, scored: bool = False, at_once: int | None = None) -> dict[str, Any]:
        """Return how examples are batched, as `evaluate_rows` takes it; at_once: of the engine that answers."""
        times = self.engine_type.batches_at_once if at_once is None else at_once
        if self.batch_size is not None:
            size = min(self.batch_size, SCORED_AT_ONCE) if scored else self.batch_size
            return {"batch_size": times * size}
        assert self.batch_tokens is not None
        tokens = max(1, self.batch_tokens // SCORED_SHARE) if scored else self.batch_tokens
        return {"batch_tokens": times * tokens}

    @property
    def engine(self) -> Engine:
        """The engine, loaded at its first use."""
        if self.base.engine is None:
            self.base.engine = self.engine_type.load(
                self.model, labels=self._labels, device=self.device, tokenizer=self.tokenizer
            )
            self.base.engine.expect(self._expected)
        return self.base.engine

    def expect(self, folders: Sequence[Path]) -> None:
        """Say which adapters will be evaluated: some engines make room for the largest when they start."""
        self._expected += folders
        if self.base.engine is not None:
            self.base.engine.expect(folders)

    def engine_with(self, *adapters: NamedAdapter | None) -> Engine:
        """Return the engine, with these adapters loaded; None is the base."""
        for adapter in adapters:
            if adapter is not None and adapter[0] not in self.engine.adapters:
                self.engine.add(*adapter)
        return self.engine

    def forget(self, name: str) -> None:
        """Drop an adapter that is evaluated."""
        if self.base.engine is not None and name in self.base.engine.adapters:
            self.base.engine.remove(name)

    def close(self) -> None:
        """Free the memory of the base, which a training needs; a shared one stays until its owner closes it."""
        if self.owns_base:
            self.base.close()
