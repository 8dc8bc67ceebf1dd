"""Adapters of real shapes with made-up weights, for measuring speed and memory. Never for judging quality.

The factors are trained-like (A as PEFT initializes it, B with a decaying spectrum), so that the audit takes
the route that it takes on real adapters.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from gradience.adapters.tensors import NewTensor, header_bytes, in_order_of_type


def projections(hidden: int, keys: int, inner: int) -> dict[str, tuple[int, int]]:
    """Module -> (m, n) of ΔW in a layer with `hidden` features, `keys` of keys and values, `inner` of the MLP."""
    return {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


MISTRAL_7B = projections(4096, 1024, 14336)
LLAMA_70B = projections(8192, 1024, 28672)


def compressing(doc: str | None) -> argparse.ArgumentParser:
    """The options of what compresses such an adapter. doc: the script's docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--to", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    return parser


def module_shapes(shapes: dict[str, tuple[int, int]], layers: int) -> dict[str, tuple[int, int]]:
    """Full module names for `layers` transformer layers."""
    return {
        f"model.layers.{layer}.{name}": shape for layer in range(layers) for name, shape in shapes.items()
    }


def write_adapter(folder: Path, modules: dict[str, tuple[int, int]], rank: int, *, seed: int = 0) -> Path:
    """A PEFT adapter folder in bf16 (α = 2r). Written tensor by tensor, so that any size fits in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, NewTensor] = {}
    for name, (rows, columns) in modules.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = NewTensor("BF16", (rank, columns))
        tensors[f"base_model.model.{name}.lora_B.weight"] = NewTensor("BF16", (rows, rank))
    ordered = in_order_of_type(tensors)
    generator = np.random.default_rng(seed)
    with open(folder / "adapter_model.safetensors", "wb") as file:
        file.write(header_bytes(ordered, {"format": "pt"}))
        for name, tensor in ordered.items():
            file.write(_factor(generator, name, tensor.shape).astype(ml_dtypes.bfloat16).tobytes())
    targets = sorted({name.rsplit(".", 1)[-1] for name in modules})
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _factor(generator: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = generator.standard_normal(shape, dtype=np.float32)
    if ".lora_A." in name:
        return values / np.float32(math.sqrt(3 * shape[1]))
    decay = np.arange(1, shape[1] + 1, dtype=np.float32) ** np.float32(-0.8)
    return values * decay * np.float32(0.01)


def small_modules(count: int, side: int = 32) -> Iterator[tuple[str, tuple[int, int]]]:
    """`count` small modules, as a mixture of many experts has them."""
    for index in range(count):
        yield f"model.layers.{index // 512}.mlp.experts.{index % 512}.w1", (side, side)
