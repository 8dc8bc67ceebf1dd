"""What an adapter writes behind each prompt, and the answer in it: a record for every example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradience.digests import sha256_text
from gradience.evaluate.batches import batched
from gradience.evaluate.engines.base import Engine, Output
from gradience.evaluate.examples import Prompted, require_examples
from gradience.evaluate.proof import prove_generators
from gradience.evaluate.records import RecordFile, answer_batches, header
from gradience.files.records import Evaluation, GenerationRecord
from gradience.progress import Progress
from gradience.tasks.base import Decide, Decision, Filter


def evaluate_generation(
    engine: Engine,
    name: str | None,
    examples: Sequence[Prompted],
    *,
    filters: Mapping[str, Filter],
    same: Callable[[str, str], bool],
    max_new_tokens: int,
    decide: Decide | None = None,
    stop: Sequence[str] = (),
    batch_size: int = 32,
    batch_tokens: int | None = None,
    max_length: int | None = None,
    scoring: str | None = None,
    path: Path | None = None,
    on_batch: Progress | None = None,
    allow_inert: bool = False,
) -> Evaluation[GenerationRecord]:
    """Let the adapter `name` (None: the base) answer each prompt, and find the answer in what it writes.

    filters: ways of finding the answer; the first decides. same: (extracted, gold) -> whether they are the same
    answer. decide: decides in place of both. scoring: what the records say of that, such as a version. max_length:
    tokens of prompt and output together (by default what the base allows); a prompt that is too long loses its
    beginning. batch_tokens: tokens of a batch, `max_new_tokens` for each output among them, in place of a number of
    examples.
    Raises UsageError (`no-examples`, `wrong-model`, `no-room`), InputError (`empty-prompt`, `no-end-token`,
    `adapter-inert` unless `allow_inert`), OutputError (`write-failed`), and what the engine itself raises.
    """
    require_examples(examples, engine, classifies=False)
    limit = max_length if max_length is not None else engine.max_length
    prompts = [example.prompt for example in examples]
    prove_generators(engine, [] if name is None else [name], prompts, limit, allow_inert=allow_inert)

    def lengths() -> list[int]:
        whole = (count + max_new_tokens for count in engine.count_tokens(prompts))
        return [count if limit is None else min(count, limit) for count in whole]

    batches = batched(prompts, lengths, size=batch_size, tokens=batch_tokens)
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop": tuple(stop), "max_length": limit}

    def mark(example: Prompted, output: str) -> Decision:
        return (
            decided(output, example.answer, filters, same) if decide is None else decide(example.id, [output])
        )

    def answer(places: Sequence[int]) -> list[list[GenerationRecord]]:
        outputs = engine.generate(name, [prompts[place] for place in places], **settings)
        return [[_record(examples[place], each, mark) for place, each in zip(places, outputs, strict=True)]]

    run = header(
        engine,
        "generation",
        name,
        [(example.id, example.prompt, example.answer) for example in examples],
        filters=tuple(filters) if decide is None else decide.names,
        scoring=scoring,
        **settings,
        **batches.facts,
    )
    file: RecordFile[GenerationRecord] = RecordFile(run, [e.id for e in examples], batches.places, path)
    return answer_batches([file], answer, on_batch, engine)[0]


def decided(
    output: str, gold: str, filters: Mapping[str, Filter], same: Callable[[str, str], bool]
) -> Decision:
    """What each filter finds in an output; it is correct when what the first one finds is the gold answer."""
    answers = {name: extract(output) for name, extract in filters.items()}
    extracted = next(iter(answers.values()), None)
    return Decision(extracted is not None and same(extracted, gold), answers)


def _record(example: Prompted, output: Output, mark: Callable[[Prompted, str], Decision]) -> GenerationRecord:
    verdict = mark(example, output.text)
    return GenerationRecord(
        id=example.id,
        prompt_sha256=sha256_text(example.prompt),
        answer=example.answer,
        output=output.text,
        n_tokens=output.n_tokens,
        stopped_by=output.stopped_by,
        answers=dict(verdict.answers),
        extracted=next(iter(verdict.answers.values()), None),
        correct=verdict.correct,
        truncated=output.truncated,
    )
