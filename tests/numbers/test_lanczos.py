"""‖W‖₂ by Lanczos against a dense SVD, on spectra where it is hard."""

from __future__ import annotations

import numpy as np
import pytest

from gradience.lanczos import TOLERANCE, spectral_norm, steps_for

SPECTRA = {
    "flat": np.ones(300),
    "falling": 0.9 ** np.arange(300.0),
    "clustered at the top": np.concatenate([np.linspace(0.99, 1, 20), np.full(280, 0.5)]),
    "slow": np.linspace(1, 0.5, 300),
    "one": np.eye(1, 300)[0],
    "tiny": 1e-30 * np.linspace(1, 0.5, 300),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_it_is_within_the_tolerance_below_the_dense_norm(name):
    generator = np.random.default_rng(0)
    left, _ = np.linalg.qr(generator.standard_normal((400, 300)))
    right, _ = np.linalg.qr(generator.standard_normal((300, 300)))
    weight = left * SPECTRA[name] @ right.T
    dense = np.linalg.norm(weight, 2)
    value = spectral_norm(lambda vector: weight.T @ (weight @ vector), 300)
    assert dense / (1 + TOLERANCE) <= value <= dense * (1 + 1e-9)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_small_ones_are_exact(size):
    weight = np.random.default_rng(size).standard_normal((size, size))
    value = spectral_norm(lambda vector: weight.T @ (weight @ vector), size)
    assert value == pytest.approx(np.linalg.norm(weight, 2), rel=1e-6)


def test_steps_grow_with_the_logarithm_of_the_size_and_never_beyond_it():
    assert steps_for(3) == 3
    assert 50 < steps_for(384) < steps_for(4096) < steps_for(128_000) < 90
    assert steps_for(4096, tolerance=0.1) < steps_for(4096) / 2
