"""Evaluate rows with adapters: write a record for every row and adapter, for any kind of measurement.

`evaluate_rows` is the only loop. It evaluates any slice of the rows of a data set with one adapter, so a data set may
be evaluated in parts. A `Procedure` defines how a row is answered and what its record contains.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gradience.digests import sha256_rows, sha256_text
from gradience.errors import InputError, UsageError
from gradience.evaluate.engines.base import (
    Decoding,
    Draft,
    Engine,
    Output,
    Reading,
    Score,
    budget_batches,
    fixed_batches,
)
from gradience.evaluate.records import RecordFile, answer_batches
from gradience.files.records import (
    ChoiceRecord,
    ClassificationRecord,
    Evaluation,
    ExamplesRun,
    GenerationRecord,
    Record,
    RecordKind,
    ScoreRecord,
)
from gradience.progress import Progress
from gradience.tasks.base import AnswerScoring, ChooseBy, Decide
from gradience.words import counted

EFFECT_CHECK_EXAMPLES = 8
"""Texts or prompts on which an adapter must have an effect: the shortest ones, which fit if any batch does."""


@dataclass(frozen=True, kw_only=True)
class Procedure(ABC):
    """How one kind of row is answered and recorded. Rows may be of any class with the attributes that it reads."""

    kind: ClassVar[RecordKind]
    max_length: int | None = None
    """Maximum tokens of a row and its answer (default: the base's limit). Longer rows are truncated."""

    def limit(self, engine: Engine) -> int | None:
        """Return the tokens that a row may have."""
        return self.max_length if self.max_length is not None else engine.max_length

    def settings(self, engine: Engine) -> dict[str, Any]:
        """Return the header fields that describe how rows are answered."""
        return {"max_length": self.limit(engine)}

    def text(self, row: Any) -> str:
        """Return the text by which rows are sorted and batched."""
        return "\0".join(self.encoded(row))

    @abstractmethod
    def identity(self, row: Any) -> tuple[Any, ...]:
        """Return the values that identify a row, including its gold answer."""

    @abstractmethod
    def encoded(self, row: Any) -> tuple[str, ...]:
        """Return the text, or pair of texts, that a row is encoded from."""

    def added(self) -> int:
        """Return the number of tokens added to a row: its answer, or an end token."""
        return 0

    def sequences(self, row: Any) -> int:
        """Return the number of sequences computed for a row."""
        return 1

    def lengths(self, engine: Engine, rows: Sequence[Any]) -> list[int]:
        """Return the tokens of each row."""
        limit, counts = self.limit(engine), engine.count_tokens([self.encoded(row) for row in rows])
        whole = [count + self.added() for count in counts]
        return whole if limit is None else [min(count, limit) for count in whole]

    def check_adapter(
        self, engine: Engine, name: str | None, rows: Sequence[Any], *, allow_inert: bool
    ) -> None:
        """Raise InputError if the engine does not compute the adapter as PEFT does, or the adapter has no effect.

        No effect (`adapter-inert`, unless `allow_inert`) is detected from the likelihood of the end token after each
        prompt, which depends on the logits of the whole vocabulary. Without likelihoods it is not checked.
        """
        prompts, limit = _shortest([row.prompt for row in rows]), self.limit(engine)
        engine.check_adapter(name, prompts, limit)
        if name is None or allow_inert or engine.divergence is None:
            return
        ends = [(prompt, "") for prompt in prompts]
        base, scores = (engine.divergence.score(adapter, ends, Reading(limit)) for adapter in (None, name))
        if scores == base:
            how = f"the likelihoods after {counted(len(ends), 'prompt')} are the same without it"
            raise _inert(engine, name, how)

    @abstractmethod
    def records(self, engine: Engine, name: str | None, rows: Sequence[Any]) -> Sequence[Record]:
        """Answer a batch, and return the records of its rows."""


def evaluate_rows(
    engine: Engine,
    procedure: Procedure,
    name: str | None,
    rows: Sequence[Any],
    *,
    batch_size: int = 32,
    batch_tokens: int | None = None,
    scoring: str | None = None,
    path: Path | None = None,
    on_batch: Progress | None = None,
    allow_inert: bool = False,
    looks: Sequence[int] = (),
) -> Evaluation[Any]:
    """Answer each of `rows` with the adapter `name` (None: the base), batch after batch.

    >>> answers = evaluate_rows(engine, Scores(reference="r64"), "r8", rows)
    >>> [record.kl for record in answers.records]

    batch_size: sequences that are computed together; batch_tokens: tokens of a batch in place of that. scoring:
    id of the scoring rule, stored in the records. path: file of the records; an interrupted evaluation resumes in it.
    looks: numbers of rows, up to all of them; rows of different looks share no batch, so that the records of the first
    looks are a prefix of the whole file, which is continued.
    Raises UsageError (`no-examples`, `wrong-model`, `engine-cannot`), InputError (`adapter-inert` unless
    `allow_inert`), OutputError (`write-failed`), and what the engine itself raises.
    """
    if not rows:
        raise UsageError("no examples to evaluate", code="no-examples")
    engine.require(procedure.kind)
    classifies = procedure.kind == "classification"
    if engine.classifies != classifies:
        kinds = ("a language model", "a sequence classifier")
        raise UsageError(
            f"{engine.facts['base']} was loaded as {kinds[engine.classifies]}; this evaluation needs"
            f" {kinds[classifies]}",
            code="wrong-model",
            hint="load a classifier with the engine's `load(..., labels=N)`, a language model without labels",
        )
    planned = PlannedBatches(engine, procedure, rows, looks, batch_size, batch_tokens)
    batches = list(chain(*planned.batches))
    file = planned.file(procedure, name, batches, path, scoring)
    if not file.done:  # else the adapter was checked before the first record
        procedure.check_adapter(engine, name, rows, allow_inert=allow_inert)
    (answered,) = answer_batches(
        [file],
        lambda places: [procedure.records(engine, name, [rows[place] for place in places])],
        on_batch,
    )
    return answered


class PlannedBatches:
    """Rows in batches, and the header fields that describe them."""

    def __init__(
        self,
        engine: Engine,
        procedure: Procedure,
        rows: Sequence[Any],
        looks: Sequence[int],
        batch_size: int,
        batch_tokens: int | None,
    ) -> None:
        """Arguments are those of `evaluate_rows`."""
        self.engine, self.rows, self.tokens = engine, rows, batch_tokens
        self.batches: list[list[list[int]]] = []
        """Indices of the rows in each batch, for each look."""
        self.sizes: list[dict[str, Any]] = []
        """Fields of the header at each look."""
        for start, end in pairwise((0, *(looks or (len(rows),)))):
            some = rows[start:end]
            texts = [procedure.text(row) for row in some]
            sequences = [procedure.sequences(row) for row in some]
            if batch_tokens is None:
                new_batches = fixed_batches(texts, max(1, batch_size // max(sequences)))
            else:
                new_batches = budget_batches(texts, procedure.lengths(engine, some), batch_tokens, sequences)
                largest = max(sum(sequences[place] for place in batch) for batch in new_batches)
                batch_size = largest if start == 0 else max(batch_size, largest)
            self.batches.append([[start + place for place in batch] for batch in new_batches])
            so_far = looks[: len(self.sizes) + 1] if self.sizes else ()
            self.sizes.append({"n": end, "batch_size": batch_size, "looks": so_far})

    def file(
        self,
        procedure: Procedure,
        name: str | None,
        units: Sequence[Sequence[int]],
        path: Path | None,
        scoring: str | None,
        **more: Any,
    ) -> RecordFile[Any]:
        """Return the file of an adapter's records. units: indices of the rows that are written at once; more: fields of
        its header."""
        adapter = None if name is None else self.engine.adapters[name]
        identities = [procedure.identity(row) for row in self.rows]
        shared = {
            "kind": procedure.kind,
            "adapter": name,
            "adapter_sha256": None if adapter is None else adapter.weights_sha256 or None,
            "adapter_config_sha256": None if adapter is None else adapter.config_sha256 or None,
            "scoring": scoring,
            **self.engine.facts,
            **procedure.settings(self.engine),
            "batch_tokens": self.tokens,
            **more,
        }
        *earlier, header = (
            ExamplesRun(examples_sha256=sha256_rows(identities[: size["n"]]), **shared, **size)
            for size in self.sizes
        )
        return RecordFile(header, [row.id for row in self.rows], units, path, earlier)


TOGETHER = 16
"""Batches whose unfinished outputs are generated together. Each has few, so this takes fewer steps."""


def follow_rows(
    engine: Engine,
    generation: Generation,
    name: str | None,
    rows: Sequence[Any],
    drafts: Sequence[GenerationRecord],
    *,
    reference: str,
    near_tie: float,
    batch_size: int = 32,
    batch_tokens: int | None = None,
    scoring: str | None = None,
    paths: Sequence[Path],
    on_batch: Progress | None = None,
    looks: Sequence[int] = (),
) -> None:
    """Write what `evaluate_rows` writes for `generation` and, with a second path, for the scores against the adapter
    `reference`, in one pass with its answers as drafts.

    drafts: its answer to each row; near_tie: from `Engine.near_tie`.
    """
    planned = PlannedBatches(engine, generation, rows, looks, batch_size, batch_tokens)
    units = [
        list(batches[start : start + TOGETHER])
        for batches in planned.batches
        for start in range(0, len(batches), TOGETHER)
    ]
    unit_of = {unit[0][0]: unit for unit in units}
    given = [
        Draft(row.prompt, draft_of(draft), row.response if len(paths) > 1 else None)
        for row, draft in zip(rows, drafts, strict=False)
    ]
    scores = Scores(reference=reference)
    procedures: list[Procedure] = [generation, scores]
    places = [list(chain(*unit)) for unit in units]
    files = [
        planned.file(
            procedure, name, places, path, None if procedure is scores else scoring, near_tie=near_tie
        )
        for procedure, path in zip(procedures, paths, strict=False)
    ]
    if not all(file.done for file in files):
        generation.check_adapter(engine, name, rows, allow_inert=False)

    def answer(places: Sequence[int]) -> list[list[Any]]:
        batches = [[given[place] for place in batch] for batch in unit_of[places[0]]]
        how = generation.decoding(engine)
        answered = engine.follow(name, batches, how, reference=reference, near_tie=near_tie)
        pairs = list(zip([rows[place] for place in places], chain(*answered), strict=True))
        records: list[list[Any]] = [[generation.record(row, output) for row, (output, _) in pairs]]
        records.append([scores.record(row, score) for row, (_, score) in pairs if score is not None])
        return records[: len(files)]

    answer_batches(files, answer, on_batch)


def draft_of(record: GenerationRecord) -> Output:
    """Return the output in a record."""
    return Output(record.output, record.n_tokens, record.stopped_by, record.truncated)


def _shortest(texts: Sequence[Any]) -> list[Any]:
    return sorted(texts, key=lambda text: len(text if isinstance(text, str) else text[0]))[
        :EFFECT_CHECK_EXAMPLES
    ]


def _inert(engine: Engine, name: str, how: str) -> InputError:
    return InputError(
        f"{engine.adapters[name].folder}: has no effect: {how}",
        code="adapter-inert",
        hint="check that it is trained (some B is not zero) and that its modules fit this base model",
    )


# ---------------------------------------------------------------- labels


def texts_of(row: Any) -> tuple[str, ...]:
    """Return the text of a row, or both of its texts."""
    second: str | None = getattr(row, "text_pair", None)
    return (row.text,) if second is None else (row.text, second)


def whole_text(row: Any) -> str:
    """Return both texts of a row as one, to sort and to hash."""
    return "\0".join(texts_of(row))


@dataclass(frozen=True, kw_only=True)
class Classification(Procedure):
    """Label each text or pair of texts (`id`, `text`, `label`, perhaps `text_pair`); the largest logit decides."""

    kind: ClassVar[RecordKind] = "classification"
    max_length: int | None = 64
    lora: bool = True
    """False: use only the adapter's head, with ΔW = 0."""

    def limit(self, engine: Engine) -> int | None:
        return self.max_length

    def settings(self, engine: Engine) -> dict[str, Any]:
        return {"max_length": self.max_length, "lora": self.lora}

    def identity(self, row: Any) -> tuple[Any, ...]:
        return row.id, row.text, getattr(row, "text_pair", None), row.label

    def encoded(self, row: Any) -> tuple[str, ...]:
        return texts_of(row)

    def check_adapter(
        self, engine: Engine, name: str | None, rows: Sequence[Any], *, allow_inert: bool
    ) -> None:
        """Raise InputError (`adapter-inert`) if LoRA changes no logit (apart from its head)."""
        if name is None or not self.lora or allow_inert:
            return
        texts = _shortest([(row.text, getattr(row, "text_pair", None)) for row in rows])
        with_lora, without = (
            [
                classified.logits.tolist()
                for classified in engine.classify(name, texts, max_length=self.max_length, lora=lora)
            ]
            for lora in (True, False)
        )
        if with_lora == without:
            how = f"the logits of {counted(len(texts), 'text')} are the same without its LoRA"
            raise _inert(engine, name, how)

    def records(self, engine: Engine, name: str | None, rows: Sequence[Any]) -> list[ClassificationRecord]:
        texts = [(row.text, getattr(row, "text_pair", None)) for row in rows]
        answers = engine.classify(name, texts, lora=self.lora, max_length=self.max_length)
        return [
            ClassificationRecord(
                id=row.id,
                text_sha256=sha256_text(whole_text(row)),
                label=row.label,
                predicted=int(classified.logits.argmax()),
                correct=int(classified.logits.argmax()) == row.label,
                logits=tuple(float(value) for value in classified.logits),
                truncated=classified.truncated,
            )
            for row, classified in zip(rows, answers, strict=True)
        ]


# ---------------------------------------------------------------- text


@dataclass(frozen=True, kw_only=True)
class Generation(Procedure):
    """Continue each prompt, and extract the answer from the output (`id`, `prompt`, `answer`).

    Prompts that are too long are truncated at the start. Raises UsageError (`no-room`), InputError (`empty-prompt`,
    `no-end-token`).
    """

    kind: ClassVar[RecordKind] = "generation"
    rules: AnswerScoring
    max_new_tokens: int
    stop: Sequence[str] = ()

    def decoding(self, engine: Engine) -> Decoding:
        """Return how outputs are generated."""
        return Decoding(self.max_new_tokens, tuple(self.stop), self.limit(engine))

    def settings(self, engine: Engine) -> dict[str, Any]:
        return {"filters": self.rules.ways, **self.decoding(engine)._asdict()}

    def identity(self, row: Any) -> tuple[Any, ...]:
        return row.id, row.prompt, row.answer

    def encoded(self, row: Any) -> tuple[str, ...]:
        return (row.prompt,)

    def added(self) -> int:
        return self.max_new_tokens

    def records(self, engine: Engine, name: str | None, rows: Sequence[Any]) -> list[GenerationRecord]:
        outputs = engine.generate(name, [row.prompt for row in rows], self.decoding(engine))
        return [self.record(row, output) for row, output in zip(rows, outputs, strict=True)]

    def record(self, row: Any, output: Output) -> GenerationRecord:
        """Return the record of a row's output."""
        decision = self.rules.decision(row.id, output.text, row.answer)
        return GenerationRecord(
            id=row.id,
            prompt_sha256=sha256_text(row.prompt),
            answer=row.answer,
            output=output.text,
            n_tokens=output.n_tokens,
            stopped_by=output.stopped_by,
            answers=dict(decision.answers),
            extracted=decision.extracted,
            correct=decision.correct,
            truncated=output.truncated,
        )


# ---------------------------------------------------------------- likelihoods


@dataclass(frozen=True, kw_only=True)
class Choices(Procedure):
    """Choose the most likely of the given responses (`id`, `prompt`, `choices`, `responses`, `pairs`, `label`).

    As lm-evaluation-harness scores `multiple_choice`: log-likelihoods of the choices after the prompt, without an end
    token; the largest sum decides (`acc`), or the largest per character of the choice (`acc_norm`).
    Raises InputError (`empty-prompt`, `response-too-long`, `no-end-token`).
    """

    kind: ClassVar[RecordKind] = "choices"
    choose_by: ChooseBy = "sum"
    decide: Decide | None = None
    """Replaces `choose_by`."""

    def text(self, row: Any) -> str:
        return row.prompt + "".join(row.responses)  # type: ignore[no-any-return]

    def identity(self, row: Any) -> tuple[Any, ...]:
        return row.id, row.prompt, *row.responses, row.label

    def encoded(self, row: Any) -> tuple[str, ...]:
        return (max(map("".join, row.pairs), key=len),)

    def sequences(self, row: Any) -> int:
        return len(row.pairs)

    def records(self, engine: Engine, name: str | None, rows: Sequence[Any]) -> list[ChoiceRecord]:
        pairs = [pair for row in rows for pair in row.pairs]
        scores = iter(engine.score(name, pairs, Reading(self.limit(engine), end=False)))
        return [self._record(row, [next(scores) for _ in row.pairs]) for row in rows]

    def _record(self, row: Any, scores: Sequence[Score]) -> ChoiceRecord:
        sums = tuple(score.loglikelihood for score in scores)
        characters = tuple(map(len, row.choices))
        predictions = predictions_of(sums[: len(characters)], characters)
        correct = predictions[self.choose_by] == row.label
        if self.decide is not None:
            correct = self.decide(row.id, [(score.loglikelihood, score.exact) for score in scores]).correct
        return ChoiceRecord(
            id=row.id,
            prompt_sha256=sha256_text(row.prompt),
            choices_sha256=sha256_rows([list(row.responses)]),
            label=row.label,
            loglikelihoods=sums,
            characters=characters,
            predictions=predictions,
            predicted=predictions[self.choose_by],
            correct=correct,
            truncated=any(score.truncated for score in scores),
        )


def predictions_of(loglikelihoods: Sequence[float], characters: Sequence[int]) -> dict[str, int]:
    """Return the index that each rule chooses: the largest log-likelihood, and the largest per character."""
    sums = np.array(loglikelihoods)
    return {"sum": int(sums.argmax()), "per_character": int((sums / np.array(characters)).argmax())}


@dataclass(frozen=True, kw_only=True)
class Scores(Procedure):
    """Score each response after its prompt (`id`, `prompt`, `response` with its leading space).

    Every batch runs once under the reference and once under each adapter.
    Raises InputError (`empty-prompt`, `response-too-long`, `no-end-token`).
    """

    kind: ClassVar[RecordKind] = "scores"
    reference: str | None = None
    """Adapter that KL and flips are measured against."""
    rolling: bool = False
    """True if responses are whole texts without prompts or end tokens, scored in windows."""

    def settings(self, engine: Engine) -> dict[str, Any]:
        reference = None if self.reference is None else engine.adapters[self.reference].weights_sha256 or None
        return {**super().settings(engine), "reference": self.reference, "reference_sha256": reference}

    def identity(self, row: Any) -> tuple[Any, ...]:
        return row.id, row.prompt, row.response

    def encoded(self, row: Any) -> tuple[str, ...]:
        return (row.prompt + row.response,)

    def added(self) -> int:
        return 1  # the end token

    def check_adapter(
        self, engine: Engine, name: str | None, rows: Sequence[Any], *, allow_inert: bool
    ) -> None:
        for adapter in dict.fromkeys([name, self.reference]):
            super().check_adapter(engine, adapter, rows, allow_inert=allow_inert)

    def records(self, engine: Engine, name: str | None, rows: Sequence[Any]) -> list[ScoreRecord]:
        how = Reading(self.limit(engine), rolling=self.rolling)
        scores = engine.score(name, [(row.prompt, row.response) for row in rows], how, self.reference)
        return [self.record(row, score) for row, score in zip(rows, scores, strict=True)]

    def record(self, row: Any, score: Score) -> ScoreRecord:
        """Return the record of a response's score."""
        return ScoreRecord(
            id=row.id,
            prompt_sha256=sha256_text(row.prompt),
            response_sha256=sha256_text(row.response),
            **asdict(score),
        )
