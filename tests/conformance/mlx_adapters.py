"""Adapters of MLX-LM, written by mlx-lm itself, each with the updates that mlx-lm computes when it fuses them.

`python tests/conformance/mlx_adapters.py FOLDER` writes those that the default tests read.
"""

import json
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import SwitchLinear
from mlx_lm.tuner.utils import linear_to_lora_layers

SCALE, RANK = 20.0, 3


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up_proj = SwitchLinear(8, 6, 2, bias=False)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(8, 6, bias=False)
        self.v_proj = nn.Linear(8, 4, bias=False)
        self.experts = Experts()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(10, 8)
        self.layers = [Layer(), Layer()]


KINDS = ("mlx", "mlx-bf16", "mlx-dora")


def write(folder: Path, kind: str) -> None:
    """The adapter of a tiny model, its config, and `expected.npz`: module -> (m, n) or (E, m, n)."""
    mx.random.seed(0)
    dora = kind == "mlx-dora"
    dtype = mx.bfloat16 if kind == "mlx-bf16" else mx.float32
    model = Model()
    keys = {"q_proj", "v_proj"} if dora else {"q_proj", "v_proj", "experts.up_proj"}
    settings = {"rank": RANK, "scale": SCALE, "dropout": 0.0, "keys": sorted(keys)}
    if not dora:
        settings["keys"].append("embed_tokens")
    linear_to_lora_layers(model, 1, settings, use_dora=dora)
    adapted = {name: module for name, module in model.named_modules() if "lora_a" in module}
    for module in adapted.values():
        module.lora_a = module.lora_a.astype(dtype)
        module.lora_b = mx.random.normal(module.lora_b.shape).astype(dtype)
    expected = {}
    for name, module in adapted.items():
        base = module.embedding if "embedding" in module else module.linear
        update = np.array(module.fuse().weight.astype(mx.float32) - base.weight.astype(mx.float32))
        expected[name] = update.T if "embedding" in module else update
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value
        for name, value in tree_flatten(model.parameters())
        if name.rpartition(".")[2] in ("lora_a", "lora_b", "m")
    }
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {"fine_tune_type": "dora" if dora else "lora", "num_layers": 1, "lora_parameters": settings,
              "model": "org/base"}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if not dora:
        np.savez(folder / "expected.npz", **expected)


if __name__ == "__main__":
    for kind in KINDS:
        write(Path(sys.argv[1]) / kind, kind)
