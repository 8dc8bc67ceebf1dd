"""The label that an adapter gives to each text: a record for every example."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradience.digests import sha256_text
from gradience.evaluate.batches import batched
from gradience.evaluate.engines.base import Classified, Engine
from gradience.evaluate.examples import LabelledText, pair_of, require_examples, whole_text
from gradience.evaluate.proof import refuse_inert_classifier
from gradience.evaluate.records import RecordFile, answer_batches, header
from gradience.files.records import ClassificationRecord, Evaluation
from gradience.progress import Progress


def evaluate_classification(
    engine: Engine,
    name: str | None,
    examples: Sequence[LabelledText],
    *,
    batch_size: int = 64,
    batch_tokens: int | None = None,
    max_length: int | None = 64,
    lora: bool = True,
    scoring: str | None = None,
    path: Path | None = None,
    on_batch: Progress | None = None,
    allow_inert: bool = False,
) -> Evaluation[ClassificationRecord]:
    """Label each text or pair of texts with the adapter `name`; the largest logit decides.

    max_length: tokens of a text that are read. lora=False: the adapter's head alone, ΔW = 0. scoring: what the records
    say of who decides what is right. batch_tokens: tokens of a batch, in place of a number of texts.
    Raises UsageError (`no-examples`, `wrong-model`, `mixed-examples`), InputError (`adapter-inert` unless
    `allow_inert`), OutputError (`write-failed`), and what the engine itself raises.
    """
    require_examples(examples, engine, classifies=True)
    texts = [(example.text, pair_of(example)) for example in examples]
    if name is not None and lora and not allow_inert:
        refuse_inert_classifier(engine, name, texts, max_length)

    def answer(places: Sequence[int]) -> list[list[ClassificationRecord]]:
        answers = engine.classify(name, [texts[place] for place in places], lora=lora, max_length=max_length)
        return [[_record(examples[place], each) for place, each in zip(places, answers, strict=True)]]

    def lengths() -> list[int]:
        whole = engine.count_tokens([f"{text} {second or ''}" for text, second in texts])
        return [count if max_length is None else min(count, max_length) for count in whole]

    batches = batched([whole_text(e) for e in examples], lengths, size=batch_size, tokens=batch_tokens)
    run = header(
        engine,
        "classification",
        name,
        [(example.id, example.text, pair_of(example), example.label) for example in examples],
        lora=lora,
        max_length=max_length,
        scoring=scoring,
        **batches.facts,
    )
    file: RecordFile[ClassificationRecord] = RecordFile(run, [e.id for e in examples], batches.places, path)
    return answer_batches([file], answer, on_batch, engine)[0]


def _record(example: LabelledText, answer: Classified) -> ClassificationRecord:
    predicted = int(answer.logits.argmax())
    return ClassificationRecord(
        id=example.id,
        text_sha256=sha256_text(whole_text(example)),
        label=example.label,
        predicted=predicted,
        correct=predicted == example.label,
        logits=tuple(float(value) for value in answer.logits),
        truncated=answer.truncated,
    )
