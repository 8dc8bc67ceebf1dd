"""Adapters of MLX-LM and in GGUF files that cannot be read, and numpy archives: what is wrong with each."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import factory
import numpy as np
from factory import CONFIG, adapter, safetensors, zeros
from refusals import Cases
from refused_formats import MODULE, file

CASES = Cases()
refused = CASES.refused


# ---------------------------------------------------------------- GGUF, MLX and numpy archives


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


def npz(folder: Path, save=np.savez, **arrays: np.ndarray) -> Path:
    save(folder / "adapters.npz", **(arrays or {f"{MODULE}.lora_a": np.zeros((16, 4), np.float32)}))
    return folder


@refused("adapters.npz", "is compressed or encrypted", hint="numpy.savez")
def compressed_npz(folder):
    return npz(folder, np.savez_compressed)


@refused("adapters.npz", "Fortran order", hint="numpy.savez")
def npz_by_columns(folder):
    return npz(folder, lora_a=np.zeros((4, 3), order="F"))


@refused("adapters.npz", "two of its members have one name", hint="numpy.savez")
def npz_with_a_name_twice(folder):
    content = io.BytesIO()
    np.save(content, np.zeros(3, np.float32))
    with zipfile.ZipFile(folder / "adapters.npz", "w") as archive:
        for name in ("lora_a.npy", "lora_a"):
            archive.writestr(name, content.getvalue())
    return folder
