"""Components under weights: the best for every rank, whatever is compared; the SVD as a limit; dependent factors."""

import math
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from scipy.optimize import minimize

from gradience import spectra
from gradience.spectra import components, lost_energies, null_stable_rank, root

M, N, R = 7, 8, 5


def triangle_of(tall):
    return np.linalg.qr(tall, mode="r")


@pytest.fixture
def problem():
    """B, A, and moments of inputs and of gradients of the whole layer, both of full rank."""
    draw = np.random.default_rng(3)
    A, B = draw.normal(size=(R, N)), draw.normal(size=(M, R))
    inputs, gradients = (
        draw.normal(size=(side, 3 * side)) * draw.uniform(0.2, 3, (side, 1)) for side in (N, M)
    )
    return B, A, inputs @ inputs.T / (3 * N), gradients @ gradients.T / (3 * M)


def weighted(B, A, moment_x, moment_g, ridge=0.0):
    triangles = triangle_of(A.T), triangle_of(B)
    roots = root(A @ moment_x @ A.T, triangles[0], ridge), root(B.T @ moment_g @ B, triangles[1], ridge)
    return components(*roots, *triangles)


def error(difference, moment_x, moment_g) -> float:
    """tr(G·D·C·Dᵀ) = E(gᵀDx)² for independent x and g."""
    return float(np.trace(moment_g @ difference @ moment_x @ difference.T))


def kept(B, A, basis, k):
    return B @ basis.p[:, :k] @ basis.q[:, :k].T @ A


@pytest.mark.parametrize("k", [1, 2, 4])
def test_no_factors_of_rank_k_come_closer_however_they_are_sought(problem, k):
    B, A, moment_x, moment_g = problem
    best = error(B @ A - kept(B, A, weighted(*problem), k), moment_x, moment_g)

    def loss(flat):
        left, right = flat[: M * k].reshape(M, k), flat[M * k :].reshape(k, N)
        D = left @ right - B @ A
        gradient = 2 * moment_g @ D @ moment_x
        return error(D, moment_x, moment_g), np.concatenate(
            [(gradient @ right.T).ravel(), (left.T @ gradient).ravel()]
        )

    draw = np.random.default_rng(k)
    sought = [
        minimize(
            loss, draw.normal(size=k * (M + N)), jac=True, method="L-BFGS-B", options={"maxiter": 2000}
        ).fun
        for _ in range(4)
    ]
    assert min(sought) == pytest.approx(best, rel=1e-4)
    assert min(sought) >= best * (1 - 1e-9)
    U, S, V = np.linalg.svd(B @ A)
    plain = (U[:, :k] * S[:k]) @ V[:k]
    assert best < error(B @ A - plain, moment_x, moment_g)


def test_the_ridge_is_one_of_inputs_and_gradients_in_the_directions_that_the_factors_see(problem):
    B, A, moment_x, moment_g = problem
    ridge, k = 0.3, 2
    basis = weighted(*problem, ridge=ridge)

    def ridged(moment, factor):
        rows = np.linalg.svd(factor, full_matrices=False)[2]
        return moment + ridge * np.trace(rows @ moment @ rows.T) / len(rows) * np.eye(len(moment))

    x, g = ridged(moment_x, A), ridged(moment_g, B.T)
    C, G = np.linalg.cholesky(x), np.linalg.cholesky(g)
    U, S, V = np.linalg.svd(G.T @ B @ A @ C)
    best = np.linalg.solve(G.T, (U[:, :k] * S[:k]) @ V[:k]) @ np.linalg.inv(C)
    np.testing.assert_allclose(kept(B, A, basis, k), best, atol=1e-10)
    assert np.square(basis.values[k:]).sum() == pytest.approx(error(B @ A - best, x, g))


def test_all_components_together_are_the_update_and_they_do_not_meet(problem):
    B, A, *_ = problem
    basis = weighted(*problem, ridge=1e-4)
    np.testing.assert_allclose(kept(B, A, basis, R), B @ A, atol=1e-10)
    np.testing.assert_allclose(basis.q.T @ basis.p, np.eye(R), atol=1e-10)
    np.testing.assert_allclose(
        np.linalg.norm(B @ basis.p, axis=0), np.linalg.norm(A.T @ basis.q, axis=0)
    )  # balanced
    assert (np.diff(basis.values) <= 0).all()


