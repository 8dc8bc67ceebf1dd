"""Fleets for tests: folders of small adapters, some of them copies in other factors."""

import factor_samples
import numpy as np

MODULES = [f"model.layers.{layer}.self_attn.{name}" for layer in range(2) for name in ("q_proj", "v_proj")]


def random_factors(seed, rank, decay=0.4):
    """Module -> (A, B), with a falling spectrum."""
    drawn = factor_samples.random_factors(seed, *[(rank, 12, 16)] * len(MODULES), decay=decay)
    return dict(zip(MODULES, drawn.values(), strict=True))


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
    fields = {"base_model_name_or_path": "org/base", "target_modules": ["q_proj", "v_proj"], **settings}
    return factor_samples.write(folder, factors, **fields)
