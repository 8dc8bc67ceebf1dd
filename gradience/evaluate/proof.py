"""An adapter must show that it does something: a score that is really the base model's is no result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gradience.errors import InputError
from gradience.evaluate.classification import classify
from gradience.evaluate.forward import next_logits, padded
from gradience.evaluate.generation import prompt_ids
from gradience.evaluate.session import Session
from gradience.models.rendering import end_token

PROMPTS_OF_PROOF = 8
"""On how many texts or prompts it must show that."""


def refuse_inert_classifier(
    session: Session, name: str, texts: Sequence[str], pairs: Sequence[str | None], max_length: int | None
) -> None:
    """Raise InputError (`adapter-inert`) when the LoRA of `name` changes no logit of `texts` (beside its head)."""
    outputs = []
    for lora in (True, False):
        with session.using(name, lora=lora) as model:
            outputs.append(
                classify(
                    model, session.tokenizer, texts, pairs=pairs, batch_size=len(texts), max_length=max_length
                )
            )
    if np.array_equal(outputs[0], outputs[1]):
        raise _inert(session, name, f"with and without its LoRA the logits of {len(texts)} texts are equal")


def refuse_inert_generator(
    session: Session, name: str, prompts: Sequence[str], max_length: int | None
) -> None:
    """Raise InputError (`adapter-inert`) when `name` changes no logit of the token that follows each prompt."""
    rows = [prompt_ids(session.tokenizer, prompt, max_length)[0] for prompt in prompts]
    ids, mask = padded(rows, fill=end_token(session.tokenizer), left=True, device=session.base.device)
    outputs = []
    for adapter in (name, None):
        with session.using(adapter) as model, torch.inference_mode():
            outputs.append(next_logits(model, ids, mask)[0])
    if torch.equal(outputs[0], outputs[1]):
        raise _inert(session, name, f"with and without it the logits behind {len(rows)} prompts are equal")


def _inert(session: Session, name: str, how: str) -> InputError:
    return InputError(
        f"{session.adapters[name].folder}: changes nothing: {how}",
        code="adapter-inert",
        hint="it is untrained (every B is zero), or its modules do not fit this base model",
    )
