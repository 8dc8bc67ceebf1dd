"""Adapters made from numpy arrays in any storage type, and contents of written adapters; without our reader."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from factory import PREFIX, Stored, safetensors

NUMPY = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}

Factors = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Module -> A (r, n) and B (m, r)."""


def random_factors(seed: int, *shapes: tuple[int, int, int], decay: float = 0.7) -> dict[str, tuple]:
    """Modules `model.layers.<i>.q_proj` of the given (r, m, n), with falling spectra."""
    generator = np.random.default_rng(seed)
    return {
        f"model.layers.{index}.q_proj": (
            generator.standard_normal((rank, columns)),
            generator.standard_normal((rows, rank)) * decay ** np.arange(rank),
        )
        for index, (rank, rows, columns) in enumerate(shapes)
    }


def tensor(array: np.ndarray, dtype: str) -> Stored:
    with np.errstate(over="ignore"):
        return Stored(dtype, array.shape, np.ascontiguousarray(array.astype(NUMPY[dtype])).tobytes())


def tensors_of(factors: Factors, dtype_A: str = "F32", dtype_B: str | None = None) -> dict[str, Stored]:
    return {
        f"{PREFIX}{module}.lora_{side}.weight": tensor(array, dtype)
        for module, (a, b) in factors.items()
        for side, array, dtype in (("A", a, dtype_A), ("B", b, dtype_B or dtype_A))
    }


def write(
    folder: Path,
    factors: Factors,
    *,
    dtype: str = "F32",
    dtype_B: str | None = None,
    extra: Mapping[str, Stored] | None = None,
    order: list[int] | None = None,
    **fields: Any,
) -> Path:
    """A PEFT folder. order: a permutation of the modules in the file."""
    folder.mkdir(parents=True, exist_ok=True)
    named = list(factors.items())
    if order is not None:
        named = [named[index] for index in order]
    tensors = tensors_of(dict(named), dtype, dtype_B) | dict(extra or {})
    (folder / "adapter_model.safetensors").write_bytes(safetensors(tensors, {"format": "pt"}))
    ranks = [a.shape[0] for a, _ in factors.values()]
    config = {
        "peft_type": "LORA",
        "r": max(ranks),
        "lora_alpha": 2 * max(ranks),
        "target_modules": ["q_proj"],
        "rank_pattern": {
            "^" + module.replace(".", r"\."): a.shape[0]
            for module, (a, _) in factors.items()
            if len(set(ranks)) > 1
        },
    } | fields
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    return folder


def read(folder: Path) -> dict[str, np.ndarray]:
    """All float tensors of a folder in float64, and the rest as bytes."""
    data = (folder / "adapter_model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        raw = data[start + begin : start + end]
        kind = NUMPY.get(entry["dtype"], np.uint8)
        values = np.frombuffer(raw, dtype=kind)
        arrays[name] = values.astype(np.float64).reshape(entry["shape"]) if kind is not np.uint8 else values
    return arrays


def updates(folder: Path) -> dict[str, np.ndarray]:
    """ΔW = s·B·A of every module in float64, with rank and scale by PEFT's rule."""
    import re

    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = read(folder)
    deltas = {}
    for name, a in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        b = tensors[name.replace(".lora_A.", ".lora_B.")]
        values = {}
        for field, default in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
            hits = (v for k, v in (config.get(field) or {}).items() if re.match(rf"(.*\.)?({k})$", module))
            values[default] = next(hits, config[default])
        assert values["r"] == a.shape[0]
        divisor = values["r"] ** 0.5 if config.get("use_rslora") else values["r"]
        deltas[module] = values["lora_alpha"] / divisor * (b @ a)
    return deltas
