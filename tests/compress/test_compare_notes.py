"""What a comparison says beside its figures: other shapes, other bases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from factor_samples import random_factors, updates, write

from gradience.compare.adapters import compare_adapters


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
