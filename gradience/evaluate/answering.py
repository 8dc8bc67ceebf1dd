"""Adapters after one another on one base: their answers, and how far each is from the reference, kept on the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from gradience.errors import GradienceError, InputError, OutputError
from gradience.evaluate.budget import Budget
from gradience.evaluate.engines.base import OutOfMemoryError
from gradience.evaluate.evaluator import Evaluator
from gradience.evaluate.inputs import BASE_ROW, AdapterInput, Inputs, why_inert
from gradience.evaluate.kept import Kept
from gradience.files.records import Evaluation
from gradience.models.tokenizers import digest_of_files
from gradience.progress import Watcher
from gradience.reports.evaluation import RecordsFile
from gradience.tasks.examples import fingerprint

RECORDS = "records"
T = TypeVar("T")


@dataclass(slots=True)
class Answers:
    """What one row left."""

    adapter: AdapterInput | None
    """None: the base."""
    answers: Evaluation[Any] | None = None
    scores: Evaluation[Any] | None = None
    """Of the gold responses; None for labels, for the reference, and where they are the answers."""
    files: list[RecordsFile] = field(default_factory=list)
    error: str = ""
    """Why there are no answers."""


class Answering:
    """One base, and every adapter on it."""

    def __init__(
        self,
        inputs: Inputs,
        output: Path | None,
        watcher: Watcher,
        *,
        rows: int | None = None,
        likelihoods: bool = False,
    ) -> None:
        """output: the folder of the evaluation; None keeps nothing. rows: how many there will be at most.

        likelihoods: score the gold responses of the reference as well; of the others they are scored anyway.
        """
        request = inputs.request
        self._likelihoods = likelihoods
        self._rows = len(inputs.adapters) + request.with_base if rows is None else rows
        self.inputs, self.watcher = inputs, watcher
        self.kept = None if output is None else Kept(output / RECORDS, watcher.note)
        self.evaluator = Evaluator(
            inputs.task,
            inputs.model,
            inputs.examples,
            batch_size=request.batch_size,
            max_length=inputs.max_length,
            max_new_tokens=request.max_new_tokens,
            device=request.device,
            on_batch=watcher.step,
            on_tokens=watcher.tokens,
            engine_name=request.engine,
        )
        self.evaluator.expect([adapter.folder for adapter in inputs.adapters])
        self._number = 0

    def run(self) -> list[Answers]:
        """Evaluate the reference, the candidates, and the base where that is wanted."""
        return self.work(Answering._all)

    def work(self, do: Callable[[Answering], T]) -> T:
        """Return what `do` makes of adapters that it evaluates here; the memory of the base is free afterwards."""
        try:
            return self.sharing_batches(lambda: do(self))
        finally:
            self.evaluator.close()

    def sharing_batches(self, evaluate: Callable[[], T]) -> T:
        """Return what `evaluate` returns; where memory ends, call it again, with smaller batches for all its adapters.

        The size of batches that nobody gave is decided here. Raises OutOfMemoryError where smaller ones do not help.
        """
        reference = self.inputs.reference
        budget = Budget(self.evaluator, self.kept, self._device, self.watcher.note)
        if self.evaluator.batch_size is None:
            budget.find((reference.name, reference.folder))
        while True:
            self._number = 0
            try:
                return evaluate()
            except OutOfMemoryError as error:
                budget.smaller(error)

    def _all(self) -> list[Answers]:
        rows = [self.reference(), *map(self.candidate, self.inputs.adapters[1:])]
        if self.inputs.request.with_base:
            rows.append(Answers(None))
            self._evaluate(rows[-1])
        return rows

    def reference(self) -> Answers:
        """Evaluate the reference. Raises what keeps it from being evaluated."""
        row = Answers(self.inputs.reference)
        self._evaluate(row)
        return row

    def candidate(self, adapter: AdapterInput) -> Answers:
        """Evaluate an adapter against the reference; one that cannot be evaluated is a row with its error."""
        row = Answers(adapter)
        self._attempt(row)
        return row

    def _attempt(self, row: Answers) -> None:
        try:
            self._evaluate(row)
        except OutputError:  # a full disk stops the others as well
            raise
        except GradienceError as error:
            row.answers, row.error = None, str(error)
            self.watcher.note(str(error))

    def _evaluate(self, row: Answers) -> None:
        try:
            if self.inputs.likelihoods:
                row.answers = self._scores(row, "eval", f"{_file_name(row)}.jsonl")
            else:
                self._answer(row)
                scored = self._likelihoods or row.adapter is not self.inputs.reference
                if scored and not self.inputs.classifies:
                    row.scores = self._scores(row, "scores", f"{_file_name(row)}.scores.jsonl")
        except InputError as error:
            if error.code != "adapter-inert" or row.adapter is None:
                raise
            reason = why_inert(row.adapter.folder)
            raise InputError(
                f"{row.adapter.given}: this adapter does nothing here: {reason or 'its logits are those of the base'}",
                code=error.code,
                hint=error.hint,
            ) from None
        if row.adapter is not None and row.adapter is not self.inputs.reference:
            self.evaluator.forget(row.adapter.name)

    def _answer(self, row: Answers) -> None:
        """Answers of the row; a classifier's base has the head of the reference, and no LoRA."""
        adapter, lora = row.adapter, True
        if adapter is None and self.inputs.classifies:
            adapter, lora = self.inputs.reference, False
        name, folder = (None, None) if adapter is None else (adapter.name, adapter.folder)
        self._stage(row, "eval")
        depends = {"kind": "answers", "adapter": _digests(adapter), "name": name, "lora": lora}

        def make(path: Path | None) -> Evaluation[Any]:
            return self.evaluator.answers(name, folder, path, lora=lora)

        row.answers = self._keep(row, f"{_file_name(row)}.jsonl", depends, make)

    def _scores(self, row: Answers, stage: str, file: str) -> Evaluation[Any]:
        """Likelihoods of the gold responses; where nothing is generated, they are the answers."""
        reference, adapter = self.inputs.reference, row.adapter
        name, folder = (None, None) if adapter is None else (adapter.name, adapter.folder)
        self._stage(row, stage)
        depends = {"kind": "scores", "adapter": _digests(adapter), "name": name}
        depends |= {"reference": _digests(reference), "reference_name": reference.name}

        def make(path: Path | None) -> Evaluation[Any]:
            return self.evaluator.scores(name, folder, path, reference=(reference.name, reference.folder))

        return self._keep(row, file, depends, make)

    def _keep(self, row: Answers, file: str, depends: Mapping[str, Any], make: Any) -> Evaluation[Any]:
        if self.kept is None:
            return make(None)  # type: ignore[no-any-return]
        evaluation, digest = self.kept.records(file, {**self._shared, **depends}, make)
        row.files.append(RecordsFile(path=f"{RECORDS}/{file}", sha256=digest))
        return evaluation

    def _stage(self, row: Answers, what: str) -> None:
        alone = self.inputs.classifies or self.inputs.likelihoods
        stages = self._rows if alone else 2 * self._rows - (not self._likelihoods)
        self._number += 1
        self.watcher.stage(f"{_file_name(row)}/{what}", self._number, stages)

    @cached_property
    def fingerprint(self) -> str:
        """The base by its content."""
        from gradience.models.load import fingerprint_of

        return fingerprint_of(self.inputs.model)

    @cached_property
    def data(self) -> str:
        """The examples by their content."""
        return fingerprint(self.inputs.examples)

    @cached_property
    def _base(self) -> dict[str, Any]:
        import torch

        from gradience.models.devices import choose_device, computes_fast

        tokenizer = self.inputs.model.tokenizer
        return {
            "base": self.fingerprint,
            "model": self.inputs.model.model_dump(mode="json", exclude={"name", "revision"}),
            "bfloat16": computes_fast(
                torch.bfloat16, choose_device(self.inputs.request.device)
            ),  # for `auto`
            **({"tokenizer": digest_of_files(Path(tokenizer))} if tokenizer else {}),
        }

    @property
    def _device(self) -> dict[str, Any]:
        """What decides how much fits."""
        return {**self._base, "device": self.evaluator.numerics["device"]}

    @property
    def _shared(self) -> dict[str, Any]:
        """What decides every row's records."""
        return {
            **self._base,
            "data": self.data,
            "settings": self.evaluator.settings,
            "scoring": self.inputs.task.scoring,
            "numerics": self.evaluator.numerics,
        }


def _digests(adapter: AdapterInput | None) -> list[str] | None:
    return None if adapter is None else [adapter.identity.weights_sha256, adapter.identity.config_sha256]


def _file_name(row: Answers) -> str:
    return BASE_ROW if row.adapter is None else row.adapter.name
