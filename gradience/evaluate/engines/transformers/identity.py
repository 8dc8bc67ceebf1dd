"""Who answers: digests and facts of a loaded base and its tokenizer, for the header of the records."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import gradience
from gradience.digests import Sha256, sha256_text
from gradience.models.devices import device_name

SAMPLED = 16
"""Values of each parameter in the digest of a base: reading all of them would take longer than some evaluations."""


def base_facts(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Fields of `ExamplesRun` that are the same for every adapter of a base."""
    return {
        "base": Path(model.config._name_or_path).name,
        "base_sha256": fingerprint(model.base_model),
        "tokenizer_sha256": tokenizer_digest(tokenizer),
        "quantization": quantization_of(model.config),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config._attn_implementation,
    }


def numerics(device: torch.device) -> dict[str, Any]:
    """Device, threads and versions, which may move an answer on equal inputs. Fields of `ExamplesRun`."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {
            "gradience": gradience.__version__,
            **{name: version(name) for name in ("torch", "transformers", "peft", "tokenizers")},
        },
    }


def fingerprint(model: Any) -> str:
    """sha256 over name, shape, dtype and a few values of every parameter.

    Of a sequence classifier give the part below the head: the head is drawn anew at each loading.
    """
    digest = Sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        values = parameter.detach().flatten()
        few = values[:: max(1, len(values) // SAMPLED)][:SAMPLED].contiguous()
        digest.update(few.view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """sha256 of what decides the ids of a text; the padding and truncation of the last call are left out."""
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        rules.update(padding=None, truncation=None)
    else:
        rules = tokenizer.get_vocab()
    facts = [
        type(tokenizer).__name__,
        rules,
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    ]
    return sha256_text(json.dumps(facts, sort_keys=True))


def quantization_of(config: Any) -> str | None:
    """How the weights are packed, in words; None when they are not."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    facts = settings if isinstance(settings, dict) else settings.to_dict()
    method = str(getattr(facts["quant_method"], "value", facts["quant_method"]))
    if facts.get("load_in_4bit"):
        return f"{method} {facts['bnb_4bit_quant_type']}"
    return f"{method} int8" if facts.get("load_in_8bit") else method
