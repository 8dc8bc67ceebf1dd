"""Evaluate adapters in turn on one base, and keep the records of their answers and of their divergence on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from gradience.errors import GradienceError, OutputError
from gradience.evaluate.adapters import BASE_ROW, AdapterInput
from gradience.evaluate.engines.base import OutOfMemoryError
from gradience.evaluate.evaluator import Evaluator, LoadedBase
from gradience.evaluate.inputs import EvaluateInputs
from gradience.evaluate.kept import RECORDS, RecordStore
from gradience.evaluate.outcome import row_of
from gradience.files.records import Evaluation, first
from gradience.progress import Watcher
from gradience.reports.evaluation import RecordsFile
from gradience.tasks.examples import fingerprint

T = TypeVar("T")


@dataclass(slots=True)
class AdapterAnswers:
    """Answers of one adapter, and the files with their records."""

    adapter: AdapterInput | None
    """None: the base."""
    answers: Evaluation[Any] | None = None
    scores: Evaluation[Any] | None = None
    """Scores of the gold responses. None for labels, for the reference, if the scores are the answers, or if the engine
    has no likelihoods."""
    files: list[RecordsFile] = field(default_factory=list)
    error: str = ""
    """Reason for missing answers."""
    look: int = 0
    """Last look that was answered."""

    @property
    def file_name(self) -> str:
        """Prefix of its file names."""
        return BASE_ROW if self.adapter is None else self.adapter.name


class Answering:
    """Evaluation of adapters on one base."""

    def __init__(
        self,
        inputs: EvaluateInputs,
        output: Path,
        watcher: Watcher,
        *,
        rows: int | None = None,
        likelihoods: bool = False,
        base: LoadedBase | None = None,
    ) -> None:
        """output: folder of the evaluation. rows: maximum number of adapters.

        likelihoods: also score the gold responses under the reference; under the candidates they are always scored.

        base: shared with the evaluations of other data sets.

        The reference answers only the looks that a candidate needs.
        """
        request = inputs.request
        self._likelihoods = likelihoods
        self._rows = len(inputs.adapters) + request.with_base if rows is None else rows
        self.inputs, self.watcher = inputs, watcher
        self.kept = RecordStore(output / RECORDS, watcher.note)
        self.evaluator = Evaluator(
            inputs.task,
            inputs.model,
            inputs.examples,
            batch_size=request.batch_size,
            max_length=inputs.max_length,
            max_new_tokens=request.max_new_tokens,
            device=request.device,
            on_batch=watcher.step,
            engine_name=request.engine,
            tokenizer=inputs.tokenizer,
            looks=inputs.looks,
            base=base or LoadedBase(),
            owns_base=base is None,
        )
        self.evaluator.expect([adapter.folder for adapter in inputs.adapters])
        self._stages: dict[str, int] = {}
        self._reference = AdapterAnswers(inputs.reference)

    def run(self) -> list[AdapterAnswers]:
        """Evaluate the reference, the candidates, and the base if requested."""
        return self.work(Answering._all)

    def work(self, do: Callable[[Answering], T]) -> T:
        """Return the result of `do`, which evaluates adapters; then free the base's memory.

        An automatic batch size is the cached one, or the largest that the device may hold. If memory runs out,
        `do` is called again with smaller batches for all its adapters, since their answers are compared; the
        longest batch comes first. Raises OutOfMemoryError if smaller batches do not help.
        """
        evaluator = self.evaluator
        if evaluator.batch_size is None:
            kept = self.kept.budget(self._device)
            evaluator.batch_tokens = kept or evaluator.engine_type.batch_tokens(evaluator.device)
        try:
            while True:
                self._stages = {}
                if evaluator.batch_tokens is not None:
                    self.kept.keep_budget(self._device, evaluator.batch_tokens)
                try:
                    return do(self)
                except OutOfMemoryError as error:
                    before = evaluator.batch_tokens
                    if before is None or before < 2 or not error.divisible:
                        raise
                    evaluator.batch_tokens = before // 2
                    self.watcher.note(
                        f"batches of {before:,} tokens do not fit in memory ({error}): all adapters are evaluated again"
                        f" in batches of {evaluator.batch_tokens:,}, since their answers are compared"
                    )
        finally:
            evaluator.close()

    # ------------------------------------------------------------ adapters

    def _all(self) -> list[AdapterAnswers]:
        reference = self.reference()
        rows = [reference, *(self.candidate(adapter, self.stops) for adapter in self.inputs.adapters[1:])]
        if self.inputs.request.with_base:
            rows.append(AdapterAnswers(None))
            self._reach(rows[-1], reference.look)
        return rows

    def stops(self, row: AdapterAnswers) -> bool:
        """Return True if a candidate's test ends at its look."""
        look = row_of(self.inputs, self._reference, row).look
        return look is None or look.stopped is not None

    def reference(self) -> AdapterAnswers:
        """Evaluate the reference up to the first look. Its errors are raised."""
        self._reference = AdapterAnswers(self.inputs.reference)
        self._reach(self._reference, 1)
        return self._reference

    def candidate(self, adapter: AdapterInput, stops: Callable[[AdapterAnswers], bool]) -> AdapterAnswers:
        """Evaluate an adapter, and the reference with it, look by look until `stops`.

        If the adapter cannot be evaluated, its row has the error.
        """
        row = AdapterAnswers(adapter)
        try:
            for look in range(1, len(self.evaluator.looks) + 1):
                self._reach(self._reference, look)
                self._reach(row, look)
                if stops(row):
                    break
            self.evaluator.forget(adapter.name)
        except OutputError:  # a full disk stops the others as well
            raise
        except GradienceError as error:
            row.answers, row.error = None, str(error)
            self.watcher.note(str(error))
        return row

    def _reach(self, row: AdapterAnswers, look: int) -> None:
        """Evaluate a row up to a look."""
        if row.look < look:
            row.look = look
            self._evaluate(row)

    def _evaluate(self, row: AdapterAnswers) -> None:
        """Answer the examples up to the row's look, and score the gold responses against the reference."""
        reference, evaluator, inputs = self.inputs.reference, self.evaluator, self.inputs
        is_reference, adapter = row.adapter is reference, _named(row.adapter)
        answers, scores = f"{row.file_name}.jsonl", f"{row.file_name}.scores.jsonl"
        compared = {**_facts_of(row.adapter), **_facts_of(reference, "reference", "reference_name")}
        scored = {"kind": "scores", **compared}

        def score(paths: Sequence[Path], look: int) -> None:
            evaluator.scores(adapter, paths[0], reference=reference.named, look=look)

        def follow(paths: Sequence[Path], look: int) -> None:
            self._reach(self._reference, look)
            drafts = self._reference.answers
            assert drafts is not None
            evaluator.follow(adapter, paths, drafts.records, reference=reference.named, look=look)

        if inputs.compares_nll:
            (row.answers,) = self._keep(row, "eval", {answers: scored}, score)
        elif (
            evaluator.follows and not is_reference
        ):  # both in one pass, with the reference's answers as drafts
            files = {answers: {"kind": "answers", **compared}}
            files |= {scores: scored} if inputs.measures_divergence else {}
            row.answers, *more = self._keep(row, "eval", files, follow)
            row.scores = more[0] if more else None
        else:
            row.answers = self._answers(row, answers)
            if inputs.measures_divergence and (self._likelihoods or not is_reference):
                (row.scores,) = self._keep(row, "scores", {scores: scored}, score)
        if is_reference and inputs.by_agreement and row.answers is not None:  # the expected answers
            inputs.task.decide.set_reference(row.answers.records)  # type: ignore[union-attr]

    def _answers(self, row: AdapterAnswers, file: str) -> Evaluation[Any]:
        """Return the answers of a row; a classifier's base has the head of the reference, and no LoRA."""
        adapter, lora = row.adapter, True
        if adapter is None and self.inputs.classifies:
            adapter, lora = self.inputs.reference, False
        depends = {"kind": "answers", **_facts_of(adapter), "lora": lora}

        def make(paths: Sequence[Path], look: int) -> None:
            self.evaluator.answers(_named(adapter), paths[0], lora=lora, look=look)

        (answers,) = self._keep(row, "eval", {file: depends}, make)
        return answers

    def _keep(
        self,
        row: AdapterAnswers,
        stage: str,
        files: Mapping[str, Mapping[str, Any]],
        make: Callable[[Sequence[Path], int], None],
    ) -> list[Evaluation[Any]]:
        """Return the records of a row's files. make: writes the records up to a look. files: name -> inputs that
        determine the records."""
        self._stage(row, stage)
        looks = self.evaluator.looks
        shared = {
            **self._base,
            "settings": self.evaluator.settings,
            "scoring": self.inputs.task.scoring,
            "numerics": self.evaluator.numerics,
        }
        depends_by_look = {
            file: [{**shared, **depends, **self._examples_at[look]} for look in range(len(looks))]
            for file, depends in files.items()
        }
        kept = self.kept.records(depends_by_look, make, row.look)
        for file, (_, digest) in zip(files, kept, strict=True):
            written = RecordsFile(path=f"{RECORDS}/{file}", sha256=digest)
            known = [known.path for known in row.files]
            place = known.index(written.path) if written.path in known else len(known)
            row.files[place : place + 1] = [written]
        return [first(evaluation, looks[row.look - 1]) for evaluation, _ in kept]

    def _stage(self, row: AdapterAnswers, stage: str) -> None:
        once = self.inputs.compares_nll or not self.inputs.measures_divergence
        if self.evaluator.follows:
            stages = self._rows + (self.inputs.measures_divergence and self._likelihoods)
        else:
            stages = self._rows if once else 2 * self._rows - (not self._likelihoods)
        looks = len(self.evaluator.looks)
        look = f", look {row.look} of {looks}" if looks > 1 else ""
        name = f"{row.file_name}{look}/{stage}"
        number = self._stages.setdefault(name, len(self._stages) + 1)
        # Tests may stop at any look, so the number of stages is then unknown.
        self.watcher.stage(name, number, None if looks > 1 else stages)

    @property
    def fingerprint(self) -> str:
        """Digest of the base's content, if the engine can compute one."""
        return str(self._base["base"])

    @cached_property
    def data(self) -> str:
        """Digest of the examples."""
        return fingerprint(self.inputs.examples)

    @cached_property
    def _examples_at(self) -> Sequence[dict[str, Any]]:
        """Inputs that determine the records of each look."""
        looks = self.evaluator.looks
        if len(looks) == 1:
            return [{"data": self.data}]
        return [
            {"data": fingerprint(self.inputs.examples[:end]), "looks": looks[: number + 1]}
            for number, end in enumerate(looks)
        ]

    @cached_property
    def _base(self) -> dict[str, Any]:
        model = self.inputs.model
        identity = self.evaluator.engine_type.identify(model, self.evaluator.device)
        return {**identity, "model": model.model_dump(mode="json", exclude={"name", "revision"})}

    @property
    def _device(self) -> dict[str, Any]:
        """Everything that determines the largest batch."""
        return {**self._base, "device": self.evaluator.numerics["device"]}


def _named(adapter: AdapterInput | None) -> tuple[str, Path] | None:
    return None if adapter is None else adapter.named


def _facts_of(
    adapter: AdapterInput | None, digests: str = "adapter", name: str = "name"
) -> dict[str, list[str] | str | None]:
    """Return the name of an adapter and the digests of its files, under these keys."""
    if adapter is None:
        return {digests: None, name: None}
    identity = adapter.identity
    weights = identity.weights_sha256 or str(identity.folder)
    return {digests: [weights, identity.config_sha256], name: adapter.name}
