"""The best smaller factors, against dense SVDs: optimal, balanced, whatever the scale and the conditioning."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradience.compress.module import frobenius, norm_from_grams, truncation
from gradience.spectra import array_blocks, gram, joined, triangle


def factors(
    seed: int, rank: int, rows: int, columns: int, decay: float = 0.7
) -> tuple[np.ndarray, np.ndarray]:
    """A (r, n) and B (m, r), B's columns falling."""
    generator = np.random.default_rng(seed)
    a = generator.standard_normal((rank, columns))
    return a, generator.standard_normal((rows, rank)) * decay ** np.arange(rank)


def cut(a: np.ndarray, b: np.ndarray, rank: int, block: int = 64):
    """The truncation, and the new factors."""
    optimum = truncation(array_blocks(np.ascontiguousarray(a.T), block), array_blocks(b, block), rank)
    return optimum, optimum.map_A @ a, b @ optimum.map_B


def least(a: np.ndarray, b: np.ndarray, rank: int) -> float:
    """‖ΔW − ΔW_k‖ by a dense SVD."""
    return float(np.linalg.norm(np.linalg.svd(b @ a, compute_uv=False)[rank:]))


shapes = st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40))
seeds = st.integers(0, 2**32 - 1)


@given(seeds, shapes, st.data())
def test_optimal_and_balanced(seed, shape, data):
    a, b = factors(seed, *shape)
    rank = data.draw(st.integers(1, shape[0]))
    optimum, new_a, new_b = cut(a, b, rank)
    norm = np.linalg.norm(b @ a)
    assert new_a.shape == (rank, shape[2])
    assert new_b.shape == (shape[1], rank)
    assert np.linalg.norm(b @ a - new_b @ new_a) == pytest.approx(
        least(a, b, rank), rel=1e-7, abs=1e-7 * norm
    )
    dense = np.linalg.svd(b @ a, compute_uv=False)
    kept = np.diag(np.append(dense, np.zeros(rank))[:rank])
    assert np.allclose(new_a @ new_a.T, kept, atol=1e-6 * dense[0])
    assert np.allclose(new_b.T @ new_b, kept, atol=1e-6 * dense[0])
    values = np.ldexp(optimum.values, optimum.exponent)
    count = min(len(values), len(dense))
    assert values[:count] == pytest.approx(dense[:count], rel=1e-6, abs=1e-7 * dense[0])


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6, 1e9, 1e12])
@pytest.mark.parametrize("which", ["A", "B", "both"])
def test_ill_conditioned_factors(condition, which):
    """The route changes, the result does not: what is lost stays within 1e-7 of the least."""
    generator = np.random.default_rng(1)
    graded = condition ** -np.linspace(0, 1, 8)
    left, right = (np.linalg.qr(generator.standard_normal((8, 8)))[0] for _ in range(2))
    a, b = generator.standard_normal((8, 50)), generator.standard_normal((60, 8))
    if which != "B":
        a = left * graded @ right @ a
    if which != "A":
        b = b @ left * graded @ right
    for rank in range(1, 9):
        _, new_a, new_b = cut(a, b, rank)
        norm = np.linalg.norm(b @ a)
        lost = np.linalg.norm(b @ a - new_b @ new_a)
        assert lost <= least(a, b, rank) * (1 + 1e-7) + 1e-14 * norm


def test_gram_and_qr_routes_are_both_taken():
    a, b = factors(0, 6, 40, 30)
    assert cut(a, b, 3)[0].method == "gram"
    a[5] = a[4] + 1e-9 * a[5]
    assert cut(a, b, 3)[0].method == "qr"


# ---------------------------------------------------------------- norms


@given(seeds, shapes, st.integers(-300, 300))
def test_norms_of_products(seed, shape, exponent):
    a, b = factors(seed, *shape)
    b = np.ldexp(b, exponent)
    norm = np.linalg.norm(np.ldexp(b, -exponent) @ a)
    tall = array_blocks(np.ascontiguousarray(a.T), 16), array_blocks(b, 16)
    assert math.ldexp(frobenius(*map(triangle, tall)), -exponent) == pytest.approx(norm, rel=1e-12)
    assert math.ldexp(norm_from_grams(*map(gram, tall)), -exponent) == pytest.approx(norm, rel=1e-6)


@given(seeds, st.integers(1, 6), st.sampled_from([1e-3, 1e-8, 1e-13]))
def test_small_differences_by_joining(seed, rank, size):
    """‖B·A − B′·A′‖ for factors that nearly agree: to 1e-16 of the norm, as the QR route promises."""
    a, b = factors(seed, rank, 30, 20)
    moved = b + size * np.random.default_rng(seed + 1).standard_normal(b.shape)
    tall = np.ascontiguousarray(a.T)
    left = joined(array_blocks(tall, 16), array_blocks(tall, 16))
    right = joined(array_blocks(b, 16), array_blocks(moved, 16), right_scale=-1.0)
    expected = np.linalg.norm((b - moved) @ a)
    assert frobenius(triangle(left), triangle(right)) == pytest.approx(
        expected, rel=1e-9, abs=3e-15 * np.linalg.norm(b) * np.linalg.norm(a)
    )
