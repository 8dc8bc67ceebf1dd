"""Adapters for tests, made byte by byte: broken ones as well, and without the project's own writer."""

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
INDEX = "adapter_model.safetensors.index.json"
PREFIX = "base_model.model."
_NAMES = {"<f8": "F64", "<f4": "F32", "<f2": "F16", "<i8": "I64", "<i4": "I32", "|i1": "I8", "|u1": "U8"}


class Stored(NamedTuple):
    """A tensor as it lies in a file; `data` need not fit the shape."""

    dtype: str
    shape: Sequence[Any]
    data: bytes


def stored(array: np.ndarray) -> Stored:
    """The tensor of a numpy array."""
    return Stored(_NAMES[array.dtype.str], array.shape, array.tobytes())


def zeros(*shape: int) -> Stored:
    return stored(np.zeros(shape, np.float32))


def ones(*shape: int) -> Stored:
    return stored(np.ones(shape, np.float32))


def described(tensors: Mapping[str, Stored], metadata: Any = None) -> dict[str, Any]:
    """The header of these tensors, one after the other."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    position = 0
    for name, tensor in tensors.items():
        end = position + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    return header


def container(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """Length, header, data. `header`: bytes as they are, or anything that json.dumps takes."""
    text = header if isinstance(header, bytes) else json.dumps(header, ensure_ascii=False).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def safetensors(tensors: Mapping[str, Stored], metadata: Any = None) -> bytes:
    """A whole safetensors file."""
    data = b"".join(tensor.data for tensor in tensors.values())
    return container(described(tensors, metadata), data)


def factors(module: str, *, r: int = 4, m: int = 12, n: int = 16, seed: int = 0) -> dict[str, Stored]:
    """A and B of one module as PEFT names them, with a falling spectrum (a flat one looks random)."""
    generator = np.random.default_rng([seed, *module.encode()])
    a = generator.standard_normal((r, n)).astype(np.float32)
    b = (generator.standard_normal((m, r)) * 0.4 ** np.arange(r)).astype(np.float32)
    return {f"{PREFIX}{module}.lora_A.weight": stored(a), f"{PREFIX}{module}.lora_B.weight": stored(b)}


def modules(layers: int = 2, names: Sequence[str] = ("q_proj", "v_proj"), **shape: int) -> dict[str, Stored]:
    """The factors of a small model: `model.layers.<i>.self_attn.<name>`."""
    tensors: dict[str, Stored] = {}
    for layer in range(layers):
        for name in names:
            tensors |= factors(f"model.layers.{layer}.self_attn.{name}", **shape)
    return tensors


def config(**fields: Any) -> dict[str, Any]:
    """An adapter_config.json of PEFT; `fields` replace or add."""
    return {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
        "base_model_name_or_path": "org/base",
        "bias": "none",
        "init_lora_weights": True,
        **fields,
    }


def adapter(
    folder: Path,
    tensors: Mapping[str, Stored] | bytes | None = None,
    settings: Mapping[str, Any] | bytes | None = None,
) -> Path:
    """A PEFT folder. `tensors` and `settings` may be the bytes of the whole file; a good one by default."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = modules() if tensors is None else tensors
    content = config() if settings is None else settings
    (folder / WEIGHTS).write_bytes(weights if isinstance(weights, bytes) else safetensors(weights))
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / CONFIG).write_bytes(text)
    return folder


def edit_config(folder: Path, **fields: Any) -> Path:
    """Change the config of the adapter, or of the base, in `folder`."""
    path = folder / CONFIG if (folder / CONFIG).exists() else folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def sharded(folder: Path, shards: Mapping[str, Mapping[str, Stored]], index: Any = None) -> Path:
    """A folder with shards and an index; `index` replaces the right one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in shards.items():
        (folder / name).write_bytes(safetensors(tensors))
    where = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    text = json.dumps({"metadata": {"total_size": 0}, "weight_map": where} if index is None else index)
    (folder / INDEX).write_text(text)
    (folder / CONFIG).write_text(json.dumps(config()))
    return folder


def lfs_pointer(size: int = 13_600_000) -> bytes:
    return (
        "version https://git-lfs.github.com/spec/v1\n"
        f"oid sha256:4665a5ea423c2713d436b5ee50593a9640e0018c1550b5a0002f74190d6caea8\nsize {size}\n"
    ).encode()


def pickled(protocol: int) -> bytes:
    return pickle.dumps({"lora_A.weight": [0.0] * 50}, protocol=protocol)
