"""Tensors that are no LoRA factors: named, counted, and refused where the file is no PEFT LoRA at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from gradience.adapters.config import PeftConfig
from gradience.adapters.keys import Key
from gradience.adapters.locate import DIFFUSERS_HINT
from gradience.adapters.tensors import TensorEntry
from gradience.errors import InputError


class Note(NamedTuple):
    """A tensor that was not audited, why, and its parameters."""

    tensor: str
    reason: str
    params: int


DORA_REASON = "DoRA magnitude"
LORA_BIAS_REASON = "bias of lora_B (lora_bias)"
SAVED_REASON = "module trained and saved whole (modules_to_save)"
TOKENS_REASON = "trained rows of an embedding (trainable_token_indices)"
BASE_BIAS_REASON, BIAS_REASON = "bias of the base layer", "bias"
GHOST_REASON = "ghost copy of a module"
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


def describe_other(name: str, key: Key, entry: TensorEntry, config: PeftConfig | None) -> tuple[Note, bool]:
    """What a tensor that is no factor is, and whether that is understood."""
    reason = _known_reason(key, config)
    return Note(name, reason or "unknown tensor", entry.params), reason is not None


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
        return "weight of the base model saved beside the adapter"
    if "original_module" in parts:
        return "copy of the untrained module"
    if "modules_to_save" in parts or (config and config.saved_whole(key.module.rpartition(".")[0])):
        return SAVED_REASON
    if parts[-1] == "bias":
        return BIAS_REASON
    if any(part in _HEADS for part in parts):
        return "head or embedding saved whole"
    return None


_LORA_HINT = "only LoRA has the spectrum that is audited here, and another file format does not make it one"
_CONVERT_HINT = "this format is not read yet: convert it to PEFT format first"
_DIFFUSERS_PARTS = ("to_q_lora", "to_k_lora", "to_v_lora", "to_out_lora", "lora_linear_layer")
_OTHER_METHODS: Mapping[str, str] = {
    "hada_": "LoHa (a Hadamard product of two low-rank products)",
    "lokr_": "LoKr (a Kronecker product)",
    "ia3_": "IA3 (learned rescalings)",
    "vera_": "VeRA (shared random factors and learned vectors)",
    "boft_": "BOFT (an orthogonal transform)",
    "oft_": "OFT (an orthogonal transform)",
    "hra_": "HRA (Householder reflections)",
    "fourierft_": "FourierFT (a sparse spectrum)",
    "waveft_": "WaveFT (sparse wavelets)",
    "vblora_": "VB-LoRA (a bank of shared vectors)",
    "unilora_": "UniLoRA (one shared vector)",
    "randlora_": "RandLora (sums of random bases)",
    "delora_": "DeLoRA (normalised directions)",
    "gralora_": "GraLoRA (a grid of small LoRAs)",
    "poly_lora": "Poly (a routed mixture of LoRAs)",
    "shira_": "SHiRA (sparse values)",
    "road_": "RoAd (rotations)",
    "miss_": "MiSS (shared shards)",
    "bone_": "Bone (shared blocks)",
    "c3a_": "C3A (circulant matrices)",
    "ln_tuning_": "LayerNorm tuning",
    "prompt_embeddings": "prompt tuning (no weight updates)",
    "adaption_prompt": "an adaption prompt (no weight updates)",
}
"""Prefix of a part of a tensor's name -> the method of PEFT or LyCORIS that writes it."""


def refuse_foreign(
    path: Path, entries: Mapping[str, TensorEntry], metadata: Mapping[str, str], *, has_config: bool
) -> None:
    """Raise InputError when no tensor is a PEFT LoRA factor, naming what the file holds instead.

    Codes: other-method, kohya-adapter, megatron-adapter, mlx-adapter, torchtune-adapter, diffusers-adapter,
    full-model, no-lora-tensors, empty-adapter.
    """
    if not entries:
        raise InputError(
            f"{path}: the file holds no tensors at all",
            code="empty-adapter",
            hint="saved under DeepSpeed ZeRO-3 or FSDP without gathering the weights? gather them and save again",
        )
    parts = {part for name in entries for part in name.split(".")}
    if "lora_E" in parts:
        raise InputError(
            f"{path}: AdaLoRA tensors (lora_E): the update is B·diag(E)·A",
            code="other-method",
            hint=_LORA_HINT,
        )
    if _from_diffusers(entries, parts, metadata, has_config=has_config):
        raise InputError(
            f"{path}: a diffusers LoRA (keys like {_shown(next(iter(entries)))}), not a PEFT adapter",
            code="diffusers-adapter",
            hint=DIFFUSERS_HINT,
        )
    if parts.intersection(("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")):
        return
    raise _other_tool(path, parts, entries) or _not_lora(path, entries, has_config=has_config)


