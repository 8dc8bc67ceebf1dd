"""How much padding a training computes, with examples in a drawn order and grouped by length (`train.group_by_length`).

    python benchmarks/length_grouping.py [--batch-size 16]

Counted, not timed: tokens of an epoch, those of padding included, for the training examples of tasks that come with
Gradience, as the collator pads them. Nothing is trained. Needs the extra [demo].
"""

from __future__ import annotations

import argparse
import json

import torch

from gradience import tasks
from gradience.models.load import load_tokenizer
from gradience.models.settings import ModelSettings
from gradience.training.arguments import ByLength
from gradience.training.encode import encode

CASES = {
    "reviews": ModelSettings(name="embedded:minilm"),
    "arithmetic": ModelSettings(name="embedded:smollm2", type="causal_lm"),
}


def padded(lengths: list[int], order: list[int], batch: int) -> int:
    """Tokens of all batches."""
    groups = [order[start : start + batch] for start in range(0, len(order), batch)]
    return sum(len(group) * max(lengths[place] for place in group) for group in groups)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=16)
    batch = parser.parse_args().batch_size
    result = {}
    for name, model in CASES.items():
        task = tasks.load(name, {})
        encoded = encode(load_tokenizer(model), task, task.examples.of("train"), 512)
        lengths = [len(row["input_ids"]) for row in encoded.features]
        drawn = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0)).tolist()
        result[name] = {
            "examples": len(lengths),
            "tokens": sum(lengths),
            "with padding, drawn": padded(lengths, drawn, batch),
            "with padding, grouped": padded(lengths, list(ByLength(lengths, batch, seed=0)), batch),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
