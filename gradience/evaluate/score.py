"""How likely an adapter finds given responses, and how far it is from another: a record for every example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gradience.digests import sha256_text
from gradience.evaluate.batches import batched
from gradience.evaluate.engines.base import Engine, Score
from gradience.evaluate.examples import Answered, require_examples
from gradience.evaluate.proof import prove_generators
from gradience.evaluate.records import RecordFile, answer_batches, header
from gradience.files.records import Evaluation, ScoreRecord
from gradience.progress import Progress


def evaluate_scores(
    engine: Engine,
    names: Sequence[str | None],
    examples: Sequence[Answered],
    *,
    reference: str | None = None,
    batch_size: int = 16,
    batch_tokens: int | None = None,
    max_length: int | None = None,
    paths: Mapping[str | None, Path] | None = None,
    on_batch: Progress | None = None,
    allow_inert: bool = False,
    end: bool = True,
    rolling: bool = False,
    scoring: str | None = None,
) -> dict[str | None, Evaluation[ScoreRecord]]:
    """Score each response under each of `names` (None: the base), and against the adapter `reference`.

    Every batch is read once by the reference and once by each adapter. paths: a file for each name. max_length:
    tokens of prompt and response together (by default what the base allows). batch_tokens: tokens of a batch, in place
    of a number of examples. end: whether the end token counts. rolling: the responses are whole texts without prompts,
    read in windows. scoring: what the records say of the task.
    Raises UsageError (`no-examples`, `wrong-model`), InputError (`empty-prompt`, `response-too-long`, `no-end-token`,
    `adapter-inert` unless `allow_inert`), OutputError (`write-failed`), and what the engine itself raises.
    """
    require_examples(examples, engine, classifies=False)
    limit = max_length if max_length is not None else engine.max_length
    adapters = [name for name in dict.fromkeys([*names, reference]) if name is not None]
    prove_generators(
        engine, adapters, [example.prompt for example in examples], limit, allow_inert=allow_inert
    )

    # An engine of one's own need not know what it is not asked for.
    how = {"end": False} | ({"rolling": True} if rolling else {}) if rolling or not end else {}

    def answer(places: Sequence[int]) -> list[list[ScoreRecord]]:
        batch = [examples[place] for place in places]
        pairs = [(example.prompt, example.response) for example in batch]
        return [
            [_record(*row) for row in zip(batch, scores, strict=True)]
            for scores in engine.score(names, pairs, reference=reference, max_length=limit, **how)
        ]

    rows = [(example.id, example.prompt, example.response) for example in examples]
    texts = [example.prompt + example.response for example in examples]

    def lengths() -> list[int]:
        whole = (count + 1 for count in engine.count_tokens(texts))  # the end token
        return [count if limit is None else min(count, limit) for count in whole]

    batches = batched(texts, lengths, size=batch_size, tokens=batch_tokens)
    settings = {
        **batches.facts,
        "max_length": limit,
        "reference": reference,
        "reference_sha256": None if reference is None else engine.adapters[reference].weights_sha256,
        "scoring": scoring,
    }
    files: list[RecordFile[ScoreRecord]] = [
        RecordFile(
            header(engine, "scores", name, rows, **settings),
            [example.id for example in examples],
            batches.places,
            None if paths is None else paths[name],
        )
        for name in names
    ]
    return dict(zip(names, answer_batches(files, answer, on_batch, engine), strict=True))


def _record(example: Answered, score: Score) -> ScoreRecord:
    return ScoreRecord(
        id=example.id,
        prompt_sha256=sha256_text(example.prompt),
        response_sha256=sha256_text(example.response),
        loglikelihood=score.loglikelihood,
        n_tokens=score.n_tokens,
        exact=score.exact,
        kl=score.kl,
        flips=score.flips,
        truncated=score.truncated,
    )
