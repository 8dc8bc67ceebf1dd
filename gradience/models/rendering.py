"""A prompt and its response as token ids: one rule, shared by training, scoring and generation. Needs no torch.

Training on other ids than those of the evaluation would measure the difference between the two.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from gradience.errors import InputError


class CachedTokenizer:
    """A tokenizer of transformers that encodes each text once: all adapters of a base answer the same rows."""

    def __init__(self, load: Callable[[], Any]) -> None:
        """load: returns the tokenizer; called at its first use."""
        self._load = load
        self._encoded: dict[Any, Mapping[str, Any]] = {}

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer itself."""
        return self._load()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(
        self,
        *texts: str,
        add_special_tokens: bool = True,
        truncation: bool = False,
        max_length: int | None = None,
        verbose: bool = True,
    ) -> Mapping[str, Any]:
        """Encode a text or a pair of texts; a list of texts is not taken. Masks are left out."""
        key = (texts, add_special_tokens, truncation and max_length)
        if key not in self._encoded:
            encoding = self.tokenizer(
                *texts,
                add_special_tokens=add_special_tokens,
                truncation=truncation,
                max_length=max_length,
                verbose=verbose,
            )
            self._encoded[key] = {
                name: array("i", ids) for name, ids in encoding.items() if name != "attention_mask"
            }
        return self._encoded[key]


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """Return the ids of `prompt` with the special tokens that the tokenizer puts before it, and nothing behind it.

    Some tokenizers close every text with the end token; a model would have nothing left to say.
    Raises InputError (`no-end-token`).
    """
    end = end_token(tokenizer)
    # verbose=False: no warning about texts that are longer than the model; who feeds it decides that.
    ids = list(tokenizer(prompt, verbose=False)["input_ids"])
    # A lone end token is the beginning: some tokenizers have one token for both.
    if len(ids) < 2 or ids[-1] != end:
        return ids
    plain = _plain(tokenizer, prompt)
    # The prompt itself may end with the end token, spelled out.
    return ids[:-1] if ids[-1 - len(plain) : -1] == plain else ids


def encode_pair(tokenizer: Any, prompt: str, response: str) -> tuple[list[int], list[int]]:
    """Return the token ids of the prompt, as from `encode_prompt`, and of the response followed by the end
    token.

    Prompt and response are tokenized as one text, so that the response starts as the model would start it. If
    a token spans the boundary, the response is tokenized separately.
    Raises InputError (`no-end-token`).
    """
    before, whole = encode_prompt(tokenizer, prompt), encode_prompt(tokenizer, prompt + response)
    joined = whole[: len(before)] == before
    response_ids = whole[len(before) :] if joined else _plain(tokenizer, response)
    return before, [*response_ids, end_token(tokenizer)]


def token_counts(tokenizer: Any, texts: Sequence[tuple[str, ...]]) -> list[int]:
    """Return the tokens of each text, or pair of texts, with its special ones."""
    return [len(tokenizer(*text, verbose=False)["input_ids"]) for text in texts]


def begin_token(tokenizer: Any) -> int:
    """Return the first token id of a text without a prompt: the begin token, or the end token if there is
    none.

    As in lm-evaluation-harness (`prefix_token_id`). Raises InputError (`no-end-token`) if there is neither.
    """
    begin: int | None = tokenizer.bos_token_id
    return end_token(tokenizer) if begin is None else int(begin)


def end_token(tokenizer: Any) -> int:
    """Return the id of the end token. Raises InputError (`no-end-token`) when the tokenizer has none."""
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"{tokenizer.name_or_path or 'the tokenizer'}: has no end token, so a response would never end",
            code="no-end-token",
            hint="set tokenizer.eos_token to the token that closes a response",
        )
    return int(tokenizer.eos_token_id)


def _plain(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
