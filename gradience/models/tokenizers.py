"""The tokenizer of an adapter, which trainers save in its folder, and a prompt and its response as token ids. Needs no
torch."""

import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from gradience.digests import sha256_file, sha256_json, sha256_text
from gradience.errors import InputError, UsageError
from gradience.models.locate import BESIDE
from gradience.models.settings import ModelSettings

TokenizerOf = Literal["base", "adapter"]
CONFIG = "tokenizer_config.json"
"""A folder with it has a tokenizer: without it the special tokens are not known."""
NAMES = ("tokenizer", "chat_template", "special_tokens", "added_tokens", "vocab", "merges", "spiece")
"""Name prefixes of files that affect a tokenizer."""
EMBEDDINGS = frozenset(
    {"embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out", "shared"}
)
"""Modules with a row for each token."""


def with_tokenizer(model: ModelSettings, of: TokenizerOf | None, folders: Sequence[Path]) -> ModelSettings:
    """Return `model` with the tokenizer of the first of the adapters' `folders` that has one, unless `of` is
    base.

    Raises UsageError (`no-tokenizer`) if `of` is adapter and none has one.
    """
    folder = next((path for path in folders if (path / CONFIG).is_file()), None)
    if folder is None and of == "adapter":
        raise UsageError(
            f"{folders[0]}: contains no {CONFIG}, so it has no tokenizer",
            code="no-tokenizer",
            hint="use the base's tokenizer (--tokenizer base), or save one there with tokenizer.save_pretrained()",
        )
    return model if folder is None or of == "base" else model.model_copy(update={"tokenizer": str(folder)})


def digest_of_files(folder: Path) -> str | None:
    """Return the sha256 over the tokenizer files in `folder`; None if there are none."""
    files = {path.name: path for pattern in BESIDE for path in folder.glob(pattern)}
    digests = {name: sha256_file(files[name]) for name in sorted(files) if name.startswith(NAMES)}
    return sha256_json(digests) if digests else None


def tokenizer_notes(model: ModelSettings, tokenizer: Any, adapters: Mapping[str, Path]) -> Iterator[str]:
    """Yield notes on the tokenizer that `model` names. adapters: their names and folders."""
    from gradience.models.load import load_tokenizer

    used = None if model.tokenizer is None else digest_of_files(Path(model.tokenizer))
    owner = next((name for name, folder in adapters.items() if str(folder) == model.tokenizer), "the base")
    if model.tokenizer is not None:
        try:
            base = load_tokenizer(model.model_copy(update={"tokenizer": None}))
        except InputError:
            yield f"the tokenizer and its chat template are those saved with {owner}: the base has none"
        else:
            used_rules, base_rules = (
                (rules_of(each), each.chat_template, each.bos_token, each.eos_token)
                for each in (tokenizer, base)
            )
            than = "are the same" if used_rules == base_rules else "differ (--tokenizer base uses those)"
            yield f"the tokenizer and its chat template are those saved with {owner}; the base's {than}"
    for name, folder in adapters.items():
        other = digest_of_files(folder)
        if used is not None and other not in (None, used):
            yield f"{name} was saved with another tokenizer or chat template, and is given those of {owner}"


def rules_of(tokenizer: Any) -> Any:
    """Return the rules that decide the tokens of a text; the padding and truncation of the last call are left out."""
    if not tokenizer.is_fast:
        return tokenizer.get_vocab()
    return json.loads(tokenizer.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}


def tokenizer_digest(tokenizer: Any) -> str:
    """sha256 of everything that determines the ids of a text."""
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return sha256_text(json.dumps([type(tokenizer).__name__, rules_of(tokenizer), *ids], sort_keys=True))


def stored_tokens(shapes: Mapping[str, Sequence[int]]) -> int | None:
    """Rows of the embedding or of the head over tokens that an adapter stores whole, by the shapes of its tensors."""
    rows = {
        shape[0]
        for name, shape in shapes.items()
        if name.endswith(".weight") and "lora_" not in name and not EMBEDDINGS.isdisjoint(name.split("."))
    }
    return max(rows, default=None)


def check_vocabulary(
    model: ModelSettings, tokenizer: Any, shape: Any, stored: Mapping[Path, int | None]
) -> None:
    """Raise InputError (`vocabulary`) if an adapter was trained with more or fewer tokens than the base has.

    shape: transformers' config of the base.   stored: the `stored_tokens` of each adapter.
    """
    known = getattr(getattr(shape, "text_config", shape), "vocab_size", None)
    if known is None:
        return
    for adapter, rows in stored.items():
        if rows not in (None, known):
            raise InputError(
                f"{adapter}: was trained with a vocabulary of {rows:,} tokens, but {model.name} has {known:,}",
                code="vocabulary",
                hint="rebuild the base that it was trained on, and give it as --base-model (docs/evaluate.md):"
                f" base.resize_token_embeddings({rows}),"
                f" then PeftModel.from_pretrained(base, {str(adapter)!r}).unload().save_pretrained(DIR)",
            )
    tokens = max(tokenizer.get_vocab().values(), default=0) + 1
    if model.tokenizer is not None and tokens > known:
        raise InputError(
            f"{model.tokenizer}: its tokenizer has {tokens:,} tokens, but {model.name} has {known:,}",
            code="vocabulary",
            hint="use --tokenizer base, or pass the base that was resized for training as --base-model",
        )


# ---------------------------------------------------------------- texts as token ids
# One rule, shared by training, scoring and generation: training on other ids than those of the evaluation would measure
# the difference between the two.


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
