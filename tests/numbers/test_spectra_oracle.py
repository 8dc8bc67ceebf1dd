"""Spectra in r-space against oracles: 60 digits (mpmath) on small factors, dense SVDs on larger ones.

Every trial goes through the automatic route, and through the gram and the qr route on their own.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from spectra_cases import BENIGN, EPS, HOSTILE, dense_singular_values, exact_singular_values, orthonormal

from gradience import spectra
from gradience.spectra import Spectrum, array_blocks

FAMILIES = BENIGN | HOSTILE
TRIALS = 84
"""For each family. All of them together must be at least 2,000."""
TAUS = (0.5, 0.9, 0.95, 0.99, 0.999, 1.0)


def routes(A, B, block=4096):
    """The spectra of B·A by name of the route; the gram route may decline."""
    tall_A, tall_B = array_blocks(np.ascontiguousarray(A.T), block), array_blocks(B, block)
    by_route = {
        "auto": spectra.spectrum(tall_A, tall_B),
        "gram": spectra.spectrum_from_grams(spectra.gram(tall_A), spectra.gram(tall_B)),
        "qr": spectra.spectrum_from_triangles(spectra.triangle(tall_A), spectra.triangle(tall_B)),
    }
    return {name: spectrum for name, spectrum in by_route.items() if spectrum is not None}


def implied_errors(spectrum: Spectrum) -> np.ndarray:
    """Bound of the error of each σ in units of σ₁, recovered from the energy error that is published."""
    count = len(spectrum.values)
    if spectrum.method == "qr":
        return np.full(count, spectrum.energy_error / (4 * count))
    relative = spectrum.energy_error / (2 * count)
    return np.minimum(
        math.sqrt(relative), relative / np.maximum(spectrum.values / spectrum.values[0], 1e-300)
    )


def check(spectrum: Spectrum, exact: np.ndarray, exponent: int, slack: float = 0.0) -> None:
    """`spectrum` describes `exact · 2^exponent` as well as it says; `slack` is the oracle's own error, in σ₁."""
    assert len(spectrum.values) == len(exact)
    if exact[0] == 0:
        assert not spectrum.values.any() or spectrum.error_bound >= 1
        return
    if spectrum.error_bound >= 1:
        return
    sigma = np.ldexp(spectrum.values, spectrum.exponent - exponent)
    assert (np.diff(sigma) <= 0).all()
    assert (np.abs(sigma - exact) <= exact[0] * (implied_errors(spectrum) + 4 * EPS + slack)).all()
    bound = spectrum.error_bound + 16 * EPS + 2 * len(exact) * slack
    assert sigma[0] == pytest.approx(exact[0], rel=bound)
    assert spectra.stable_rank(sigma) == pytest.approx(spectra.stable_rank(exact), rel=bound)
    entropy_slack = slack * len(exact) * 80
    assert spectra.effective_rank(sigma) == pytest.approx(
        spectra.effective_rank(exact), rel=bound + entropy_slack
    )
    energy_error = spectrum.energy_error + 8 * EPS + 4 * len(exact) * slack
    held = spectra.cumulative_energy(exact)
    assert np.abs(spectra.cumulative_energy(sigma) - held).max() <= energy_error
    for tau in TAUS:
        if spectra.energy_margin(sigma, [tau]) > energy_error + spectra.ENERGY_SLACK:
            assert spectra.energy_rank(sigma, tau) == int((held < tau).sum()) + 1


def draw(family: str, seed: int, largest_rank: int, largest_side: int):
    """Factors, and their generator for further choices. One in five is wider than tall: r above m or n."""
    rng = np.random.default_rng([list(FAMILIES).index(family), seed])
    r = int(rng.integers(1, largest_rank + 1))
    low = 1 if seed % 5 == 0 else r
    m, n = (int(side) for side in rng.integers(low, largest_side + 1, 2))
    A, B = FAMILIES[family](rng, r, m, n)
    return np.ascontiguousarray(A), np.ascontiguousarray(B), rng


def test_there_are_two_thousand_trials():
    assert TRIALS * len(FAMILIES) >= 2000


@pytest.mark.parametrize("family", FAMILIES)
def test_within_the_stated_bounds_of_sixty_digits(family):
    measured = 0
    for seed in range(TRIALS):
        A, B, rng = draw(family, seed, largest_rank=12 if seed % 7 == 0 else 7, largest_side=48)
        spectra_by_route = routes(A, B, block=int(rng.choice([1, 3, 7, 4096])))
        exponent = spectra_by_route["auto"].exponent
        exact = exact_singular_values(A, B, exponent)
        for spectrum in spectra_by_route.values():
            check(spectrum, exact, exponent)
        # What is published must be a measurement wherever there is something to measure.
        if exact[0] > 0:
            assert spectra_by_route["auto"].error_bound < 1e-3
            measured += 1
    assert measured >= TRIALS / 2


@pytest.mark.parametrize("family", BENIGN)
def test_within_the_stated_bounds_of_a_dense_svd(family):
    for seed in range(12):
        A, B, _ = draw(family, 1000 + seed, largest_rank=64, largest_side=300)
        # The product of the oracle is rounded too: ε·η·σ₁ with a constant; dense SVDs of clusters err by 61 ε.
        for spectrum in routes(A, B).values():
            slack = EPS * (64 + 4 * math.sqrt(A.shape[0])) * spectrum.eta
            dense = dense_singular_values(A, B)
            check(spectrum, np.where(dense > slack * dense[0], dense, 0.0), 0, slack)