def _from_diffusers(
    names: Iterable[str], parts: set[str], metadata: Mapping[str, str], *, has_config: bool
) -> bool:
    """Keys of today's diffusers, of its attention processors (`to_q_lora`), or its config in the header."""
    if "lora_adapter_metadata" in metadata or parts.intersection(_DIFFUSERS_PARTS):
        return True
    if has_config:
        return False
    # GPT-2, Falcon and others also have `transformer.` at the top; only diffusers goes on like this.
    blocks = ("transformer_blocks", "single_transformer_blocks")
    return any(
        name.startswith(("unet.", "text_encoder.", "text_encoder_2."))
        or (name.startswith("transformer.") and name.split(".")[1] in blocks)
        for name in names
    )


def _other_tool(path: Path, parts: set[str], names: Iterable[str]) -> InputError | None:
    for prefix, method in _OTHER_METHODS.items():
        if any(part.startswith(prefix) for part in parts):
            return InputError(f"{path}: tensors of {method}: {prefix}…", code="other-method", hint=_LORA_HINT)
    if parts.intersection(("lora_down", "lora_up")):
        what = "a kohya LoRA (lora_down, lora_up), not a PEFT adapter"
        return InputError(f"{path}: {what}", code="kohya-adapter", hint=_CONVERT_HINT)
    if "lora" in parts and parts.intersection(("down", "up")):
        what = "an old diffusers LoRA (lora.down, lora.up), not a PEFT adapter"
        return InputError(f"{path}: {what}", code="diffusers-adapter", hint=DIFFUSERS_HINT)
    if parts.intersection(("linear_in", "linear_out")):
        return InputError(
            f"{path}: a Megatron-Bridge or NeMo adapter (linear_in, linear_out)",
            code="megatron-adapter",
            hint="export it to Hugging Face PEFT format with the bridge first",
        )
    if any(name.endswith((".lora_a.weight", ".lora_b.weight")) for name in names):
        what = "a torchtune adapter (lora_a.weight, lora_b.weight), not a PEFT one"
        return InputError(f"{path}: {what}", code="torchtune-adapter", hint=_CONVERT_HINT)
    if parts.intersection(("lora_a", "lora_b")):
        what = "an MLX-LM adapter (lora_a, lora_b), not a PEFT one"
        return InputError(f"{path}: {what}", code="mlx-adapter", hint=_CONVERT_HINT)
    return None


def _not_lora(path: Path, entries: Mapping[str, TensorEntry], *, has_config: bool) -> InputError:
    matrices = any(len(entry.shape) >= 2 for entry in entries.values())
    if matrices and not has_config and any(name.endswith(".weight") for name in entries):
        return InputError(
            f"{path}: {len(entries)} tensors and no LoRA factor among them: a full model?",
            code="full-model",
            hint="point at the adapter's folder (adapter_config.json and adapter_model.safetensors)",
        )
    return no_factors(path, entries)


def no_factors(path: Path, entries: Mapping[str, TensorEntry]) -> InputError:
    """The error for a file in which there is no LoRA factor to measure."""
    scalars = sum(entry.params <= 1 for entry in entries.values())
    numbers = f", {scalars} of them single numbers" if scalars else ""
    return InputError(
        f"{path}: no LoRA factors among its {len(entries)} tensors{numbers} (the first is {_shown(min(entries))})",
        code="no-lora-tensors",
        hint="a home-made format, or a save that lost the weights: PEFT writes keys that end in lora_A.weight",
    )


def _shown(name: str) -> str:
    return repr(name[:80])
