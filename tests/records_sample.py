"""Records of evaluations, made by hand."""

from typing import Any

from gradience.files.records import (
    ChoiceRecord,
    ClassificationRecord,
    ExamplesRun,
    GenerationRecord,
    ScoreRecord,
)

SHA = "0" * 64
YES, NO = (0.0, 1.0), (1.0, 0.0)
"""Logits of the labels 1 and 0."""


def run_of(kind: Any = "classification", adapter: str = "a", n: int = 7, **changed: Any) -> ExamplesRun:
    facts: dict[str, Any] = {
        "kind": kind, "adapter": adapter, "adapter_sha256": SHA, "adapter_config_sha256": SHA, "base": "tiny",
        "base_sha256": SHA, "tokenizer_sha256": SHA, "dtype": "float32", "attention": "sdpa", "device": "cpu",
        "threads": 1, "versions": {"torch": "2"}, "batch_size": 8, "max_length": 6, "examples_sha256": SHA, "n": n,
    }  # fmt: skip
    return ExamplesRun(**(facts | changed))


def labeled(
    key: object, label: int, logits: tuple[float, float], text_sha256: str = SHA
) -> ClassificationRecord:
    predicted = int(logits[1] > logits[0])
    return ClassificationRecord(
        id=str(key), text_sha256=text_sha256, label=label, predicted=predicted, logits=logits,
        correct=predicted == label, truncated=False,
    )  # fmt: skip


def written(key: object, extracted: str | None, answer: str = "7", **changed: Any) -> GenerationRecord:
    facts: dict[str, Any] = {
        "id": str(key), "prompt_sha256": SHA, "answer": answer, "output": f" {extracted}", "n_tokens": 3,
        "stopped_by": "eos", "answers": {"first": extracted}, "extracted": extracted, "correct": extracted == answer,
        "truncated": False,
    }  # fmt: skip
    return GenerationRecord(**(facts | changed))


def chosen(key: object, label: int = 0, **changed: Any) -> ChoiceRecord:
    facts: dict[str, Any] = {
        "id": str(key), "prompt_sha256": SHA, "choices_sha256": SHA, "label": label, "loglikelihoods": (-1.0, -2.0),
        "characters": (3, 3), "predictions": {"sum": 0}, "predicted": 0, "correct": label == 0, "truncated": False,
    }  # fmt: skip
    return ChoiceRecord(**(facts | changed))


def scored(
    key: object, loglikelihood: float, exact: bool = False, kl: float | None = None, flips: int | None = None
) -> ScoreRecord:
    return ScoreRecord(
        id=str(key), prompt_sha256=SHA, response_sha256=SHA, loglikelihood=loglikelihood, n_tokens=2, exact=exact,
        kl=kl, flips=flips, truncated=False,
    )  # fmt: skip
