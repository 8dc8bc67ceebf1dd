"""Tensors that are no LoRA factors: named, counted, and refused where the file is no PEFT LoRA at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from gradience.adapters.config import PeftConfig
from gradience.adapters.keys import Key
from gradience.adapters.tensors import TensorEntry
from gradience.errors import InputError


class Note(NamedTuple):
    """A tensor that was not audited, why, and its parameters."""

    tensor: str
    reason: str
    params: int


DORA_REASON = "DoRA magnitude"
LORA_BIAS_REASON = "bias of lora_B (lora_bias)"
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
        return "trained rows of an embedding (trainable_token_indices)"
    if parts[-2:] == ["base_layer", "bias"]:
        return "bias of the base layer"
    if "base_layer" in parts:
        return "weight of the base model saved beside the adapter"
    if "original_module" in parts:
        return "copy of the untrained module"
    saved = config.modules_to_save if config else ()
    if "modules_to_save" in parts or any(part in saved for part in parts):
        return "module trained and saved whole (modules_to_save)"
    if parts[-1] == "bias":
        return "bias"
    if any(part in _HEADS for part in parts):
        return "head or embedding saved whole"
    return None


class _Foreign(NamedTuple):
    code: str
    what: str
    hint: str


_LORA_HINT = "only LoRA in PEFT's format is audited: export it as a PEFT adapter if its tool can"
_FOREIGN: tuple[tuple[tuple[str, ...], _Foreign], ...] = (
    (
        ("hada_w1_a", "hada_w1_b", "hada_w2_a"),
        _Foreign("other-method", "LoHa tensors (hada_w1_a …)", _LORA_HINT),
    ),
    (("lokr_w1", "lokr_w1_a", "lokr_w2"), _Foreign("other-method", "LoKr tensors (lokr_w1 …)", _LORA_HINT)),
    (("ia3_l",), _Foreign("other-method", "IA3 tensors (ia3_l)", _LORA_HINT)),
    (
        ("vera_lambda_b", "vera_lambda_d", "vera_A", "vera_B"),
        _Foreign("other-method", "VeRA tensors (vera_lambda …)", _LORA_HINT),
    ),
    (("oft_r", "oft_R", "boft_R"), _Foreign("other-method", "OFT tensors", _LORA_HINT)),
    (
        ("prompt_embeddings",),
        _Foreign("other-method", "prompt-tuning tensors (prompt_embeddings)", _LORA_HINT),
    ),
    (
        ("lora_down", "lora_up"),
        _Foreign(
            "kohya-adapter",
            "a kohya or diffusers LoRA (lora_down, lora_up), not a PEFT adapter",
            "these formats are not read yet: convert it to PEFT format first",
        ),
    ),
    (
        ("linear_in", "linear_out"),
        _Foreign(
            "megatron-adapter",
            "a Megatron-Bridge or NeMo adapter (linear_in, linear_out)",
            "export it to Hugging Face PEFT format with the bridge first",
        ),
    ),
)


def refuse_foreign(
    path: Path, tensors: Iterable[str], metadata: Mapping[str, str], *, has_config: bool
) -> None:
    """Raise InputError when no tensor is a PEFT LoRA factor, naming what the file holds instead.

    Codes: other-method, kohya-adapter, megatron-adapter, mlx-adapter, diffusers-adapter, full-model,
    no-lora-tensors, empty-adapter.
    """
    names = list(tensors)
    if not names:
        raise InputError(
            f"{path}: the file holds no tensors at all",
            code="empty-adapter",
            hint="saved under DeepSpeed ZeRO-3 or FSDP without gathering the weights? gather them and save again",
        )
    parts = {part for name in names for part in name.split(".")}
    if "lora_E" in parts:
        raise InputError(
            f"{path}: AdaLoRA tensors (lora_E): the update is B·diag(E)·A",
            code="other-method",
            hint=_LORA_HINT,
        )
    if "lora_adapter_metadata" in metadata or (
        not has_config and any(name.startswith(("unet.", "transformer.", "text_encoder.")) for name in names)
    ):
        raise InputError(
            f"{path}: a diffusers LoRA (keys like {names[0][:80]!r}), not a PEFT adapter",
            code="diffusers-adapter",
            hint="diffusers adapters are not read yet: load it with diffusers and save the PEFT adapter",
        )
    if parts.intersection(("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")):
        return
    for markers, foreign in _FOREIGN:
        if parts.intersection(markers):
            raise InputError(f"{path}: {foreign.what}", code=foreign.code, hint=foreign.hint)
    if parts.intersection(("lora_a", "lora_b")):
        raise InputError(
            f"{path}: an MLX-LM or torchtune adapter (lora_a, lora_b), not a PEFT one",
            code="mlx-adapter",
            hint="these formats are not read yet: convert it to PEFT format first",
        )
    if not has_config and any(name.endswith((".weight", ".bias")) for name in names):
        raise InputError(
            f"{path}: {len(names)} tensors and no LoRA factor among them: a full model?",
            code="full-model",
            hint="point at the adapter's folder (adapter_config.json and adapter_model.safetensors)",
        )
    raise InputError(
        f"{path}: no LoRA factors among its {len(names)} tensors (the first is {sorted(names)[0][:80]!r})",
        code="no-lora-tensors",
        hint="a home-made format, or a save that lost the weights: PEFT writes keys that end in lora_A.weight",
    )