@pytest.mark.parametrize(("rank", "worst"), [(3, 2977), (4, 1795), (5, 101), (6, 2929)])
def test_tight_clusters(rank, worst):
    """LAPACK's SVD without vectors is off by more than 16·√r ε here: the bound of the qr route must cover it."""
    errors = []
    for seed in (worst, *range(20)):
        rng = np.random.default_rng([rank, seed])
        gap = 10.0 ** -rng.uniform(5, 16)
        steps = np.arange(rank) if seed % 2 else rng.random(rank)
        sigma = np.sort(1 + gap * steps)[::-1]
        A, B = orthonormal(rng, rank, rank).T, orthonormal(rng, rank, rank) * sigma
        exact = exact_singular_values(A, B)
        for spectrum in routes(A, B).values():
            check(spectrum, exact, 0)
        qr = routes(A, B)["qr"]
        errors.append(np.abs(np.ldexp(qr.values, qr.exponent) - exact).max() / EPS)
    assert max(errors) <= 64


@pytest.mark.parametrize("rank", [1, 2, 8, 16])
@pytest.mark.parametrize("rows", [100, 384, 4096, 14336, 128256])
def test_long_sums_of_equal_terms(rows, rank):
    """All rounding errors have one sign, the worst case of summation; the exact answer is known as a fraction."""
    rng = np.random.default_rng(rows)
    for value in (0.75 * (1 + 1e-9 * rng.random()), *rng.uniform(0.5, 1, 2)):
        factor = np.full((rows, rank), value)
        blocks = array_blocks(factor)
        gram, triangle = spectra.gram(blocks), spectra.triangle(blocks)
        exact = Fraction(value) ** 2 * rows
        ratio = Fraction(float(gram.matrix.max())) * Fraction(2) ** (2 * gram.exponent) / exact
        assert abs(float(ratio - 1)) <= 48 * EPS
        assert (
            abs(float(ratio - 1)) <= spectra._gram_rounding(gram, gram) / 2
        )  # what the error bound rests on
        norm = Fraction(float(np.linalg.norm(triangle.matrix))) * Fraction(2) ** triangle.exponent
        assert abs(float(norm**2 / (exact * rank) - 1)) <= 2 * 96 * EPS
        # B·A for A = 1 (rank, 3): one singular value, value · rank · √(3 rows).
        for spectrum in routes(np.ones((rank, 3)), factor).values():
            sigma = math.ldexp(float(spectrum.values[0]), spectrum.exponent)
            assert sigma == pytest.approx(
                value * rank * math.sqrt(3 * rows), rel=spectrum.error_bound + 4 * EPS
            )


def test_the_gram_route_is_refused_where_it_would_lie():
    """cond(A) = cond(B) = 1e8 and lined up to cancel: gram is off by more than any tolerance, qr is taken."""
    rng = np.random.default_rng(3)
    turn, stretch = orthonormal(rng, 8, 8), np.geomspace(1, 1e8, 8)
    A = (turn * stretch) @ orthonormal(rng, 40, 8).T
    B = (orthonormal(rng, 30, 8) / stretch) @ turn.T
    exact = exact_singular_values(A, B)
    by_route = routes(A, B)
    assert by_route["auto"].method == "qr"
    assert spectra.stable_rank(by_route["auto"].values) == pytest.approx(spectra.stable_rank(exact), rel=1e-6)
    if "gram" in by_route:
        assert by_route["gram"].error_bound > spectra.GRAM_TOLERANCE
        assert abs(spectra.stable_rank(by_route["gram"].values) - spectra.stable_rank(exact)) > 1e-3


def test_numerical_rank_survives():
    """Exact rank 6 of 12: the qr route puts the rest at rounding level, where the gram route has a floor of √ε."""
    rng = np.random.default_rng(6)
    A = rng.integers(-3, 4, (12, 6)) @ rng.integers(-3, 4, (6, 40)) * 1.0
    B = rng.integers(-3, 4, (30, 12)) * 1.0
    by_route = routes(A, B)
    assert by_route["auto"].method == "qr"
    assert (by_route["auto"].values / by_route["auto"].values[0] > 1e-12).sum() == 6


def test_total_cancellation_is_no_measurement():
    """B·A = 0 exactly, but only because its halves cancel: rounding is all there is to see, and the bound says so."""
    rng = np.random.default_rng(0)
    half_A, half_B = rng.standard_normal((3, 20)), rng.standard_normal((10, 3))
    by_route = routes(np.vstack([half_A, half_A]), np.hstack([half_B, -half_B]))
    assert by_route["auto"].error_bound >= 1


def test_a_product_below_float64_is_no_zero():
    """Five hundred decades inside one factor: the smaller direction is lost to scaling, though it carries B·A."""
    small_and_large = np.diag([1e250, 1e-250])
    assert routes(small_and_large, np.diag([0.0, 1e250]))["auto"].error_bound >= 1
    assert routes(small_and_large, np.diag([1e-250, 1e250]))["auto"].error_bound >= 1


def test_directions_that_never_meet_are_exactly_zero():
    A, B = np.diag([1.0, 0.0]), np.diag([0.0, 1.0])
    for spectrum in routes(A, B).values():
        assert not spectrum.values.any()
        assert spectrum.error_bound == 0
