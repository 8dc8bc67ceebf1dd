"""How often the next training lies below a bound: normal, skewed, and collapsing trainings.

Part of `evidence_calibration.py`. Each replicate draws S trainings and one more from a distribution with standard
deviation 1, adds the sampling error of the examples to the S that are seen (half of its variance is shared by the
runs), and computes the 95 % lower bounds of `gradience.statistics.pooled`: "next-training", for which 5 % is promised
if trainings vary normally, and "mean-over-trainings", which was once said to hold for a new training.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

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


def failures(draw: Draw, seeds: int, row_sd: float, rng: np.random.Generator) -> tuple[float, float]:
    """Return the share of replicates in which the next training lies below its bound, and below that of the mean."""
    true = draw(rng, (REPLICATES, seeds + 1))
    common, single = np.sqrt(0.5) * row_sd, np.sqrt(0.5) * row_sd
    noise = rng.normal(size=(REPLICATES, 1)) * common + rng.normal(size=(REPLICATES, seeds)) * single
    seen = true[:, :seeds] + noise
    observed, sampling, mean = seen.var(axis=1, ddof=1), common**2 + single**2 / seeds, seen.mean(axis=1)
    next_one = mean + stats.t.ppf(0.05, seeds - 1) * np.sqrt(observed * (1 + 1 / seeds) + sampling)
    between = np.maximum(observed - single**2, 1e-12) / seeds
    freedom = (sampling + between) ** 2 / (between**2 / (seeds - 1))
    of_mean = mean + stats.t.ppf(0.05, freedom) * np.sqrt(sampling + between)
    return float((true[:, -1] < next_one).mean()), float((true[:, -1] < of_mean).mean())


def rows() -> Iterator[dict[str, Any]]:
    """Yield the shares of each kind of trainings and number of seeds."""
    rng = np.random.default_rng(0)
    for draw, row_sd in product((normal, skewed, collapsing), (0.0, 0.5)):
        shares = {seeds: failures(draw, seeds, row_sd, rng) for seeds in SEEDS}
        yield {"trainings": draw.__name__, "sampling error": row_sd} | {
            f"{bound}, S = {seeds}": round(both[place], 4)
            for place, bound in enumerate(("next", "mean"))
            for seeds, both in shares.items()
        }
