"""Two adapters: every figure against dense numpy and scipy."""

import math
from pathlib import Path

import numpy as np
import pytest
from factor_samples import random_factors, tensor, updates, write
from factory import PREFIX, Stored
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raising import raises
from scipy.linalg import subspace_angles

from gradience.compare.adapters import compare_adapters
from gradience.errors import InputError

few = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
shapes = st.lists(
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(3, 14), st.integers(3, 14)),
    min_size=1,
    max_size=3,
)


def two(folder: Path, seed: int, sides, *, shared: float = 0.6, dtype: str = "F64") -> tuple[Path, Path]:
    """Two adapters of the given (r_a, r_b, m, n) that have directions in common."""
    a = random_factors(seed, *((r, m, n) for r, _, m, n in sides))
    b = random_factors(seed + 1, *((r, m, n) for _, r, m, n in sides))
    mixed = {}
    for name, (down, up) in b.items():
        count = min(down.shape[0], a[name][0].shape[0])
        down, up = down.copy(), up.copy()
        down[:count] = (1 - shared) * down[:count] + shared * a[name][0][:count]
        up[:, :count] = (1 - shared) * up[:, :count] + shared * a[name][1][:, :count]
        mixed[name] = (down, up)
    return write(folder / "a", a, dtype=dtype, lora_alpha=3), write(
        folder / "b", mixed, dtype=dtype, lora_alpha=5
    )


