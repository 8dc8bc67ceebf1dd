"""Grouped convolutions, measured group by group: the singular values of the whole ΔW, as numpy gives them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gradience.adapters.adapter import Factor, LoadedPair, LoraPair
from gradience.adapters.tensors import DTYPES, TensorEntry, TensorFile
from gradience.audit.measures import grouped_spectrum
from gradience.spectra import spectrum

NOWHERE = TensorFile(Path(), -1, 0, {}, {})


def loaded(a: np.ndarray, b: np.ndarray, groups: int) -> LoadedPair:
    """The pair of a convolution: A (r, n), B (m, r/groups)."""
    f64 = DTYPES["F64"]
    factors = [
        Factor(name, NOWHERE, TensorEntry(f64, array.shape, 0, array.nbytes))
        for name, array in (("A", a), ("B", b))
    ]
    pair = LoraPair("conv", "conv", *factors, rank=len(a), rows=len(b), columns=a.shape[1], groups=groups)
    return LoadedPair(pair, a, b)


def dense(a: np.ndarray, b: np.ndarray, groups: int) -> np.ndarray:
    """ΔW, multiplied out group by group."""
    parts = zip(np.split(b, groups), np.split(a, groups), strict=True)
    return np.vstack([part_b @ part_a for part_b, part_a in parts])


def drawn(groups: int, width: int, height: int, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    a = generator.standard_normal((groups * width, n)) * 10.0 ** generator.uniform(-3, 3, (groups * width, 1))
    return a, generator.standard_normal((groups * height, width))


@settings(max_examples=60)
@given(st.integers(2, 9), st.integers(1, 5), st.integers(1, 6), st.integers(1, 40), st.integers(0, 99))
@example(2, 70, 300, 500, 0)
@example(700, 1, 1, 9, 0)
@example(3000, 3, 2, 30, 0)
def test_the_singular_values_are_those_of_the_dense_update(groups, width, height, n, seed):
    a, b = drawn(groups, width, height, n, seed)
    measured = grouped_spectrum(loaded(a, b, groups))
    expected = np.linalg.svd(dense(a, b, groups), compute_uv=False)[: min(len(a), len(b), n)]
    assert len(measured.values) == len(expected)
    np.testing.assert_allclose(measured.scaled(), expected, rtol=0, atol=measured.error_bound * expected[0])
    assert measured.error_bound < 1e-6
    whole = loaded(a, b, groups)
    if groups < 1000:
        before = spectrum(whole.blocks_A(), whole.blocks_B(), wide=True)
        np.testing.assert_allclose(measured.rms[0], before.rms[0], rtol=1e-9)


def test_no_update_and_one_that_is_lost():
    a, b = drawn(3, 2, 2, 4)
    untrained = grouped_spectrum(loaded(a, 0 * b, 3))
    assert (untrained.error_bound, untrained.values.tolist()) == (0.0, [0.0] * 4)
    a[:2], b[2:] = 0, 0  # A where B is 0, and the reverse
    assert grouped_spectrum(loaded(a, b, 3)).error_bound == 0.0
    a, b = np.full((2, 1), 1.0), np.full((2, 1), 1.0)
    a[0], b[1] = 1e-200, 1e-200
    assert grouped_spectrum(loaded(a, b, 2)).scaled()[0] == pytest.approx(math.sqrt(2) * 1e-200)
