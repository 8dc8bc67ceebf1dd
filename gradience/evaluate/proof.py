"""An adapter must show that it does something: a score that is really the base model's is no result."""

from __future__ import annotations

from collections.abc import Sequence

from gradience.errors import InputError
from gradience.evaluate.engines.base import Engine
from gradience.words import counted

EXAMPLES_OF_PROOF = 8
"""On how many texts or prompts it must show that: the shortest, which fit where any batch does."""


def refuse_inert_classifier(
    engine: Engine, name: str, texts: Sequence[tuple[str, str | None]], max_length: int | None
) -> None:
    """Raise InputError (`adapter-inert`) when the LoRA of `name` changes no logit of `texts` (beside its head)."""
    texts = sorted(texts, key=lambda text: len(text[0]))[:EXAMPLES_OF_PROOF]
    with_lora, without = (
        [answer.logits.tolist() for answer in engine.classify(name, texts, max_length=max_length, lora=lora)]
        for lora in (True, False)
    )
    if with_lora == without:
        raise _inert(
            engine, name, f"the logits of {counted(len(texts), 'text')} are the same without its LoRA"
        )


def prove_generators(
    engine: Engine,
    names: Sequence[str],
    prompts: Sequence[str],
    max_length: int | None,
    *,
    allow_inert: bool = False,
) -> None:
    """Raise InputError where the engine does not compute one of `names` as PEFT does, or it has no effect.

    allow_inert: it need not have one.
    """
    shortest = sorted(prompts, key=len)[:EXAMPLES_OF_PROOF]
    engine.verify(names, shortest, max_length)
    if names and not allow_inert:
        _refuse_inert_generators(engine, names, shortest, max_length)


def _refuse_inert_generators(
    engine: Engine, names: Sequence[str], prompts: Sequence[str], max_length: int | None
) -> None:
    """Raise InputError (`adapter-inert`) when one of `names` leaves every prompt as likely to end there as it was.

    That likelihood depends on the logits of the whole vocabulary.
    """
    ends = [(prompt, "") for prompt in prompts]
    base, *adapters = engine.divergence.score([None, *names], ends, max_length=max_length)
    for name, scores in zip(names, adapters, strict=True):
        if scores == base:
            raise _inert(
                engine, name, f"the likelihoods after {counted(len(ends), 'prompt')} are the same without it"
            )


def _inert(engine: Engine, name: str, how: str) -> InputError:
    return InputError(
        f"{engine.adapters[name].folder}: has no effect: {how}",
        code="adapter-inert",
        hint="check that it is trained (some B is not zero) and that its modules fit this base model",
    )
