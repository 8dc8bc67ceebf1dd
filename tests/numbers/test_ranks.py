"""Evidence is rounded up, never argued down, and never above what was allocated."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradience import ranks
from gradience.ranks import max_lora_rank_step, percentile, round_up, scaled_alpha

grids = st.lists(st.integers(1, 1024), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("evidence", "ceiling", "expected"),
    [
        (1, 64, (1, "evidence")),
        (16, 64, (16, "evidence")),
        (17, 64, (32, "grid")),
        (16.1, 64, (32, "grid")),
        (58, 64, (64, "grid")),
        (3.5, 64, (4, "evidence")),
        (20, 24, (24, "cap")),
        (24, 24, (24, "cap")),
        (5, 6, (6, "cap")),
        (2, 2, (2, "evidence")),
        (1, 1, (1, "evidence")),
    ],
)
def test_worked_examples_on_powers_of_two(evidence, ceiling, expected):
    assert round_up(evidence, ranks.DEFAULT_GRID, ceiling=ceiling) == expected


@given(st.floats(1, 512), grids, st.integers(1, 512))
def test_rounding_covers_the_evidence_with_the_smallest_allowed_rank(evidence, grid, ceiling):
    evidence = min(evidence, float(ceiling))
    rank, decided_by = round_up(evidence, grid, ceiling=ceiling)
    assert evidence <= rank <= ceiling
    smaller = [allowed for allowed in grid if evidence <= allowed < rank]
    assert not smaller
    assert (decided_by == "cap") == (rank == ceiling and rank not in [a for a in grid if a >= evidence])
    assert (decided_by == "evidence") == (decided_by != "cap" and rank == math.ceil(evidence))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.integers(0, 100))
def test_percentile_is_that_of_numpy(values, percent):
    expected = float(np.percentile(values, percent, method="linear"))
    assert float(percentile(values, percent)) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@given(st.lists(st.integers(1, 512), min_size=1, max_size=60), st.sampled_from([50, 90]))
def test_a_percentile_of_integers_is_exact(values, percent):
    """Against the definition in whole numbers: hundredths of the distance between two order statistics."""
    low, hundredths = divmod((len(values) - 1) * percent, 100)
    ordered = [*sorted(values), 0]
    expected = ordered[low] * (100 - hundredths) + ordered[low + 1] * hundredths
    assert percentile(values, percent) * 100 == expected


def test_a_percentile_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one value"):
        percentile([], 50)


@pytest.mark.parametrize(
    ("rank", "step"),
    [(1, 1), (2, 8), (8, 8), (9, 16), (48, 64), (129, 256), (257, 320), (321, 512), (512, 512), (513, None)],
)
def test_the_step_that_vllm_permits(rank, step):
    assert max_lora_rank_step(rank) == step


@pytest.mark.parametrize(
    ("alpha", "rank", "new", "rslora", "expected"),
    [
        (128, 64, 8, False, 16),
        (16, 8, 3, False, 6),
        (1, 8, 3, False, 0.375),
        (16, 64, 16, True, 8),
        (16, 8, 4, True, 16 / math.sqrt(2)),
    ],
)
def test_alpha_for_a_new_rank(alpha, rank, new, rslora, expected):
    kept = scaled_alpha(alpha, rank, new, use_rslora=rslora)
    assert kept == pytest.approx(expected)
    assert isinstance(kept, int) == float(expected).is_integer()


@given(st.floats(1e-3, 1e5), st.integers(1, 512), st.integers(1, 512), st.booleans())
def test_the_scale_stays_what_it_was(alpha, rank, new, rslora):
    def scale(alpha, rank):
        return alpha / math.sqrt(rank) if rslora else alpha / rank

    assert scale(scaled_alpha(alpha, rank, new, use_rslora=rslora), new) == pytest.approx(scale(alpha, rank))
