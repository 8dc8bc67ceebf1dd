"""Adapters on the disk and rows for them."""

from typing import NamedTuple

import adapters_to_compare as data
import numpy as np
import tiny_bench

TARGETS = {"SEQ_CLS": ["query", "value", "output.dense"], "CAUSAL_LM": ["q_proj", "v_proj", "down_proj"]}


class Case(NamedTuple):
    base: object
    adapter: object
    prompts: object
    calibration: object
    """The path of the file."""


def adapter(folder, base, task: str, **config):
    """Trained factors whose components differ in size."""
    settings = {"target_modules": TARGETS[task], **config}
    return data.adapter(folder, base, 3, task=task, falling=True, **settings)


def texts(count: int) -> list[str]:
    """Different ones."""
    draw = np.random.default_rng(0)
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn.setdefault(" ".join(draw.choice(tiny_bench.WORDS[3:9], size=draw.integers(2, 9))))
    return list(drawn)
