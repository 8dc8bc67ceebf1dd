"""A prompt and its response as token ids: one rule, shared by training, scoring and generation. Needs no torch.

Training on other ids than those of the evaluation would measure the difference between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradience.errors import InputError

AT_ONCE = 256
"""Texts that are tokenised together to be counted."""


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """The ids of `prompt` with the special tokens that the tokenizer puts before it, and nothing behind it.

    Some tokenizers close every text with the end token; a model would have nothing left to say.
    Raises InputError (`no-end-token`).
    """
    end = end_token(tokenizer)
    ids = _ids(tokenizer, prompt, special=True)
    # A lone end token is the beginning: some tokenizers have one token for both.
    if len(ids) < 2 or ids[-1] != end:
        return ids
    plain = _ids(tokenizer, prompt, special=False)
    # The prompt itself may end with the end token, spelled out.
    return ids[:-1] if ids[-1 - len(plain) : -1] == plain else ids


def encode_pair(tokenizer: Any, prompt: str, response: str) -> tuple[list[int], list[int]]:
    """Ids of the prompt, as `encode_prompt` has them, and ids of the response with the end token behind them.

    Prompt and response are tokenised as one text, so that the response begins as the model would begin it. Where
    the two melt into one token at the seam, the response is tokenised by itself.
    Raises InputError (`no-end-token`).
    """
    before, whole = encode_prompt(tokenizer, prompt), encode_prompt(tokenizer, prompt + response)
    joined = whole[: len(before)] == before
    answer = whole[len(before) :] if joined else _ids(tokenizer, response, special=False)
    return before, [*answer, end_token(tokenizer)]


def token_counts(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text with its special ones. What a tokenizer returns takes many times the memory of the texts."""
    some = (list(texts[place : place + AT_ONCE]) for place in range(0, len(texts), AT_ONCE))
    return [len(ids) for each in some for ids in tokenizer(each, verbose=False)["input_ids"]]


def begin_token(tokenizer: Any) -> int:
    """The id that stands before a text without a prompt: the begin token, or where there is none the end token.

    As lm-evaluation-harness does (`prefix_token_id`). Raises InputError (`no-end-token`) when there is neither.
    """
    begin: int | None = tokenizer.bos_token_id
    return end_token(tokenizer) if begin is None else int(begin)


def encode_apart(tokenizer: Any, prompt: str, response: str) -> tuple[list[int], list[int]]:
    """Ids of a prompt for an encoder and of a response for its decoder, each with all that the tokenizer adds."""
    source = tokenizer(prompt, verbose=False)["input_ids"]
    return list(source), list(tokenizer(text_target=response.lstrip(" "), verbose=False)["input_ids"])


def end_token(tokenizer: Any) -> int:
    """The id of the end token. Raises InputError (`no-end-token`) when the tokenizer has none."""
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"{tokenizer.name_or_path or 'the tokenizer'}: has no end token, so a response would never end",
            code="no-end-token",
            hint="set tokenizer.eos_token to the token that closes a response",
        )
    return int(tokenizer.eos_token_id)


def _ids(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    # verbose=False: no warning about texts that are longer than the model; who feeds it decides that.
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
