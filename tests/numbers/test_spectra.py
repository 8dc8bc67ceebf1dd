"""What the measures are, what leaves them alone, and what they refuse."""

import math
from fractions import Fraction

import numpy as np
import pytest
import spectra_cases as cases
from hypothesis import given
from hypothesis import strategies as st

from gradience import spectra
from gradience.audit.dominance import TOLERANCE, spectral_norm, steps_for

seeds = st.integers(0, 2**32 - 1)
ranks = st.integers(1, 12)
families = st.sampled_from(
    [cases.gaussian, cases.power_law, cases.trained_from_zero, *cases.HOSTILE.values()]
)
mild = st.sampled_from([cases.gaussian, cases.power_law, cases.trained_from_zero])


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
    return spectra.spectrum(
        spectra.array_blocks(np.ascontiguousarray(A.T), block), spectra.array_blocks(B, block)
    )


def assert_same(left, right, extra=0.0):
    """Two spectra that describe one matrix agree within what they promise."""
    if not left.values.any() or not right.values.any():
        for spectrum in (left, right):
            assert not spectrum.values.any() or spectrum.error_bound >= 1
        return
    bound = left.error_bound + right.error_bound + extra + 1e-14
    if bound >= 1:
        return
    for of in (spectra.stable_rank, spectra.effective_rank):
        assert of(left.values) == pytest.approx(of(right.values), rel=bound)
    top = [spectrum.values[0] for spectrum in (left, right)]
    assert top[0] == pytest.approx(math.ldexp(top[1], right.exponent - left.exponent), rel=bound)
    error = left.energy_error + right.energy_error + extra + spectra.ENERGY_SLACK
    for tau in (0.9, 0.95, 0.99):
        if spectra.energy_margin(left.values, [tau]) > error:
            assert spectra.energy_rank(left.values, tau) == spectra.energy_rank(right.values, tau)


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
    left, right = cases.orthonormal(rng, r, r), cases.orthonormal(rng, r, r)
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
    tall = spectra.array_blocks(np.ascontiguousarray(A.T)), spectra.array_blocks(B)
    assert_same(spectra.spectrum(*tall), spectra.spectrum(*tall, wide=True))


def test_a_rank_far_above_the_shape_costs_no_square_of_it():
    """r = 60,000 on a 2 × 3 matrix: an r x r Gram matrix would need 29 GB."""
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((60_000, 3)), rng.standard_normal((2, 60_000))
    spectrum = spectra.spectrum(
        spectra.array_blocks(np.ascontiguousarray(A.T)), spectra.array_blocks(B), wide=True
    )
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
    assert 1 <= spectra.stable_rank(spectrum.values) <= spectra.effective_rank(spectrum.values) * room
    assert spectra.effective_rank(spectrum.values) <= len(spectrum.values) * room
    energy_ranks = [spectra.energy_rank(spectrum.values, tau) for tau in (0.01, 0.5, 0.9, 0.95, 0.99, 1.0)]
    assert energy_ranks == sorted(energy_ranks)
    assert energy_ranks[0] >= 1
    assert energy_ranks[-1] <= len(spectrum.values)


@given(spectra_of_values, st.floats(0.01, 1.0))
def test_an_energy_rank_is_the_smallest_that_is_enough(values, tau):
    k = spectra.energy_rank(values, tau)
    held = spectra.cumulative_energy(values)
    assert held[k - 1] >= tau - spectra.ENERGY_SLACK
    assert k == 1 or held[k - 2] < tau - spectra.ENERGY_SLACK


@given(spectra_of_values, st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4))
def test_the_margin_is_the_distance_to_the_nearest_threshold(values, taus):
    held = spectra.cumulative_energy(values)[:-1]
    expected = min((abs(energy - tau) for energy in held for tau in taus), default=1.0)
    assert spectra.energy_margin(values, taus) == pytest.approx(min(expected, 1.0))


@given(pairs(mild), st.integers(0, 12))
def test_truncation_error_is_that_of_the_best_approximation(pair, k):
    A, B = pair
    k = min(k, len(measure(A, B).values))
    U, sigma, Vt = np.linalg.svd(B @ A, full_matrices=False)
    dense = B @ A
    best = (U[:, :k] * sigma[:k]) @ Vt[:k]
    expected = np.linalg.norm(dense - best) / np.linalg.norm(dense)
    energies = np.square(measure(A, B).values)
    error = spectra.relative_error(spectra.lost_energy(energies, k), spectra.lost_energy(energies, 0))
    assert error == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_truncation_error_does_not_cancel():
    """1 − energy would be 0 here."""
    energies = np.array([1.0, 1e-24])
    assert spectra.relative_error(
        spectra.lost_energy(energies, 1), spectra.lost_energy(energies, 0)
    ) == pytest.approx(1e-12)


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
    assert spectra.stable_rank(sigma) == pytest.approx(stable)
    assert spectra.effective_rank(sigma) == pytest.approx(effective)
    assert spectra.energy_rank(sigma, 0.90) == k90
    assert spectra.energy_rank(sigma, 0.99) == k99


