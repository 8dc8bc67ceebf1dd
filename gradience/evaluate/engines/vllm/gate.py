"""Before any score: does vLLM compute this base and this adapter as PEFT does?

A serving runtime may leave an adapter out without a word (names that it does not know), or give it another scale. So
both engines read the same prompts, token by token, and their log-probabilities are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradience.errors import InputError
from gradience.evaluate.engines.base import Engine, Score
from gradience.words import counted

TOLERANCE = {"float32": 0.001, "float16": 0.02, "bfloat16": 0.1}
"""Nats per token of a prompt, by the base's dtype: how far the two may be apart in its mean log-probability. vLLM
computes LoRA in the base's dtype, PEFT in float32. Measured on processors: docs/engines.md."""


def refuse_disagreement(
    vllm: Engine, peft: Engine, names: Sequence[str | None], prompts: Sequence[str], max_length: int | None
) -> None:
    """Raise InputError where vLLM's log-probabilities of `prompts` are not those of PEFT.

    Codes: `engine-disagrees`, and `engine-ignores-adapter` where vLLM's do not change with an adapter though PEFT's do.
    """
    tolerance = TOLERANCE[str(peft.facts["dtype"])]
    pairs = [("", prompt) for prompt in prompts]
    how: dict[str, Any] = {"max_length": max_length, "rolling": True, "end": False}
    asked = list(dict.fromkeys([None, *names]))
    here, there = (dict(zip(asked, each.score(asked, pairs, **how), strict=True)) for each in (vllm, peft))
    for name in asked:
        who = str(peft.facts["base"]) if name is None else str(peft.adapters[name].folder)
        if name is not None and here[name] == here[None] and there[name] != there[None]:
            raise InputError(
                f"{who}: vLLM leaves this adapter out: the log-probabilities of {counted(len(prompts), 'prompt')} are"
                " those of the base, and with PEFT they are not",
                code="engine-ignores-adapter",
                hint="evaluate with the engine transformers",
            )
        apart = max(map(_apart, here[name], there[name]), default=0.0)
        if not apart <= tolerance:  # nor NaN
            raise InputError(
                f"{who}: vLLM computes otherwise than PEFT: log-probabilities of {counted(len(prompts), 'prompt')}"
                f" differ by up to {apart:.2g} nats per token, and {tolerance:g} are allowed in"
                f" {peft.facts['dtype']}",
                code="engine-disagrees",
                hint="evaluate with the engine transformers",
            )


def _apart(one: Score, other: Score) -> float:
    return abs(one.loglikelihood - other.loglikelihood) / max(1, other.n_tokens)