def leading(update: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    left, _, right = np.linalg.svd(update)
    return left[:, :count], right[:count].T


def energy_rank(update: np.ndarray, tau: float = 0.9) -> int:
    energies = np.square(np.linalg.svd(update, compute_uv=False)).cumsum()
    return int((energies / energies[-1] < tau - 1e-9).sum()) + 1


@few
@given(st.integers(0, 10_000), shapes, st.sampled_from([0.0, 0.6, 0.95, 1.0]))
def test_every_figure_against_dense_matrices(tmp_path, seed, sides, shared):
    a, b = two(tmp_path, seed, sides, shared=shared)
    report = compare_adapters(a, b)
    left, right = updates(a), updates(b)
    difference = inner = kept_total = 0.0
    for row in report.modules:
        x, y = left[row.name], right[row.name]
        assert row.norm_a == pytest.approx(np.linalg.norm(x), rel=1e-11)
        assert row.norm_b == pytest.approx(np.linalg.norm(y), rel=1e-11)
        assert row.relative_difference == pytest.approx(
            np.linalg.norm(x - y) / np.linalg.norm(x), rel=1e-9, abs=1e-13
        )
        assert row.cosine == pytest.approx((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-12)
        rank = np.linalg.matrix_rank(y, tol=1e-11 * np.linalg.norm(y, 2))
        columns, rows = leading(y, rank)
        kept = np.square(columns.T @ x @ rows).sum() / np.square(x).sum()
        assert row.kept_energy == pytest.approx(kept, rel=1e-6, abs=1e-12)
        count = min(energy_rank(x), energy_rank(y))
        assert row.compared_dimensions == count
        (left_x, right_x), (left_y, right_y) = leading(x, count), leading(y, count)
        angles = subspace_angles(left_x, left_y), subspace_angles(right_x, right_y)
        assert row.left_overlap == pytest.approx(np.square(np.cos(angles[0])).mean(), abs=1e-6)
        assert row.right_overlap == pytest.approx(np.square(np.cos(angles[1])).mean(), abs=1e-6)
        # cos⁻¹ near 1: an error of 1e-15 in the cosine is 5e-8 rad.
        assert row.largest_angle == pytest.approx(
            math.degrees(max(angle.max() for angle in angles)), abs=1e-3
        )
        difference += np.square(x - y).sum()
        inner += (x * y).sum()
        kept_total += kept * np.square(x).sum()
    energy_a = sum(np.square(update).sum() for update in left.values())
    energy_b = sum(np.square(update).sum() for update in right.values())
    assert report.relative_difference == pytest.approx(math.sqrt(difference / energy_a), rel=1e-9, abs=1e-13)
    assert report.cosine == pytest.approx(inner / math.sqrt(energy_a * energy_b), abs=1e-12)
    assert report.kept_energy == pytest.approx(kept_total / energy_a, rel=1e-6, abs=1e-12)


# ---------------------------------------------------------------- what one of them lacks


def test_modules_that_one_side_lacks(tmp_path):
    factors = random_factors(0, (4, 10, 12), (4, 9, 9), (4, 8, 9))
    names = list(factors)
    a = write(tmp_path / "a", {name: factors[name] for name in names[:2]}, dtype="F64")
    b = write(tmp_path / "b", {name: factors[name] for name in names[1:]}, dtype="F64")
    report = compare_adapters(a, b)
    assert [(row.name, row.presence) for row in report.modules] == [
        (names[0], "only-a"),
        (names[1], "both"),
        (names[2], "only-b"),
    ]
    left, right = updates(a), updates(b)
    energy = {name: np.square(update).sum() for name, update in (left | right).items()}
    expected = math.sqrt((energy[names[0]] + energy[names[2]]) / (energy[names[0]] + energy[names[1]]))
    assert report.relative_difference == pytest.approx(expected)
    assert report.kept_energy == pytest.approx(energy[names[1]] / (energy[names[0]] + energy[names[1]]))
    assert report.modules[0].norm_a == pytest.approx(math.sqrt(energy[names[0]]))
    assert report.modules[2].norm_b == pytest.approx(math.sqrt(energy[names[2]]))
    assert (report.n_both, report.n_only_a, report.n_only_b) == (1, 1, 1)


def test_untrained_modules(tmp_path):
    a = random_factors(0, (4, 10, 12), (4, 9, 9))
    first, second = a
    b = {first: (a[first][0], 0 * a[first][1]), second: a[second]}
    report = compare_adapters(write(tmp_path / "a", a), write(tmp_path / "b", b))
    untrained, same = report.modules
    assert untrained.relative_difference == 1.0
    assert untrained.cosine is untrained.kept_energy is None
    assert same.relative_difference == 0.0
    backwards = compare_adapters(tmp_path / "b", tmp_path / "a")
    assert backwards.modules[0].relative_difference is None
    assert backwards.relative_difference > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_refused_with_the_module_named(bad, tmp_path):
    factors = random_factors(0, (4, 10, 12), (4, 9, 9))
    good = write(tmp_path / "a", factors)
    name = list(factors)[1]
    factors[name][0][1, 1] = bad
    broken = write(tmp_path / "b", factors)
    for pair in ((good, broken), (broken, good)):
        with raises(InputError, "non-finite", name.replace(".", r"\.")):
            compare_adapters(*pair)


# ---------------------------------------------------------------- the file


def test_notes_on_what_was_not_compared(tmp_path):
    (name,) = random_factors(0, (4, 10, 12))
    extra = {f"{PREFIX}{name}.lora_magnitude_vector": tensor(np.ones(10), "F32")}
    a = write(tmp_path / "a", random_factors(0, (4, 10, 12)), extra=extra, use_dora=True)
    strange = {f"{PREFIX}strange.matrix": Stored("F32", (1,), bytes(4))}
    b = write(tmp_path / "b", random_factors(1, (4, 10, 12)), extra=strange)
    report = compare_adapters(a, b)
    assert any("DoRA" in note for note in report.notes)
    assert any("could not be read" in note for note in report.notes)


# ---------------------------------------------------------------- Notes of a comparison


def pair(factors):
    """The factors of the only module."""
    (only,) = factors.values()
    return only


def test_modules_of_other_shapes_are_shown_and_count_against_zero(tmp_path):
    shared = random_factors(1, (4, 12, 10))
    a = write(tmp_path / "a", shared | {"wide": pair(random_factors(2, (4, 9, 8)))}, lora_alpha=4)
    b = write(tmp_path / "b", shared | {"wide": pair(random_factors(3, (2, 9, 16)))}, lora_alpha=4)
    report = compare_adapters(a, b)
    (row,) = [row for row in report.modules if row.presence == "shapes-differ"]
    assert (row.name, row.shape_a, row.shape_b) == ("wide", (9, 8), (9, 16))
    left, right = updates(a), updates(b)
    assert row.norm_a == pytest.approx(np.linalg.norm(left["wide"]))
    assert row.norm_b == pytest.approx(np.linalg.norm(right["wide"]))
    whole = sum(np.square(update).sum() for update in left.values())
    apart = np.square(left["wide"]).sum() + np.square(right["wide"]).sum()
    assert report.relative_difference == pytest.approx(math.sqrt(apart / whole))
    assert report.relative_difference > 0.1
    assert "wide 4 : 2 shapes differ (9 × 8 : 9 × 16)" in " ".join(report.to_text().split())


def test_other_bases_and_updates_that_are_not_b_a_get_a_word(tmp_path):
    factors = random_factors(1, (4, 12, 10))
    a = write(tmp_path / "a", factors, base_model_name_or_path="org/one", init_lora_weights="pissa")
    b = write(tmp_path / "b", factors, base_model_name_or_path="org/two")
    bases, pissa = compare_adapters(a, b).notes
    assert "org/one, org/two" in bases
    assert pissa.startswith("A: initialized with pissa")
    same = write(tmp_path / "c", factors, base_model_name_or_path="org/two")
    assert compare_adapters(b, same).notes == ()
