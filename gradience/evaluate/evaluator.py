"""Evaluate adapters on one loaded base: the same examples in the same batches, and records for each adapter.

The base is loaded when the first evaluation that is not done yet needs it, and an adapter when it is first
evaluated. So a run that is resumed after all evaluations loads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from gradience.errors import GradienceError, OutputError
from gradience.evaluate import rows as answer_rows
from gradience.evaluate.adapters import BASE_ROW, AdapterInput
from gradience.evaluate.engines import engine
from gradience.evaluate.engines.base import SCORED_SHARE, Draft, Engine, OutOfMemoryError
from gradience.evaluate.inputs import EvaluateInputs
from gradience.evaluate.outcome import row_of
from gradience.evaluate.records import RECORDS, RecordStore
from gradience.files.records import Evaluation, GenerationRecord, first
from gradience.models.settings import ModelSettings
from gradience.progress import Progress, Watcher
from gradience.reports.evaluation import RecordsFile
from gradience.tasks.base import ChoiceTask, ClassificationTask, GenerationTask, LikelihoodTask, Task
from gradience.tasks.examples import fingerprint

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

    def procedure(self, *, lora: bool = True) -> answer_rows.Procedure:
        """Return the procedure that answers the task's rows."""
        task = self.task
        if isinstance(task, ClassificationTask):
            return answer_rows.Classification(max_length=self.max_length, lora=lora)
        if isinstance(task, ChoiceTask):
            return answer_rows.Choices(choose_by=task.choose_by, decide=task.decide)
        if isinstance(task, LikelihoodTask):
            return answer_rows.Scores(rolling=task.rolling)
        return answer_rows.Generation(
            rules=task,
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
        procedure = answer_rows.Scores(reference=reference[0], rolling=rolling)
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
        assert isinstance(generation, answer_rows.Generation)
        answer_rows.follow_rows(
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
        self,
        engine: Engine,
        generation: answer_rows.Generation,
        reference: str,
        drafts: Sequence[GenerationRecord],
    ) -> float:
        """Return the noise of the two largest logits, measured once: on answers before the first look."""
        if reference not in self._near_tie:
            first = list(zip(self.examples, drafts, strict=False))[: self.looks[0]]
            mean = sum(draft.n_tokens for _, draft in first) / len(first)
            step = max(1, int(len(first) * mean / POSITIONS))
            drafts_of_some = [Draft(row.prompt, answer_rows.draft_of(draft)) for row, draft in first[::step]]
            self._near_tie[reference] = engine.near_tie(
                reference, drafts_of_some, generation.decoding(engine)
            )
        return self._near_tie[reference]

    def _rows(
        self,
        engine: Engine,
        procedure: answer_rows.Procedure,
        adapter: NamedAdapter | None,
        path: Path | None,
        look: int | None,
        *,
        allow_inert: bool,
    ) -> Evaluation[Any]:
        looks = self.looks[:look]
        is_beside = procedure.kind == "scores" and not isinstance(self.task, LikelihoodTask)
        return answer_rows.evaluate_rows(
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


# ---------------------------------------------------------------- adapters in turn, with records kept on disk


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
