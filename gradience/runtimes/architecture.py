"""The architecture that an adapter belongs to, if a local file states it. Never guessed from names."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gradience.adapters.config import PeftConfig
from gradience.adapters.files import read_object
from gradience.errors import InputError
from gradience.reading import read_file

MAX_CONFIG_BYTES = 2**20
CLASS_NAME = re.compile(r"[A-Za-z]\w{0,99}", re.ASCII)
HEAD = re.compile(r"(For[A-Z]\w*|LMHeadModel|Model)$")
HEADS = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
}
"""Tasks for which PEFT's users load a base model with another head than its config names."""


def architecture_of(
    config: PeftConfig, folder: Path, base_model: str | os.PathLike[str] | None = None
) -> str | None:
    """Return the class of the model under an adapter, such as `LlamaForCausalLM`; None if it is not recorded
    anywhere.

    folder: of the adapter.   base_model: folder of the base model, if known.

    Read in this order: the config.json of `base_model`; the class that PEFT wrote into the adapter
    (auto_mapping); the config.json of `base_model_name_or_path`, as a folder or in the cache of
    huggingface_hub; one beside the adapter. Module names do not determine it:
    `model.layers.*.self_attn.q_proj` is Llama's, Mistral's, Qwen2's and Gemma's.
    """
    mapping = config.fields.get("auto_mapping")
    wrapped = _class_name(mapping.get("base_model_class")) if isinstance(mapping, dict) else None
    if base_model is None and wrapped is not None:
        return wrapped
    fields = model_config_of(config, folder, base_model)
    name = None if fields is None else _declared_class(fields)
    # `BertForMaskedLM` trained to classify is `BertForSequenceClassification`.
    head = HEADS.get(config.task_type or "")
    return name if head is None or name is None else HEAD.sub("", name) + head


def model_config_of(
    config: PeftConfig, folder: Path, base_model: str | os.PathLike[str] | None = None
) -> Mapping[str, Any] | None:
    """Return the base model's config.json, from the same locations in the same order; None without one."""
    for path in _config_files(config, folder, base_model):
        with suppress(InputError):  # guessed paths: an unreadable file is ignored
            if os.path.isfile(path) and _declared_class(fields := read_object(path, limit=MAX_CONFIG_BYTES)):
                return fields
    return None


def check_model_config(folder: Path, *, needed: bool = True) -> None:
    """Raise InputError if the given base model's config.json is damaged or (needed) missing.

    Codes: no-model-config, bad-config, and those of the reader.
    """
    path = folder / "config.json"
    if not os.path.isfile(path):
        if not needed:
            return
        raise InputError(
            f"{folder}: contains no config.json",
            code="no-model-config",
            hint="give the folder of the adapter's base model: --base-model DIR (Python: base_model=)",
        )
    read_object(path, limit=MAX_CONFIG_BYTES)


# os.path.isfile below, because Path.is_file raises for a name that no file can have.


def _config_files(
    config: PeftConfig, folder: Path, base_model: str | os.PathLike[str] | None
) -> Iterator[Path]:
    if base_model is not None:
        yield Path(base_model) / "config.json"
    name = config.base_model
    if name and "\0" not in name:
        yield Path(name) / "config.json"
        yield from _cached(name)
    yield folder / "config.json"


def _cached(name: str) -> Iterator[Path]:
    """config.json of `org/name`, as huggingface_hub keeps it: the commit that `main` pointed to last."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.ASCII):
        return
    home = Path(os.environ.get("HF_HOME") or Path("~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    model = cache / f"models--{name.replace('/', '--')}"
    main = model / "refs" / "main"
    if os.path.isfile(main):
        commit = read_file(main, 100).decode("ascii", "replace").strip()
        if re.fullmatch(r"[0-9a-f]{40}", commit):
            yield model / "snapshots" / commit / "config.json"


def _declared_class(fields: Mapping[str, Any]) -> str | None:
    """Return the first of `architectures`."""
    names = fields.get("architectures")
    return _class_name(names[0]) if isinstance(names, list) and names else None


def _class_name(value: Any) -> str | None:
    return value if isinstance(value, str) and CLASS_NAME.fullmatch(value) else None
