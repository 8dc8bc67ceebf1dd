"""Every kind of evaluation, into files: run as a process of its own, to be killed.

python evaluate_all.py ADAPTERS OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from tiny_models import bert, letters_tokenizer, llama, sentences, sums, words_tokenizer

from gradience.inference import Session, evaluate_classification, evaluate_generation, evaluate_scores


def evaluate_all(adapters: Path, output: Path, on_block=None):
    """Labels of `a`, answers of `plain`, scores of `plain` and `dora`: four files in `output`."""
    classifier, writer = Session(bert(), words_tokenizer()), Session(llama(), letters_tokenizer())
    classifier.add("a", adapters / "a")
    for name in ("plain", "dora"):
        writer.add(name, adapters / name)
    if on_block is not None:
        on_block(0, 0)
    evaluate_classification(
        classifier, "a", sentences(100), batch_size=3, path=output / "labels.jsonl", on_block=on_block
    )
    evaluate_generation(
        writer, "plain", sums(60), filters={"all": str.strip}, same=str.__eq__, max_new_tokens=8, batch_size=3,
        path=output / "answers.jsonl", on_block=on_block,
    )  # fmt: skip
    paths = {name: output / f"scores-{name}.jsonl" for name in ("plain", "dora")}
    evaluate_scores(
        writer, ["plain", "dora"], sums(100), reference="plain", batch_size=3, paths=paths, on_block=on_block
    )


def report(done: int, total: int) -> None:
    """One line for every batch, at once."""
    sys.stdout.write(f"{done} {total}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    evaluate_all(Path(sys.argv[1]), Path(sys.argv[2]), report)
