"""Fleets for tests: folders of small adapters, some of them copies in other factors."""

import numpy as np
from factory import PREFIX, adapter, config, stored

MODULES = [f"model.layers.{layer}.self_attn.{name}" for layer in range(2) for name in ("q_proj", "v_proj")]
SHAPE = (12, 16)
"""m and n."""


def random_factors(seed, rank, decay=0.4):
    """Module -> (A, B), with a falling spectrum."""
    generator = np.random.default_rng(seed)
    return {
        name: (
            generator.standard_normal((rank, SHAPE[1])),
            generator.standard_normal((SHAPE[0], rank)) * decay ** np.arange(rank),
        )
        for name in MODULES
    }


def rotated(factors, seed):
    """The same updates in other factors."""
    generator = np.random.default_rng(seed)
    turned = {}
    for name, (a, b) in factors.items():
        mixing = generator.standard_normal((len(a), len(a))) + 3 * np.eye(len(a))
        turned[name] = (np.linalg.inv(mixing) @ a, b @ mixing)
    return turned


def save(folder, factors, **settings):
    """An adapter of PEFT with these factors."""
    tensors = {}
    for name, (a, b) in factors.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = stored(a.astype(np.float32))
        tensors[f"{PREFIX}{name}.lora_B.weight"] = stored(b.astype(np.float32))
    rank = len(next(iter(factors.values()))[0])
    return adapter(folder, tensors, config(**{"r": rank, "lora_alpha": 2 * rank, **settings}))


def updates(factors, scale=2.0):
    """ΔW of every module, in one vector."""
    return np.concatenate([scale * (b @ a).ravel() for a, b in factors.values()])
