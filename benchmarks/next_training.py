"""How often the bound on the next training fails: normal, skewed, and collapsing trainings.

python benchmarks/next_training.py

Each replicate draws S trainings and one more from a distribution with standard deviation 1, adds the sampling error of
the examples to the S that are seen (half of its variance is shared by the runs), and computes the 95 % lower bound of
`gradience.statistics.pooled` for "next-training". Printed is the share of replicates in which the training that comes
next lies below it; 5 % is promised if trainings vary normally.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

REPLICATES = 200_000
SEEDS = (3, 4, 5, 10)
Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    return rng.normal(size=shape)


def skewed(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Most trainings a little above the mean, a long tail of worse ones."""
    return 1 - rng.exponential(size=shape)


def collapsing(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """One training in ten is ten standard deviations of the others worse."""
    drawn = rng.normal(size=shape) - 10 * (rng.random(shape) < 0.1)
    return (drawn + 1) / np.sqrt(10)


def failures(draw: Draw, seeds: int, row_sd: float, rng: np.random.Generator) -> float:
    """Return the share of replicates in which the next training lies below its bound."""
    true = draw(rng, (REPLICATES, seeds + 1))
    common, single = np.sqrt(0.5) * row_sd, np.sqrt(0.5) * row_sd
    noise = rng.normal(size=(REPLICATES, 1)) * common + rng.normal(size=(REPLICATES, seeds)) * single
    seen = true[:, :seeds] + noise
    variance = seen.var(axis=1, ddof=1) * (1 + 1 / seeds) + common**2 + single**2 / seeds
    bounds = seen.mean(axis=1) + stats.t.ppf(0.05, seeds - 1) * np.sqrt(variance)
    return float((true[:, -1] < bounds).mean())


def main() -> None:
    rng = np.random.default_rng(0)
    print(f"{'trainings':12} {'sampling error':>14} " + " ".join(f"{f'S = {seeds}':>8}" for seeds in SEEDS))
    for draw in (normal, skewed, collapsing):
        for row_sd in (0.0, 0.5):
            shares = [failures(draw, seeds, row_sd, rng) for seeds in SEEDS]
            print(
                f"{draw.__name__:12} {row_sd:14.1f} " + " ".join(f"{100 * share:7.1f}%" for share in shares)
            )


if __name__ == "__main__":
    main()
