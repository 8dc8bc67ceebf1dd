"""A record for every example, of adapters on one base: labels, generated answers, or likelihoods of responses.

With a path the records go there, batch by batch, and an evaluation that was killed goes on where it stopped
(`gradience.evaluate.blocks`). All errors of `Session.using` may be raised, and

- UsageError `no-examples`, `mixed-examples`, `no-room`, `wrong-model` (the base is of the other kind)
- InputError `adapter-inert` unless `allow_inert`: the adapter changes nothing; `empty-prompt`,
  `response-too-long`, `no-end-token`
- OutputError `write-failed`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gradience.artifacts.records import (
    ClassificationRecord,
    Evaluation,
    ExamplesRun,
    GenerationRecord,
    Kind,
    ScoreRecord,
)
from gradience.digests import sha256_rows, sha256_text
from gradience.errors import UsageError
from gradience.evaluate.batches import fixed_batches
from gradience.evaluate.blocks import Blocks, OnBlock, answer_blocks
from gradience.evaluate.classification import classify_batch
from gradience.evaluate.examples import (
    Answered,
    LabelledText,
    Prompted,
    pair_of,
    whole_text,
)
from gradience.evaluate.generation import Output, generate_batch
from gradience.evaluate.proof import PROMPTS_OF_PROOF, refuse_inert_classifier, refuse_inert_generator
from gradience.evaluate.scoring import Score, score_batch
from gradience.evaluate.session import Session

Filter = Callable[[str], str | None]
"""From an output to the answer in it, or None when there is none."""


def evaluate_classification(
    session: Session,
    name: str | None,
    examples: Sequence[LabelledText],
    *,
    batch_size: int = 64,
    max_length: int | None = 64,
    lora: bool = True,
    scoring: str | None = None,
    path: Path | None = None,
    on_block: OnBlock | None = None,
    allow_inert: bool = False,
) -> Evaluation[ClassificationRecord]:
    """The label that the adapter `name` gives to each text or pair of texts; the largest logit decides.

    max_length: tokens of a text that are read. lora=False: the adapter's head alone, ΔW = 0. scoring: what the records
    say of who decides what is right.
    """
    _must(examples, session, classifies=True)
    few = examples[:PROMPTS_OF_PROOF]
    if name is not None and lora and not allow_inert:
        refuse_inert_classifier(session, name, [e.text for e in few], [pair_of(e) for e in few], max_length)

    def answer(places: Sequence[int]) -> list[list[ClassificationRecord]]:
        some = [examples[place] for place in places]
        with session.using(name, lora=lora) as model:
            logits, cut = classify_batch(
                model, session.tokenizer, [(e.text, pair_of(e)) for e in some], max_length=max_length
            )
        return [[_label(*row) for row in zip(some, logits, cut, strict=True)]]

    digest = sha256_rows((e.id, e.text, pair_of(e), e.label) for e in examples)
    run = _run(
        session,
        "classification",
        name,
        examples,
        digest,
        lora=lora,
        batch_size=batch_size,
        max_length=max_length,
        scoring=scoring,
    )
    batches = fixed_batches([whole_text(example) for example in examples], batch_size)
    blocks: Blocks[ClassificationRecord] = Blocks(run, [e.id for e in examples], batches, path)
    return answer_blocks([blocks], answer, on_block)[0]


def evaluate_generation(
    session: Session,
    name: str | None,
    examples: Sequence[Prompted],
    *,
    filters: Mapping[str, Filter],
    same: Callable[[str, str], bool],
    max_new_tokens: int,
    stop: Sequence[str] = (),
    batch_size: int = 32,
    max_length: int | None = None,
    scoring: str | None = None,
    path: Path | None = None,
    on_block: OnBlock | None = None,
    allow_inert: bool = False,
) -> Evaluation[GenerationRecord]:
    """What the adapter `name` (None: the base) writes behind each prompt, and the answer in it.

    filters: ways of finding the answer; the first decides. same: (extracted, gold) -> whether they are the same
    answer; scoring: what the records say of the two, such as a version. max_length: tokens of prompt and output
    together (by default what the base allows); a prompt that is too long loses its beginning.
    """
    _must(examples, session, classifies=False)
    limit = max_length if max_length is not None else _longest(session)
    if name is not None and not allow_inert:
        refuse_inert_generator(session, name, [e.prompt for e in examples[:PROMPTS_OF_PROOF]], limit)

    def answer(places: Sequence[int]) -> list[list[GenerationRecord]]:
        some = [examples[place] for place in places]
        with session.using(name) as model:
            outputs = generate_batch(
                model, session.tokenizer, [e.prompt for e in some],
                max_new_tokens=max_new_tokens, stop=stop, max_length=limit,
            )  # fmt: skip
        return [
            [_answer(example, output, filters, same) for example, output in zip(some, outputs, strict=True)]
        ]

    digest = sha256_rows((e.id, e.prompt, e.answer) for e in examples)
    run = _run(
        session, "generation", name, examples, digest, batch_size=batch_size, max_length=limit,
        max_new_tokens=max_new_tokens, stop=tuple(stop), filters=tuple(filters), scoring=scoring,
    )  # fmt: skip
    batches = fixed_batches([e.prompt for e in examples], batch_size)
    blocks: Blocks[GenerationRecord] = Blocks(run, [e.id for e in examples], batches, path)
    return answer_blocks([blocks], answer, on_block)[0]


def evaluate_scores(
    session: Session,
    names: Sequence[str | None],
    examples: Sequence[Answered],
    *,
    reference: str | None = None,
    batch_size: int = 16,
    max_length: int | None = None,
    paths: Mapping[str | None, Path] | None = None,
    on_block: OnBlock | None = None,
    allow_inert: bool = False,
) -> dict[str | None, Evaluation[ScoreRecord]]:
    """How likely each of `names` (None: the base) finds each response, and how far it is from `reference`.

    Every batch is read once by the reference and once by each adapter. paths: a file for each name. max_length:
    tokens of prompt and response together (by default what the base allows).
    """
    _must(examples, session, classifies=False)
    limit = max_length if max_length is not None else _longest(session)
    for name in dict.fromkeys([*names, reference]):
        if name is not None and not allow_inert:
            refuse_inert_generator(session, name, [e.prompt for e in examples[:PROMPTS_OF_PROOF]], limit)

    def answer(places: Sequence[int]) -> list[list[ScoreRecord]]:
        some = [examples[place] for place in places]
        scores = score_batch(
            session, names, [(e.prompt, e.response) for e in some], reference=reference, max_length=limit
        )
        return [[_score(*row) for row in zip(some, of_one, strict=True)] for of_one in scores]

    digest = sha256_rows((e.id, e.prompt, e.response) for e in examples)
    batches = fixed_batches([e.prompt + e.response for e in examples], batch_size)
    blocks: list[Blocks[ScoreRecord]] = [
        Blocks(
            _run(
                session, "scores", name, examples, digest, batch_size=batch_size, max_length=limit,
                reference=reference,
                reference_sha256=session.adapters[reference].weights_sha256 if reference is not None else None,
            ),
            [e.id for e in examples], batches, None if paths is None else paths[name],
        )
        for name in names
    ]  # fmt: skip
    return dict(zip(names, answer_blocks(blocks, answer, on_block), strict=True))


def _label(example: LabelledText, logits: Any, truncated: bool) -> ClassificationRecord:
    predicted = int(logits.argmax())
    return ClassificationRecord(
        id=example.id,
        text_sha256=sha256_text(whole_text(example)),
        label=example.label,
        predicted=predicted,
        correct=predicted == example.label,
        logits=tuple(float(value) for value in logits),
        truncated=truncated,
    )


def _answer(
    example: Prompted, output: Output, filters: Mapping[str, Filter], same: Callable[[str, str], bool]
) -> GenerationRecord:
    answers = {name: found(output.text) for name, found in filters.items()}
    extracted = next(iter(answers.values()), None)
    return GenerationRecord(
        id=example.id,
        prompt_sha256=sha256_text(example.prompt),
        answer=example.answer,
        output=output.text,
        n_tokens=output.n_tokens,
        stopped_by=output.stopped_by,
        answers=answers,
        extracted=extracted,
        correct=extracted is not None and same(extracted, example.answer),
        truncated=output.truncated,
    )


def _score(example: Answered, score: Score) -> ScoreRecord:
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


def _run(
    session: Session,
    kind: Kind,
    name: str | None,
    examples: Sequence[Any],
    digest: str,
    **settings: Any,
) -> ExamplesRun:
    adapter = None if name is None else session.adapters[name]
    return ExamplesRun(
        kind=kind,
        adapter=name,
        adapter_sha256=adapter.weights_sha256 if adapter is not None else None,
        adapter_config_sha256=adapter.config_sha256 if adapter is not None else None,
        threads=torch.get_num_threads(),
        examples_sha256=digest,
        n=len(examples),
        **session.facts,
        **settings,
    )


def _must(examples: Sequence[Any], session: Session, *, classifies: bool) -> None:
    if not examples:
        raise UsageError("there is no example to evaluate", code="no-examples")
    if session.classifies != classifies:
        kinds = ("a causal language model", "a sequence classifier")
        raise UsageError(
            f"{session.facts['base']} was loaded as {kinds[session.classifies]}; this evaluation needs"
            f" {kinds[classifies]}",
            code="wrong-model",
            hint="Session.load(..., labels=N) makes a classifier",
        )


def _longest(session: Session) -> int | None:
    """How many tokens the base can tell apart, where its configuration says so."""
    limit: int | None = getattr(session.base.config.get_text_config(), "max_position_embeddings", None)
    return limit