def test_a_ridge_that_outweighs_everything_gives_the_svd(problem):
    B, A, *_ = problem
    triangles = triangle_of(A.T), triangle_of(B)
    plain = components(*triangles, *triangles)
    np.testing.assert_allclose(plain.values, np.linalg.svd(B @ A)[1][:R])
    heavy = weighted(*problem, ridge=1e12)
    np.testing.assert_allclose(kept(B, A, heavy, 2), kept(B, A, plain, 2), atol=1e-9)


def test_nothing_depends_on_how_the_update_is_split_into_factors(problem):
    B, A, moment_x, moment_g = problem
    mixed = np.random.default_rng(0).normal(size=(R, R)) + 3 * np.eye(R)
    B2, A2 = B @ np.linalg.inv(mixed), mixed @ A
    first, second = weighted(*problem, ridge=0.1), weighted(B2, A2, moment_x, moment_g, ridge=0.1)
    np.testing.assert_allclose(second.values, first.values)
    np.testing.assert_allclose(kept(B2, A2, second, 2), kept(B, A, first, 2), atol=1e-9)


def test_dependent_rows_leave_fewer_components_and_lose_nothing(problem):
    B, A, moment_x, moment_g = problem
    A = A.copy()
    A[4] = A[0] - 2 * A[1]
    basis = weighted(B, A, moment_x, moment_g, ridge=1e-4)
    assert basis.p.shape == (R, R - 1)
    np.testing.assert_allclose(kept(B, A, basis, R - 1), B @ A, atol=1e-9)


def test_an_untrained_module_and_one_without_gradient_have_no_component(problem):
    B, A, moment_x, moment_g = problem
    assert weighted(0 * B, A, moment_x, moment_g, ridge=1e-4).values.size == 0
    assert weighted(B, A, moment_x, 0 * moment_g, ridge=1e-4).values.size == 0


def test_what_is_lost_is_the_distance_of_the_weights(problem):
    B, A, *_ = problem
    basis = weighted(*problem).ordered(np.array([3, 0, 4, 1, 2]))
    distances = [np.linalg.norm(B @ A - kept(B, A, basis, k)) ** 2 for k in range(R + 1)]
    lost = lost_energies(basis, triangle_of(A.T), triangle_of(B))
    np.testing.assert_allclose(lost, distances, atol=1e-9)


def test_a_moment_that_rounding_has_left_below_0_counts_as_none():
    triangle = np.triu(np.ones((2, 2)))
    assert np.isfinite(root(-1e-30 * np.eye(2), triangle)).all()


# ---------------------------------------------------------------- The stable rank of random factors


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


@pytest.mark.parametrize("shape", [(160, 600, 240), (200, 200, 2000), (300, 170, 400)])
def test_the_null_of_large_ranks_is_that_of_a_simulation(shape):
    """It is not simulated at its own size; 40 draws that are tell the mean to a few thousandths."""
    rank, rows, columns = shape
    generator = np.random.default_rng(3)
    left, right = (spectra._bartlett(generator, 40, rank, side) for side in (rows, columns))
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
    left, right = (spectra._bartlett(np.random.default_rng(5), 200, 600, side) for side in (20, 30))
    energies = np.square(np.linalg.svd(left @ right.swapaxes(1, 2), compute_uv=False))
    assert null_stable_rank(600, 20, 30) == pytest.approx(
        (energies.sum(axis=1) / energies[:, 0]).mean(), rel=0.02
    )


def test_the_null_of_infinitely_large_square_factors():
    """Penson & Życzkowski 2011: the largest eigenvalue of the product is 27/4 of the mean one."""
    assert spectra._limit(1000, 1000, 1000) == pytest.approx(1000 * 4 / 27)
    assert spectra._limit(1000, 10**12, 10**12) == pytest.approx(1000, rel=1e-3)


def test_the_null_of_a_large_rank_needs_no_large_spectrum(monkeypatch):
    """Its cost must not exceed that of the module's own spectrum: no matrix of its size is decomposed."""
    sizes = []
    decompose = spectra.singular_values
    monkeypatch.setattr(spectra, "singular_values", lambda core: sizes.append(core.shape) or decompose(core))
    null_stable_rank(2048, 4096, 11008)
    assert sizes
    assert max(size[-1] for size in sizes) <= spectra.PROBED


def test_the_null_is_computed_once_however_many_ask(monkeypatch):
    calls = []
    decompose = spectra.singular_values
    monkeypatch.setattr(spectra, "singular_values", lambda core: calls.append(1) or decompose(core))
    spectra._simulated.cache_clear()
    together = Barrier(4)

    def ask(_):
        together.wait()
        return null_stable_rank(32, 77, 78)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(ask, range(4)))) == 1
    assert len(calls) == 1
