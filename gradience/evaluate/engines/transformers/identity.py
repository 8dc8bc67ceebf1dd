"""Who answers: digests and facts of a loaded base and its tokenizer, for the header of the records."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import gradience
from gradience.digests import Sha256
from gradience.models.devices import device_name
from gradience.models.tokenizers import tokenizer_digest

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
