"""Adapters of MLX-LM and in GGUF files that cannot be read; what is wrong with each."""

from __future__ import annotations

import json
from pathlib import Path

import factory
import numpy as np
from factory import CONFIG, adapter, safetensors, zeros
from refusals import Cases
from refused_formats import MODULE, file

CASES = Cases()
refused = CASES.refused


def gguf(folder: Path, content: bytes = b"", *, settings: tuple[tuple[str, str], ...] = ()) -> Path:
    """A GGUF file with settings that are texts, and no tensor; or with this content behind its first four bytes."""
    texts = [text.encode() for setting in settings for text in setting]
    packed = [len(text).to_bytes(8, "little") + text for text in texts]
    header = (3).to_bytes(4, "little") + bytes(8) + len(settings).to_bytes(8, "little")
    pairs = (
        key + (8).to_bytes(4, "little") + value for key, value in zip(packed[::2], packed[1::2], strict=True)
    )
    return file(folder, "adapter.gguf", b"GGUF" + (content or header + b"".join(pairs) + bytes(64)))


@refused("adapter.gguf", "its header ends at byte 9", hint="convert_lora_to_gguf.py")
def gguf_cut_off(folder):
    return gguf(folder, b"12345").parent


@refused("adapter.gguf", "more than are read", hint="convert_lora_to_gguf.py")
def gguf_of_countless_tensors(folder):
    return gguf(folder, (3).to_bytes(4, "little") + b"\xff" * 16)


@refused("adapter.gguf", "a GGUF model, not an adapter", hint="GGUF file of the adapter")
def gguf_model(folder):
    return gguf(folder, settings=(("general.type", "model"),))


@refused("adapter.gguf", "an adapter of the type 'other'", hint="only LoRA")
def gguf_of_another_method(folder):
    return gguf(folder, settings=(("general.type", "adapter"), ("adapter.type", "other")))


def mlx(folder: Path, settings: object = None, name: str = "adapters.safetensors") -> Path:
    """A folder of MLX-LM; `settings` is its config."""
    tensors = {f"{MODULE}.lora_a": zeros(16, 4), f"{MODULE}.lora_b": zeros(4, 12)}
    (folder / name).write_bytes(safetensors(tensors))
    if settings is not None:
        (folder / CONFIG).write_text(json.dumps(settings))
    return folder


@refused(CONFIG, "fine_tune_type is 'full'", hint="fine_tune_type lora or dora")
def mlx_full_fine_tuning(folder):
    return mlx(folder, {"fine_tune_type": "full", "lora_parameters": {"rank": 4, "scale": 20.0}})


@refused(CONFIG, "lora_parameters.scale is much", hint="with mlx-lm")
def mlx_scale_that_is_a_word(folder):
    return mlx(folder, {"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": "much"}})


@refused(CONFIG, "a PEFT config beside MLX-LM weights", hint="that mlx-lm wrote")
def mlx_weights_and_a_config_of_peft(folder):
    return mlx(folder, factory.config())


@refused("mlx_checkpoints", "2 checkpoints of MLX-LM", hint="--adapter 0001000_adapters.safetensors")
def mlx_checkpoints(folder):
    mlx(folder, name="0000200_adapters.safetensors")
    return mlx(folder, name="0001000_adapters.safetensors")


@refused(
    "mlx_weights_that_are_not_there",
    "no weights called 'x'",
    hint="--adapter adapters.safetensors",
    options=("--adapter", "x"),
)
def mlx_weights_that_are_not_there(folder):
    return mlx(folder)


@refused(
    "mlx_factors_in_the_file_of_peft", "the name of PEFT's weights", hint="rename the weights to adapters"
)
def mlx_factors_in_the_file_of_peft(folder):
    tensors = {f"{MODULE}.lora_a": zeros(16, 4), f"{MODULE}.lora_b": zeros(4, 12)}
    return adapter(folder, tensors)


@refused("adapters.npz", "as early versions of MLX-LM wrote", hint="save_safetensors")
def arrays_of_mlx(folder):
    np.savez(folder / "adapters.npz", lora_a=np.zeros((16, 4), np.float32))
    return folder


@refused("adapters.npz", "as early versions of MLX-LM wrote", hint="save_safetensors")
def file_of_arrays(folder):
    return arrays_of_mlx(folder) / "adapters.npz"
