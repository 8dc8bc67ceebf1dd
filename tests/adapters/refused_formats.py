"""Adapters of other tools and methods, and files that are no adapters: named for what they are."""

from __future__ import annotations

import json
from pathlib import Path

import factory
import numpy as np
from factory import CONFIG, WEIGHTS, Stored, adapter, safetensors, zeros
from refusals import Cases

CASES = Cases()
refused = CASES.refused
MODULE = "model.layers.0.self_attn.q_proj"


def factors_of(module: str, first: str, second: str, *, m: int = 8, n: int = 8) -> dict[str, Stored]:
    """Factors of rank 4 under another format's names."""
    return {f"{module}.{first}.weight": zeros(4, n), f"{module}.{second}.weight": zeros(m, 4)}


def file(folder: Path, name: str, content: bytes | dict[str, Stored], metadata: object = None) -> Path:
    """A single file and nothing beside it."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else safetensors(content, metadata))
    return path


def named(**shapes: tuple[int, ...]) -> dict[str, Stored]:
    return {name: zeros(*shape) for name, shape in shapes.items()}


# ---------------------------------------------------------------- pickles


@refused("adapter_model.bin", "pickle", hint=("can run code", "safe_serialization=True"))
def folder_with_bin(folder):
    (folder / CONFIG).write_text(json.dumps(factory.config()))
    (folder / "adapter_model.bin").write_bytes(factory.pickled(2))
    return folder


@refused("adapter_model.bin", "Git LFS pointer", hint="git lfs pull")
def folder_with_an_lfs_pointer_as_bin(folder):
    (folder / CONFIG).write_text(json.dumps(factory.config()))
    (folder / "adapter_model.bin").write_bytes(factory.lfs_pointer())
    return folder


@refused("weights.ckpt", "pickle", hint="can run code")
def single_ckpt(folder):
    return file(folder, "weights.ckpt", factory.pickled(4))


# ---------------------------------------------------------------- image models


KOHYA = "lora_unet_down_blocks_0_attentions_0_proj_in"


def kohya(alpha: Stored) -> dict[str, Stored]:
    shapes = {f"{KOHYA}.lora_down.weight": (4, 8, 1, 1), f"{KOHYA}.lora_up.weight": (8, 4, 1, 1)}
    return named(**shapes) | {f"{KOHYA}.alpha": alpha}


@refused("style.safetensors", "alpha is not a single usable number", hint="its scale is")
def kohya_alpha_that_is_no_number(folder):
    return file(folder, "style.safetensors", kohya(factory.stored(np.array(np.nan, np.float32))))


@refused("lokr.safetensors", "LoKr", hint=("save_as_lora", "LyCORIS"))
def kohya_lokr(folder):
    name = "lora_unet_input_blocks_1_1_proj_in"
    shapes = {f"{name}.lokr_w1": (4, 4), f"{name}.lokr_w2_a": (8, 2), f"{name}.lokr_w2_b": (2, 8)}
    return file(folder, "lokr.safetensors", named(**shapes) | {f"{name}.alpha": zeros()})


UNET = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@refused("diffusers_pickle", "a diffusers LoRA as a pickle file", hint=("can run code", "--allow-pickle"))
def diffusers_pickle(folder):
    (folder / "pytorch_lora_weights.bin").write_bytes(factory.pickled(2))
    return folder


@refused(str(WEIGHTS), "diffusers LoRA", "unet.", hint="rename the file")
def diffusers_under_the_name_of_peft(folder):
    return file(folder, str(WEIGHTS), factors_of(UNET, "lora_A", "lora_B"))


@refused("new.safetensors", "lora_alpha is", hint="with PEFT")
def diffusers_config_with_a_word_for_a_number(folder):
    config = '{"unet.r": 4, "unet.lora_alpha": "much"}'
    return file(
        folder, "new.safetensors", factors_of(UNET, "lora_A", "lora_B"), {"lora_adapter_metadata": config}
    )


@refused("pytorch_lora_weights.safetensors", "no LoRA factors", hint="weights were lost")
def diffusers_without_factors(folder):
    return file(folder, "pytorch_lora_weights.safetensors", {"unet.conv_in.bias": zeros(4)}).parent


# ---------------------------------------------------------------- other trainers of language models


@refused("adapter_0.safetensors", "torchtune adapter", hint="convert it to PEFT")
def torchtune_file(folder):
    return file(
        folder, "adapter_0.safetensors", factors_of("layers.0.attn.q_proj", "lora_a", "lora_b", m=12, n=16)
    )


@refused(str(WEIGHTS), "AdaLoRA tensors (lora_E)", hint="only LoRA adapters")
def adalora_tensors_under_a_lora_config(folder):
    name = f"{factory.PREFIX}{MODULE}"
    tensors = named(**{f"{name}.lora_A": (12, 16), f"{name}.lora_B": (12, 12), f"{name}.lora_E": (12, 1)})
    return adapter(folder, tensors) / WEIGHTS


@refused("prompt_tuning_tensors", "prompt tuning", hint="no ΔW to audit")
def prompt_tuning_tensors(folder):
    return adapter(folder, {"prompt_embeddings": zeros(8, 16)})


# ---------------------------------------------------------------- no adapter at all


@refused("full_model_folder", "a full model (model.safetensors)", hint="which contains adapter_config.json")
def full_model_folder(folder):
    (folder / "config.json").write_text('{"model_type": "llama"}')
    file(folder, "model.safetensors", {"model.embed_tokens.weight": zeros(16, 8)})
    return folder


@refused("model.safetensors", "a full model?", hint="point at the adapter's folder")
def full_model_file(folder):
    tensors = {"model.embed_tokens.weight": zeros(16, 8), "model.norm.weight": zeros(8)}
    return file(folder, "model.safetensors", tensors)


@refused("only_a_config", "adapter_config.json but no adapter_model.safetensors", hint="save_pretrained()")
def only_a_config(folder):
    (folder / CONFIG).write_text(json.dumps(factory.config()))
    return folder


@refused(
    "home_made",
    "no LoRA factors among its 4 tensors (the first is 'w_a_000')",
    hint="save it again with PEFT",
)
def home_made(folder):
    return adapter(folder, named(w_a_000=(4, 16), w_b_000=(12, 4), w_a_001=(4, 16), w_b_001=(12, 4)))


@refused("scalars.safetensors", "606 of them scalars", hint="LoRA weights were lost")
def scalars(folder):
    return file(folder, "scalars.safetensors", {f"layer.{i}.weight": zeros() for i in range(606)})


@refused("no_tensors_at_all", "contains no tensors", hint=("ZeRO-3", "gather"))
def no_tensors_at_all(folder):
    # The 40 bytes that a ZeRO-3 save leaves: a header with metadata and nothing else.
    return adapter(folder, safetensors({}, {"format": "pt"}))
