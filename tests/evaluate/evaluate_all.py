"""Evaluations of every kind, killed at random moments."""

import os
from pathlib import Path

from evaluating import evaluate_classification, evaluate_generation, evaluate_scores
from killing import KILLED, drawn, in_child, moments_of, watched
from tiny_models import bert, letters_tokenizer, llama, sentences, sums, words_tokenizer

from gradience.evaluate.engines.transformers.engine import TransformersEngine


def evaluate_all(adapters: Path, output: Path, on_batch=None):
    """Labels of `a`, answers of `plain`, scores of `plain` and `dora`: four files in `output`."""
    classifier, writer = (
        TransformersEngine(bert(), words_tokenizer()),
        TransformersEngine(llama(), letters_tokenizer()),
    )
    classifier.add("a", adapters / "a")
    for name in ("plain", "dora"):
        writer.add(name, adapters / name)
    if on_batch is not None:
        on_batch(0, 0)
    evaluate_classification(
        classifier, "a", sentences(100), batch_size=3, path=output / "labels.jsonl", on_batch=on_batch
    )
    evaluate_generation(
        writer, "plain", sums(60), filters={"all": str.strip}, same=str.__eq__, max_new_tokens=8, batch_size=3,
        path=output / "answers.jsonl", on_batch=on_batch,
    )  # fmt: skip
    paths = {name: output / f"scores-{name}.jsonl" for name in ("plain", "dora")}
    evaluate_scores(
        writer, ["plain", "dora"], sums(100), reference="plain", batch_size=3, paths=paths, on_batch=on_batch
    )


def killed_in(root: Path, adapters: Path, kills: int) -> int:
    """Run undisturbed in `whole`, and with kills in `killed`; return the number of batches between the kills."""
    files, log = watched(), os.open(root / "answered", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def killed() -> None:
        evaluate_all(adapters, root / "killed", lambda done, total: done and os.write(log, b"."))

    moments = moments_of(lambda: evaluate_all(adapters, root / "whole"), files)
    for moment in drawn(moments, kills, seed=0):
        assert in_child(killed, files, moment) == KILLED
    assert in_child(killed) == 0
    return (root / "answered").stat().st_size
