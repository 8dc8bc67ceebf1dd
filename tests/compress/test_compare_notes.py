"""What a comparison says beside its figures: independent runs, other shapes, other bases, truncations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from factor_samples import random_factors, updates, write

from gradience.compare.adapters import compare_adapters

# ---------------------------------------------------------------- are two runs independent?


def run(seed: int, start: int, *, trained: float = 1.0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A trained adapter: A moves a little from its random start, B is learned from the data that `seed` shuffles."""
    begin, learn = np.random.default_rng(start), np.random.default_rng([seed, 1])
    return {
        f"model.layers.{i}.q_proj": (
            begin.standard_normal((8, 64)) + 0.3 * learn.standard_normal((8, 64)),
            trained * learn.standard_normal((48, 8)),
        )
        for i in range(6)
    }


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        (run(1, 1), run(2, 2), "independent"),
        (run(1, 1), run(2, 1), "same-start"),
        (run(1, 1), {k: (a + 0.02, b * 1.01) for k, (a, b) in run(1, 1).items()}, "near-copies"),
        (run(1, 1), {k: (-a, -b) for k, (a, b) in run(1, 1).items()}, "near-copies"),
        (run(1, 1), {k: (a[::-1], b[:, ::-1]) for k, (a, b) in run(1, 1).items()}, "near-copies"),
        (run(1, 1), run(2, 2, trained=0.0), "not-comparable"),
    ],
    ids=["seeds-and-data", "same-seed", "warm-start", "signs-turned", "components-permuted", "untrained"],
)
def test_verdicts(one, other, verdict, tmp_path):
    report = compare_adapters(write(tmp_path / "a", one), write(tmp_path / "b", other))
    assert report.replicates.verdict == verdict
    assert report.replicates.reason
    if verdict == "same-start":
        assert report.replicates.cosine_lora_A_median > 0.8
        assert report.replicates.cosine_lora_B_median < 0.2


# ---------------------------------------------------------------- what stands beside the figures


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


@pytest.mark.parametrize("change", ["scaled", "trained on", "another run", "fewer directions"])
def test_what_is_no_truncation(tmp_path, change):
    factors = random_factors(5, (8, 40, 30), (8, 24, 36))
    other = random_factors(9, (8, 40, 30), (8, 24, 36))
    changed = {
        "scaled": {name: (0.99 * down, up) for name, (down, up) in factors.items()},
        "trained on": {
            name: (down + 0.05 * other[name][0], up + 0.05 * other[name][1])
            for name, (down, up) in factors.items()
        },
        "another run": {name: (1e-3 * down, up) for name, (down, up) in other.items()},
        "fewer directions": {name: (down[:4], up[:, :4]) for name, (down, up) in other.items()},
    }[change]
    report = compare_adapters(write(tmp_path / "a", factors), write(tmp_path / "b", changed))
    assert report.replicates.verdict != "truncation"
