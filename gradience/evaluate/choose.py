"""Which of several given responses an adapter finds likeliest: a record for every example, nothing generated.

As lm-evaluation-harness scores `multiple_choice`: log-likelihoods of the choices behind the prompt, without an end
token; the largest sum decides (its `acc`), or the largest per character of the choice (its `acc_norm`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from gradience.digests import sha256_rows, sha256_text
from gradience.evaluate.batches import batched
from gradience.evaluate.engines.base import Engine, Score
from gradience.evaluate.examples import require_examples
from gradience.evaluate.proof import prove_generators
from gradience.evaluate.records import RecordFile, answer_batches, header
from gradience.files.records import ChoiceRecord, Evaluation
from gradience.progress import Progress
from gradience.tasks.base import ChooseBy, Decide


class Choosable(Protocol):
    """A prompt, what could follow it, and which of that is correct."""

    @property
    def id(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def choices(self) -> Sequence[str]: ...
    @property
    def responses(self) -> Sequence[str]:
        """The choices as they follow the prompt, a leading blank included."""

    @property
    def pairs(self) -> Sequence[tuple[str, str]]:
        """What is scored: for each choice a prompt and what follows it."""

    @property
    def label(self) -> int:
        """The place of the correct one."""


def evaluate_choices(
    engine: Engine,
    name: str | None,
    examples: Sequence[Choosable],
    *,
    choose_by: ChooseBy = "sum",
    decide: Decide | None = None,
    batch_size: int = 16,
    batch_tokens: int | None = None,
    max_length: int | None = None,
    scoring: str | None = None,
    path: Path | None = None,
    on_batch: Progress | None = None,
    allow_inert: bool = False,
) -> Evaluation[ChoiceRecord]:
    """Score the choices of each example under the adapter `name` (None: the base), and choose the likeliest.

    decide: says what is correct in place of `choose_by`. batch_size: responses that are scored together, those of an
    example always; max_length: tokens of prompt and choice.
    batch_tokens: tokens of a batch, each choice behind its prompt, in place of a number of responses.
    Raises UsageError (`no-examples`, `wrong-model`), InputError (`empty-prompt`, `response-too-long`, `no-end-token`,
    `adapter-inert` unless `allow_inert`), OutputError (`write-failed`), and what the engine itself raises.
    """
    require_examples(examples, engine, classifies=False)
    limit = max_length if max_length is not None else engine.max_length
    prompts = [example.prompt for example in examples]
    prove_generators(engine, [] if name is None else [name], prompts, limit, allow_inert=allow_inert)
    texts = [example.prompt + "".join(example.responses) for example in examples]

    def lengths() -> list[int]:
        whole = engine.count_tokens([max(map("".join, e.pairs), key=len) for e in examples])
        return [count if limit is None else min(count, limit) for count in whole]

    rows = [len(example.pairs) for example in examples]
    batches = batched(texts, lengths, size=batch_size, tokens=batch_tokens, rows=rows)

    def answer(places: Sequence[int]) -> list[list[ChoiceRecord]]:
        few = [examples[place] for place in places]
        pairs = [pair for example in few for pair in example.pairs]
        scores = iter(engine.score([name], pairs, max_length=limit, end=False)[0])
        return [
            [_record(example, [next(scores) for _ in example.pairs], choose_by, decide) for example in few]
        ]

    run = header(
        engine,
        "choices",
        name,
        [(example.id, example.prompt, *example.responses, example.label) for example in examples],
        max_length=limit,
        scoring=scoring,
        **batches.facts,
    )
    file: RecordFile[ChoiceRecord] = RecordFile(run, [e.id for e in examples], batches.places, path)
    return answer_batches([file], answer, on_batch, engine)[0]


def predictions_of(loglikelihoods: Sequence[float], characters: Sequence[int]) -> dict[str, int]:
    """The place that each way chooses: the largest log-likelihood, and the largest for each character."""
    sums = np.array(loglikelihoods)
    return {"sum": int(sums.argmax()), "per_character": int((sums / np.array(characters)).argmax())}


def _record(
    example: Choosable, scores: Sequence[Score], choose_by: ChooseBy, decide: Decide | None
) -> ChoiceRecord:
    sums = tuple(score.loglikelihood for score in scores)
    characters = tuple(map(len, example.choices))
    predictions = predictions_of(sums[: len(characters)], characters)
    correct = predictions[choose_by] == example.label
    if decide is not None:
        correct = decide(example.id, [(score.loglikelihood, score.exact) for score in scores]).correct
    return ChoiceRecord(
        id=example.id,
        prompt_sha256=sha256_text(example.prompt),
        choices_sha256=sha256_rows([list(example.responses)]),
        label=example.label,
        loglikelihoods=sums,
        characters=characters,
        predictions=predictions,
        predicted=predictions[choose_by],
        correct=correct,
        truncated=any(score.truncated for score in scores),
    )
