"""Tensors that are no LoRA factors: named and counted."""

from __future__ import annotations

from typing import NamedTuple

from gradience.adapters.config import PeftConfig
from gradience.adapters.keys import Key
from gradience.adapters.tensors import TensorEntry


class SkippedTensor(NamedTuple):
    """A tensor that was not audited, why, and its parameters."""

    tensor: str
    reason: str
    params: int


DORA_REASON = "DoRA magnitude"
LORA_BIAS_REASON = "bias of lora_B (lora_bias)"
SAVED_REASON = "full-weight module (modules_to_save)"
TOKENS_REASON = "trained rows of an embedding (trainable_token_indices)"
BASE_BIAS_REASON, BIAS_REASON = "bias of the base layer", "bias"
GHOST_REASON = "ghost copy of a module"
BASE_REASON = "weight of the base model saved beside the adapter"
_HEADS = (
    "classifier",
    "score",
    "lm_head",
    "qa_outputs",
    "embed_tokens",
    "embed_out",
    "pre_classifier",
    "pooler",
)


def describe_other(
    name: str, key: Key, entry: TensorEntry, config: PeftConfig | None
) -> tuple[SkippedTensor, bool]:
    """What a tensor that is no factor is, and whether that is understood."""
    reason = _known_reason(key, config)
    return SkippedTensor(name, reason or "unknown tensor", entry.params), reason is not None


def _known_reason(key: Key, config: PeftConfig | None) -> str | None:
    parts = key.module.split(".")
    if key.role == "magnitude":
        return DORA_REASON
    if key.role == "lora_bias":
        return LORA_BIAS_REASON
    if parts[-1] in ("trainable_tokens_delta", "trainable_tokens_original"):
        return TOKENS_REASON
    if parts[-2:] == ["base_layer", "bias"]:
        return BASE_BIAS_REASON
    if "base_layer" in parts:
        return BASE_REASON
    if "original_module" in parts:
        return "copy of the untrained module"
    if "modules_to_save" in parts or (config and config.saved_whole(key.module.rpartition(".")[0])):
        return SAVED_REASON
    if parts[-1] == "bias":
        return BIAS_REASON
    if any(part in _HEADS for part in parts):
        return "full-weight head or embedding"
    return None
