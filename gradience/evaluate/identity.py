"""Who answers: digests and facts of a loaded base, its tokenizer and an adapter, for the header of the records."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import gradience
from gradience.digests import Sha256, sha256_file, sha256_text
from gradience.errors import InputError

SAMPLED = 16
"""Values of each parameter in the digest of a base: reading all of them would take longer than some evaluations."""


@dataclass(frozen=True, slots=True)
class AdapterIdentity:
    """An adapter's folder, and digests of the two files in it that decide what it does."""

    folder: Path
    weights_sha256: str
    config_sha256: str

    @classmethod
    def of(cls, folder: Path) -> AdapterIdentity:
        """Hash the files of `folder`. Raises InputError (`no-such-adapter`) when one of them is not there."""
        return cls(
            folder, _digest(folder / "adapter_model.safetensors"), _digest(folder / "adapter_config.json")
        )


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror}",
            code="no-such-adapter",
            hint="name the folder that PEFT wrote, with adapter_config.json and adapter_model.safetensors",
        ) from None


def base_facts(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Fields of `ExamplesRun` that are the same for every adapter of a base."""
    return {
        "base": Path(model.config._name_or_path).name,
        "base_sha256": fingerprint(model.base_model),
        "tokenizer_sha256": tokenizer_digest(tokenizer),
        "quantization": quantization_of(model.config),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config._attn_implementation,
        **numerics(model.device),
    }


def numerics(device: torch.device) -> dict[str, Any]:
    """Device and versions, which may move an answer on equal inputs. Fields of `ExamplesRun`."""
    return {
        "device": device_name(device),
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


def device_name(device: torch.device) -> str:
    """The card's name; of a processor the instructions that the kernels are chosen by."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type
