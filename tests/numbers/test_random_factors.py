"""The stable rank of random factors: against Gaussian matrices, a published limit, and what it may cost."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from gradience import random_factors
from gradience.random_factors import null_stable_rank


@pytest.mark.parametrize("shape", [(1, 9, 9), (2, 2, 6), (4, 64, 64), (8, 6, 4), (8, 16, 300), (16, 384, 96)])
def test_the_null_is_that_of_gaussian_matrices(shape):
    """Against whole Gaussian factors and dense products: the same mean, within what both simulations can tell."""
    rank, rows, columns = shape
    rng = np.random.default_rng(12)
    draws = 400
    left = rng.standard_normal((draws, rows, rank)) @ rng.standard_normal((draws, rank, columns))
    sigma = np.linalg.svd(left, compute_uv=False)[:, : min(shape)]
    stable_ranks = np.square(sigma / sigma[:, :1]).sum(axis=1)
    simulated = max(2048 // rank, 16384 // rank**2)
    noise = stable_ranks.std() * math.sqrt(1 / draws + 1 / min(simulated, 512))
    assert null_stable_rank(*shape) == pytest.approx(stable_ranks.mean(), abs=4 * noise + 1e-12)


def test_the_null_is_the_same_number_every_time():
    first = null_stable_rank(8, 100, 50)
    random_factors._simulated.cache_clear()
    assert null_stable_rank(8, 100, 50) == first


@pytest.mark.parametrize("shape", [(160, 600, 240), (200, 200, 2000), (300, 170, 400)])
def test_the_null_of_large_ranks_is_that_of_a_simulation(shape):
    """It is not simulated at its own size; 40 draws that are tell the mean to a few thousandths."""
    rank, rows, columns = shape
    generator = np.random.default_rng(3)
    left, right = (random_factors._bartlett(generator, 40, rank, side) for side in (rows, columns))
    energies = np.square(np.linalg.svd(left @ right.swapaxes(1, 2), compute_uv=False))
    stable = energies.sum(axis=1) / energies[:, 0]
    assert null_stable_rank(*shape) == pytest.approx(stable.mean(), rel=0.01)


def test_the_sides_may_change_places():
    """B·A of a rank far above both sides is simulated with the smallest side in its place: as exact, and small."""
    for wide, narrow in (
        ((600, 20, 30), (20, 600, 30)),
        ((600, 30, 20), (20, 600, 30)),
        ((6000, 6000, 3), (3, 6000, 6000)),
    ):
        assert null_stable_rank(*wide) == null_stable_rank(*narrow)
    left, right = (random_factors._bartlett(np.random.default_rng(5), 200, 600, side) for side in (20, 30))
    energies = np.square(np.linalg.svd(left @ right.swapaxes(1, 2), compute_uv=False))
    assert null_stable_rank(600, 20, 30) == pytest.approx(
        (energies.sum(axis=1) / energies[:, 0]).mean(), rel=0.02
    )


def test_the_null_of_infinitely_large_square_factors():
    """Penson & Życzkowski 2011: the largest eigenvalue of the product is 27/4 of the mean one."""
    assert random_factors._limit(1000, 1000, 1000) == pytest.approx(1000 * 4 / 27)
    assert random_factors._limit(1000, 10**12, 10**12) == pytest.approx(1000, rel=1e-3)


def test_the_null_of_a_large_rank_needs_no_large_spectrum(monkeypatch):
    """Its cost must not exceed that of the module's own spectrum: no matrix of its size is decomposed."""
    sizes = []
    decompose = random_factors.singular_values
    monkeypatch.setattr(
        random_factors, "singular_values", lambda core: sizes.append(core.shape) or decompose(core)
    )
    null_stable_rank(2048, 4096, 11008)
    assert sizes
    assert max(size[-1] for size in sizes) <= random_factors.PROBED


def test_the_null_is_computed_once_however_many_ask(monkeypatch):
    calls = []
    decompose = random_factors.singular_values
    monkeypatch.setattr(random_factors, "singular_values", lambda core: calls.append(1) or decompose(core))
    random_factors._simulated.cache_clear()
    together = Barrier(4)

    def ask(_):
        together.wait()
        return null_stable_rank(32, 77, 78)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(ask, range(4)))) == 1
    assert len(calls) == 1


def test_the_null_of_a_rank_far_above_the_shape():
    assert 1 <= null_stable_rank(60_000, 2, 3) <= 2
