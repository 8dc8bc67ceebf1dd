"""What the measures are, what leaves them alone, and what they refuse. (Accuracy: test_spectra_oracle.py.)"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spectra_cases import HOSTILE, gaussian, orthonormal, power_law, trained_from_zero

from gradience import spectra
from gradience.spectra import (
    NonFiniteFactor,
    array_blocks,
    cumulative_energy,
    effective_rank,
    energy_margin,
    energy_rank,
    lost_energy,
    relative_error,
    stable_rank,
)

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 40)
ranks = st.integers(1, 12)
families = st.sampled_from([gaussian, power_law, trained_from_zero, *HOSTILE.values()])
mild = st.sampled_from([gaussian, power_law, trained_from_zero])


@st.composite
def pairs(draw, family=families):
    """A (r, n) and B (m, r), r ≤ m, n."""
    rank = draw(ranks)
    rows, columns = draw(st.integers(rank, 40)), draw(st.integers(rank, 40))
    A, B = draw(family)(np.random.default_rng(draw(seeds)), rank, rows, columns)
    # One memory layout: BLAS sums in another order in another layout, which shows in the last bit.
    return A.copy(order="C"), B.copy(order="C")


spectra_of_values = st.lists(st.floats(0, 1e6), min_size=1, max_size=30).map(
    lambda values: np.sort(np.array([*values, 1.0]))[::-1]
)


def measure(A, B, block=4096):
    return spectra.spectrum(array_blocks(np.ascontiguousarray(A.T), block), array_blocks(B, block))


def assert_same(left, right, extra=0.0):
    """Two spectra that describe one matrix agree within what they promise."""
    if not left.values.any() or not right.values.any():
        for spectrum in (left, right):
            assert not spectrum.values.any() or spectrum.error_bound >= 1
        return
    bound = left.error_bound + right.error_bound + extra + 1e-14
    if bound >= 1:
        return
    for of in (stable_rank, effective_rank):
        assert of(left.values) == pytest.approx(of(right.values), rel=bound)
    top = [spectrum.values[0] for spectrum in (left, right)]
    assert top[0] == pytest.approx(math.ldexp(top[1], right.exponent - left.exponent), rel=bound)
    error = left.energy_error + right.energy_error + extra + spectra.ENERGY_SLACK
    for tau in (0.9, 0.95, 0.99):
        if energy_margin(left.values, [tau]) > error:
            assert energy_rank(left.values, tau) == energy_rank(right.values, tau)


# ---------------------------------------------------------------- what changes nothing


@given(pairs(), st.integers(-300, 300), st.integers(-300, 300))
def test_powers_of_two_change_not_a_bit(pair, power_A, power_B):
    """Exact, where the scaled factors are: no measure knows how large ΔW is."""
    A, B = pair
    scaled_A, scaled_B = np.ldexp(A, power_A), np.ldexp(B, power_B)
    if not (np.ldexp(scaled_A, -power_A) == A).all() or not (np.ldexp(scaled_B, -power_B) == B).all():
        return  # denormals or overflow: the input itself has changed
    plain, scaled = measure(A, B), measure(scaled_A, scaled_B)
    if plain.method == scaled.method:
        assert (plain.values == scaled.values).all()
        assert scaled.exponent - plain.exponent == (power_A + power_B if plain.values.any() else 0)


@given(pairs(mild), st.floats(1e-3, 1e3))
def test_other_scales_change_only_the_norm(pair, scale):
    A, B = pair
    plain, scaled = measure(A, B), measure(A, B * scale)
    if plain.values.any() and plain.error_bound < 1:
        assert stable_rank(scaled.values) == pytest.approx(
            stable_rank(plain.values), rel=plain.error_bound + scaled.error_bound + 1e-14 * plain.eta
        )


@given(pairs())
def test_transpose(pair):
    A, B = pair
    assert_same(measure(A, B), measure(B.T, np.ascontiguousarray(A.T)))


@given(pairs(), seeds)
def test_order_of_rows_columns_and_directions(pair, seed):
    A, B = pair
    rng = np.random.default_rng(seed)
    order = rng.permutation(A.shape[0])
    shuffled = A[order][:, rng.permutation(A.shape[1])], B[rng.permutation(B.shape[0])][:, order]
    assert_same(measure(A, B), measure(*shuffled))


@given(pairs(), st.integers(1, 5))
def test_appended_zeros(pair, extra):
    """Unused rank, inputs that are never read, outputs that are never written: nothing is added to a spectrum."""
    A, B = pair
    plain = measure(A, B)
    for wider in (
        (np.vstack([A, np.zeros((extra, A.shape[1]))]), np.hstack([B, np.zeros((B.shape[0], extra))])),
        (np.hstack([A, np.zeros((A.shape[0], extra))]), B),
        (A, np.vstack([B, np.zeros((extra, B.shape[1]))])),
    ):
        assert_same(plain, measure(*wider))


@given(pairs(mild), st.floats(0, 4), seeds)
def test_gauge(pair, power, seed):
    """(GA, BG⁻¹) is the same update as (A, B). cond(G) ≤ 1e4; the products GA and BG⁻¹ are rounded themselves."""
    A, B = pair
    rng, r = np.random.default_rng(seed), A.shape[0]
    left, right = orthonormal(rng, r, r), orthonormal(rng, r, r)
    stretch = np.geomspace(1, 10.0**power, r)
    plain = measure(A, B)
    other = measure((left * stretch) @ (right.T @ A), ((B @ right) / stretch) @ left.T)
    # Rounding of the new factors moves σ by ε·η·σ₁ of theirs; it enters the measures like the qr route's own error.
    extra = 64 * r * spectra.EPS * other.eta * 40
    assert_same(plain, other, extra)


@given(pairs(), st.integers(1, 50), st.integers(1, 50))
def test_block_size(pair, one, other):
    assert_same(measure(*pair, block=one), measure(*pair, block=other))


@given(pairs())
def test_the_wide_route_is_the_same_update(pair):
    A, B = pair
    tall = array_blocks(np.ascontiguousarray(A.T)), array_blocks(B)
    assert_same(spectra.spectrum(*tall), spectra.spectrum(*tall, wide=True))


def test_a_rank_far_above_the_shape_costs_no_square_of_it():
    """r = 60,000 on a 2 × 3 matrix: an r x r Gram matrix would need 29 GB."""
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((60_000, 3)), rng.standard_normal((2, 60_000))
    spectrum = spectra.spectrum(array_blocks(np.ascontiguousarray(A.T)), array_blocks(B), wide=True)
    assert spectrum.scaled() == pytest.approx(np.linalg.svd(B @ A, compute_uv=False), rel=1e-12)


# ---------------------------------------------------------------- what always holds


@given(pairs())
def test_ranks_are_ordered(pair):
    A, B = pair
    spectrum = measure(A, B)
    if not spectrum.values.any():
        return
    room = 1 + 1e-12
    assert len(spectrum.values) == min(*A.shape, B.shape[0])
    assert 1 <= stable_rank(spectrum.values) <= effective_rank(spectrum.values) * room
    assert effective_rank(spectrum.values) <= len(spectrum.values) * room
    energy_ranks = [energy_rank(spectrum.values, tau) for tau in (0.01, 0.5, 0.9, 0.95, 0.99, 1.0)]
    assert energy_ranks == sorted(energy_ranks)
    assert energy_ranks[0] >= 1
    assert energy_ranks[-1] <= len(spectrum.values)


@given(spectra_of_values, st.floats(0.01, 1.0))
def test_an_energy_rank_is_the_smallest_that_is_enough(values, tau):
    k = energy_rank(values, tau)
    held = cumulative_energy(values)
    assert held[k - 1] >= tau - spectra.ENERGY_SLACK
    assert k == 1 or held[k - 2] < tau - spectra.ENERGY_SLACK


@given(spectra_of_values, st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4))
def test_the_margin_is_the_distance_to_the_nearest_threshold(values, taus):
    held = cumulative_energy(values)[:-1]
    expected = min((abs(energy - tau) for energy in held for tau in taus), default=1.0)
    assert energy_margin(values, taus) == pytest.approx(min(expected, 1.0))


@given(pairs(mild), st.integers(0, 12))
def test_truncation_error_is_that_of_the_best_approximation(pair, k):
    A, B = pair
    k = min(k, len(measure(A, B).values))
    U, sigma, Vt = np.linalg.svd(B @ A, full_matrices=False)
    dense = B @ A
    best = (U[:, :k] * sigma[:k]) @ Vt[:k]
    expected = np.linalg.norm(dense - best) / np.linalg.norm(dense)
    energies = np.square(measure(A, B).values)
    error = relative_error(lost_energy(energies, k), lost_energy(energies, 0))
    assert error == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_an_update_of_zero_has_no_truncation_error():
    assert relative_error(0.0, 0.0) is None


def test_truncation_error_does_not_cancel():
    """1 − energy would be 0 here."""
    energies = np.array([1.0, 1e-24])
    assert relative_error(lost_energy(energies, 1), lost_energy(energies, 0)) == pytest.approx(1e-12)


# ---------------------------------------------------------------- worked examples


@pytest.mark.parametrize(
    ("values", "stable", "effective", "k90", "k99"),
    [
        ([1.0, 0.0, 0.0], 1.0, 1.0, 1, 1),
        ([1.0, 1.0, 1.0], 3.0, 3.0, 3, 3),
        ([3.0, 1.0, 0.0], 10 / 9, math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)), 1, 2),
        ([2.0, 1.0, 1.0, 1.0, 1.0], 2.0, math.exp(math.log(6) - math.log(2) / 3), 5, 5),
        ([1.0] * 10, 10.0, 10.0, 9, 10),
        ([7.0], 1.0, 1.0, 1, 1),
    ],
    ids=[
        "one-direction",
        "flat",
        "nine-to-one",
        "half-in-the-first",
        "ten-equal-hold-90-in-nine",
        "rank-one",
    ],
)
def test_worked_examples(values, stable, effective, k90, k99):
    sigma = np.array(values)
    assert stable_rank(sigma) == pytest.approx(stable)
    assert effective_rank(sigma) == pytest.approx(effective)
    assert energy_rank(sigma, 0.90) == k90
    assert energy_rank(sigma, 0.99) == k99


def test_factors_of_a_known_update():
    """A = e₁ + 2·e₂ directions, B orthonormal: singular values 2 and 1, whatever the rest of the shape is."""
    A, B = np.zeros((2, 50)), np.zeros((30, 2))
    A[0, 7], A[1, 11], B[3, 0], B[29, 1] = 1.0, 2.0, 1.0, 1.0
    assert measure(A, B).scaled(0.5) == pytest.approx([1.0, 0.5])
    assert stable_rank(measure(A, B).values) == 1.25


@pytest.mark.parametrize("scale", [1.0, -2.0])
def test_the_sign_of_the_scale_is_no_part_of_a_singular_value(scale):
    assert measure(np.eye(2), np.eye(2)).scaled(scale) == pytest.approx([abs(scale)] * 2)


def test_values_beyond_float64_are_inf_or_zero_only_once_scaled():
    huge = measure(np.eye(2) * 1e300, np.eye(2) * 1e300)
    assert stable_rank(huge.values) == 2.0
    assert np.isinf(huge.scaled()).all()
    assert huge.scaled(1e-300) == pytest.approx([1e300] * 2)
    assert (measure(np.eye(2) * 1e-300, np.eye(2) * 1e-300).scaled() == 0).all()


@pytest.mark.parametrize("factor", ["A", "B"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("route", [spectra.gram, spectra.triangle])
def test_nan_and_infinity_are_no_numbers(factor, bad, route):
    A, B = gaussian(np.random.default_rng(0), 3, 8, 9)
    (A if factor == "A" else B)[2, 1] = bad
    with pytest.raises(NonFiniteFactor):
        measure(A, B)
    with pytest.raises(NonFiniteFactor):
        measure(np.zeros_like(A) if factor == "B" else A, B)
    with pytest.raises(NonFiniteFactor):
        route(array_blocks(np.ascontiguousarray(A.T) if factor == "A" else B, 2))


@pytest.mark.parametrize("zero", ["A", "B", "both"])
def test_an_untrained_module_has_a_spectrum_of_zeros(zero):
    A, B = gaussian(np.random.default_rng(0), 3, 8, 9)
    spectrum = measure(A * (zero == "B"), B * (zero == "A"))
    assert spectrum.values.tolist() == [0.0] * 3
    assert (spectrum.error_bound, spectrum.energy_error) == (0.0, 0.0)
