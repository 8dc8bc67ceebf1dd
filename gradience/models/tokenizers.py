"""The tokenizer of an adapter: trainers save it, with its chat template, in the adapter's folder."""

import json
from collections.abc import Iterator, Mapping, Sequence
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
