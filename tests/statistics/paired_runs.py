"""Made-up runs whose truth is known, for simulations."""

import numpy as np
from numpy.typing import NDArray


def draw(
    rng: np.random.Generator, experiments: int, runs: int, items: int, *, discordance: float, delta: float,
    spread: float = 0.0, correlation: float = 0.2,
) -> NDArray[np.int8]:  # fmt: skip
    """Differences (experiments, runs, items). Two runs' differences on one item correlate by about `correlation`."""
    true = np.clip(delta + spread * rng.standard_normal((experiments, runs, 1)), -discordance, discordance)
    lost, gained = (discordance - true) / 2, (discordance + true) / 2
    shared = rng.random((experiments, 1, items), dtype=np.float32)
    apart = rng.random((experiments, runs, items), dtype=np.float32)
    is_shared = rng.random((experiments, runs, items), dtype=np.float32) < np.sqrt(correlation)
    position = np.where(is_shared, shared, apart)
    return (position > 1 - gained).astype(np.int8) - (position < lost).astype(np.int8)