def test_factors_of_a_known_update():
    """A = e₁ + 2·e₂ directions, B orthonormal: singular values 2 and 1, whatever the rest of the shape is."""
    A, B = np.zeros((2, 50)), np.zeros((30, 2))
    A[0, 7], A[1, 11], B[3, 0], B[29, 1] = 1.0, 2.0, 1.0, 1.0
    assert measure(A, B).scaled(0.5) == pytest.approx([1.0, 0.5])
    assert spectra.stable_rank(measure(A, B).values) == 1.25


@pytest.mark.parametrize("scale", [1.0, -2.0])
def test_the_sign_of_the_scale_is_no_part_of_a_singular_value(scale):
    assert measure(np.eye(2), np.eye(2)).scaled(scale) == pytest.approx([abs(scale)] * 2)


def test_values_beyond_float64_are_inf_or_zero_only_once_scaled():
    huge = measure(np.eye(2) * 1e300, np.eye(2) * 1e300)
    assert spectra.stable_rank(huge.values) == 2.0
    assert np.isinf(huge.scaled()).all()
    assert huge.scaled(1e-300) == pytest.approx([1e300] * 2)
    assert (measure(np.eye(2) * 1e-300, np.eye(2) * 1e-300).scaled() == 0).all()


@pytest.mark.parametrize("factor", ["A", "B"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("route", [spectra.gram, spectra.triangle])
def test_nan_and_infinity_are_no_numbers(factor, bad, route):
    A, B = cases.gaussian(np.random.default_rng(0), 3, 8, 9)
    (A if factor == "A" else B)[2, 1] = bad
    with pytest.raises(spectra.NonFiniteFactor):
        measure(A, B)
    with pytest.raises(spectra.NonFiniteFactor):
        measure(np.zeros_like(A) if factor == "B" else A, B)
    with pytest.raises(spectra.NonFiniteFactor):
        route(spectra.array_blocks(np.ascontiguousarray(A.T) if factor == "A" else B, 2))


@pytest.mark.parametrize("zero", ["A", "B", "both"])
def test_an_untrained_module_has_a_spectrum_of_zeros(zero):
    A, B = cases.gaussian(np.random.default_rng(0), 3, 8, 9)
    spectrum = measure(A * (zero == "B"), B * (zero == "A"))
    assert spectrum.values.tolist() == [0.0] * 3
    assert (spectrum.error_bound, spectrum.energy_error) == (0.0, 0.0)


# ---------------------------------------------------------------- Spectra against oracles


FAMILIES = cases.BENIGN | cases.HOSTILE
TRIALS = 84
"""For each family. All of them together must be at least 2,000."""
TAUS = (0.5, 0.9, 0.95, 0.99, 0.999, 1.0)


def routes(A, B, block=4096):
    """The spectra of B·A by name of the route; the gram route may decline."""
    tall_A, tall_B = spectra.array_blocks(np.ascontiguousarray(A.T), block), spectra.array_blocks(B, block)
    by_route = {
        "auto": spectra.spectrum(tall_A, tall_B),
        "gram": spectra.spectrum_from_grams(spectra.gram(tall_A), spectra.gram(tall_B)),
        "qr": spectra.spectrum_from_triangles(spectra.triangle(tall_A), spectra.triangle(tall_B)),
    }
    return {name: spectrum for name, spectrum in by_route.items() if spectrum is not None}


def implied_errors(spectrum: spectra.Spectrum) -> np.ndarray:
    """Bound of the error of each σ in units of σ₁, recovered from the energy error that is published."""
    count = len(spectrum.values)
    if spectrum.method == "qr":
        return np.full(count, spectrum.energy_error / (4 * count))
    relative = spectrum.energy_error / (2 * count)
    return np.minimum(
        math.sqrt(relative), relative / np.maximum(spectrum.values / spectrum.values[0], 1e-300)
    )


def check(spectrum: spectra.Spectrum, exact: np.ndarray, exponent: int, slack: float = 0.0) -> None:
    """`spectrum` describes `exact · 2^exponent` as well as it says; `slack` is the oracle's own error, in σ₁."""
    assert len(spectrum.values) == len(exact)
    if exact[0] == 0:
        assert not spectrum.values.any() or spectrum.error_bound >= 1
        return
    if spectrum.error_bound >= 1:
        return
    sigma = np.ldexp(spectrum.values, spectrum.exponent - exponent)
    assert (np.diff(sigma) <= 0).all()
    assert (np.abs(sigma - exact) <= exact[0] * (implied_errors(spectrum) + 4 * cases.EPS + slack)).all()
    bound = spectrum.error_bound + 16 * cases.EPS + 2 * len(exact) * slack
    assert sigma[0] == pytest.approx(exact[0], rel=bound)
    assert spectra.stable_rank(sigma) == pytest.approx(spectra.stable_rank(exact), rel=bound)
    entropy_slack = slack * len(exact) * 80
    assert spectra.effective_rank(sigma) == pytest.approx(
        spectra.effective_rank(exact), rel=bound + entropy_slack
    )
    energy_error = spectrum.energy_error + 8 * cases.EPS + 4 * len(exact) * slack
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


@pytest.mark.parametrize("family", FAMILIES)
def test_within_the_stated_bounds_of_sixty_digits(family):
    measured = 0
    for seed in range(TRIALS):
        A, B, rng = draw(family, seed, largest_rank=12 if seed % 7 == 0 else 7, largest_side=48)
        spectra_by_route = routes(A, B, block=int(rng.choice([1, 3, 7, 4096])))
        exponent = spectra_by_route["auto"].exponent
        exact = cases.exact_singular_values(A, B, exponent)
        for spectrum in spectra_by_route.values():
            check(spectrum, exact, exponent)
        # What is published must be a measurement wherever there is something to measure.
        if exact[0] > 0:
            assert spectra_by_route["auto"].error_bound < 1e-3
            measured += 1
    assert measured >= TRIALS / 2


@pytest.mark.parametrize("family", cases.BENIGN)
def test_within_the_stated_bounds_of_a_dense_svd(family):
    for seed in range(12):
        A, B, _ = draw(family, 1000 + seed, largest_rank=64, largest_side=300)
        # The product of the oracle is rounded too: ε·η·σ₁ with a constant; dense SVDs of clusters err by 61 ε.
        for spectrum in routes(A, B).values():
            slack = cases.EPS * (64 + 4 * math.sqrt(A.shape[0])) * spectrum.eta
            dense = cases.dense_singular_values(A, B)
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
        A, B = cases.orthonormal(rng, rank, rank).T, cases.orthonormal(rng, rank, rank) * sigma
        exact = cases.exact_singular_values(A, B)
        for spectrum in routes(A, B).values():
            check(spectrum, exact, 0)
        qr = routes(A, B)["qr"]
        errors.append(np.abs(np.ldexp(qr.values, qr.exponent) - exact).max() / cases.EPS)
    assert max(errors) <= 64


@pytest.mark.parametrize("rank", [1, 2, 8, 16])
@pytest.mark.parametrize("rows", [100, 384, 4096, 14336, 128256])
def test_long_sums_of_equal_terms(rows, rank):
    """All rounding errors have one sign, the worst case of summation; the exact answer is known as a fraction."""
    rng = np.random.default_rng(rows)
    for value in (0.75 * (1 + 1e-9 * rng.random()), *rng.uniform(0.5, 1, 2)):
        factor = np.full((rows, rank), value)
        blocks = spectra.array_blocks(factor)
        gram, triangle = spectra.gram(blocks), spectra.triangle(blocks)
        exact = Fraction(value) ** 2 * rows
        ratio = Fraction(float(gram.matrix.max())) * Fraction(2) ** (2 * gram.exponent) / exact
        assert abs(float(ratio - 1)) <= 48 * cases.EPS
        assert (
            abs(float(ratio - 1)) <= spectra._gram_rounding(gram, gram) / 2
        )  # what the error bound rests on
        norm = Fraction(float(np.linalg.norm(triangle.matrix))) * Fraction(2) ** triangle.exponent
        assert abs(float(norm**2 / (exact * rank) - 1)) <= 2 * 96 * cases.EPS
        # B·A for A = 1 (rank, 3): one singular value, value · rank · √(3 rows).
        for spectrum in routes(np.ones((rank, 3)), factor).values():
            sigma = math.ldexp(float(spectrum.values[0]), spectrum.exponent)
            assert sigma == pytest.approx(
                value * rank * math.sqrt(3 * rows), rel=spectrum.error_bound + 4 * cases.EPS
            )


def test_the_gram_route_is_refused_where_it_would_lie():
    """cond(A) = cond(B) = 1e8 and lined up to cancel: gram is off by more than any tolerance, qr is taken."""
    rng = np.random.default_rng(3)
    turn, stretch = cases.orthonormal(rng, 8, 8), np.geomspace(1, 1e8, 8)
    A = (turn * stretch) @ cases.orthonormal(rng, 40, 8).T
    B = (cases.orthonormal(rng, 30, 8) / stretch) @ turn.T
    exact = cases.exact_singular_values(A, B)
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


# ---------------------------------------------------------------- ‖W‖₂ by Lanczos


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


def test_steps_grow_with_the_logarithm_of_the_size_and_never_beyond_it():
    assert steps_for(3) == 3
    assert 50 < steps_for(384) < steps_for(4096) < steps_for(128_000) < 90
    assert steps_for(4096, tolerance=0.1) < steps_for(4096) / 2
