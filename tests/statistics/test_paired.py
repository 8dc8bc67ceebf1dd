"""Tango's interval against published examples, the constrained likelihood maximized numerically, and enumeration."""

import doctest
import importlib
import math
import pkgutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from data_files import write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from scipy.stats import beta

from gradience import compare_logs, statistics
from gradience.errors import InputError, UsageError
from gradience.statistics.groups import joined, spelling_key
from gradience.statistics.paired import (
    largest_share,
    mcnemar,
    mean_difference,
    most_changed,
    p_value,
    score,
    score_variance,
    tango,
)
from gradience.statistics.sequential import plan_looks
from gradience.statistics.table import PairedTable


def test_the_interval_published_by_agresti_and_min_in_2005() -> None:
    assert tango(PairedTable(n11=53, n10=8, n01=16, n00=9)) == pytest.approx((-0.020, 0.207), abs=5.1e-4)


def numerical_variance(gained: int, lost: int, n: int, null: float) -> float:
    """The variance under Δ = null, P(only the reference correct) by a search for the largest likelihood."""

    def negative(only_reference: float) -> float:
        only_candidate = only_reference + null
        both = 1 - only_reference - only_candidate
        terms = [(lost, only_reference), (gained, only_candidate), (n - gained - lost, both)]
        return -sum(count * math.log(max(share, 1e-300)) for count, share in terms if count)

    low, high = max(0.0, -null), (1 - null) / 2
    best = optimize.minimize_scalar(negative, bounds=(low, high), method="bounded", options={"xatol": 1e-12})
    return (2 * best.x + null - null**2) / n


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 200), st.floats(-0.3, 0.3))
def test_the_closed_form_is_the_constrained_maximum_of_the_likelihood(
    gained: int, lost: int, rest: int, null: float
) -> None:
    n = gained + lost + rest
    expected = numerical_variance(gained, lost, n, null)
    assert score_variance(gained, lost, n, null) == pytest.approx(expected, rel=1e-4, abs=1e-9)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 400), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_the_bounds_are_where_the_test_turns(gained: int, lost: int, rest: int, confidence: float) -> None:
    table = PairedTable(n11=rest, n10=lost, n01=gained, n00=0)
    low, high = tango(table, confidence)
    quantile = stats.norm.isf((1 - confidence) / 2)
    assert -1 <= low <= float(table.delta) <= high <= 1
    assert score(gained, lost, table.n, low) == pytest.approx(quantile, abs=1e-4) or low == -1
    assert score(gained, lost, table.n, high) == pytest.approx(-quantile, abs=1e-4) or high == 1
    mirrored = tango(PairedTable(n11=rest, n10=gained, n01=lost, n00=0), confidence)
    assert mirrored == pytest.approx((-high, -low), abs=1e-8)


@pytest.mark.parametrize("n", [50, 100, 200, 400])
def test_without_a_discordant_pair_the_bound_shrinks_with_the_examples(n: int) -> None:
    low, high = tango(PairedTable(n11=n, n10=0, n01=0, n00=0), confidence=0.90)
    square = stats.norm.isf(0.05) ** 2
    assert (low, high) == pytest.approx((-square / (n + square), square / (n + square)))


def test_mcnemar_is_the_sign_test() -> None:
    assert mcnemar(PairedTable(n11=10, n10=9, n01=1, n00=3)) == pytest.approx(
        2 * sum(math.comb(10, k) for k in (0, 1)) / 2**10
    )
    assert mcnemar(PairedTable(n11=10, n10=0, n01=0, n00=3)) == 1.0


@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=50).filter(lambda values: float(np.std(values)) > 1e-6)
)
def test_mean_difference_is_scipys(differences: list[float]) -> None:
    expected = stats.ttest_1samp(differences, 0.0).confidence_interval(0.9)
    assert mean_difference(differences, 0.9) == pytest.approx(
        (expected.low, expected.high), rel=1e-9, abs=1e-12
    )


def test_a_table_counts_answers() -> None:
    table = PairedTable.of([True, True, False, False, True], [True, False, True, False, True])
    assert table == PairedTable(n11=2, n10=1, n01=1, n00=1)
    assert (table.n, table.delta, table.discordance) == (5, Fraction(0), 0.4)
    with pytest.raises(ValueError, match="argument 2"):
        PairedTable.of([True], [True, False])
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        PairedTable(n11=-1, n10=0, n01=0, n00=0)
    with pytest.raises(ValueError, match="at least one"):
        tango(PairedTable(n11=0, n10=0, n01=0, n00=0))


# ---------------------------------------------------------------- The bound on the share of changed answers


@pytest.mark.parametrize(("changed", "n"), [(0, 198), (8, 1000), (9, 1000), (30, 40), (40, 40)])
def test_at_one_look_the_bound_is_that_of_clopper_and_pearson(changed, n):
    bound = 1.0 if changed == n else beta.ppf(0.95, changed + 1, n - changed)
    assert largest_share(changed, [n]) == pytest.approx(bound, abs=1e-8)


@pytest.mark.parametrize("share", [0.01, 0.025, 0.1])
def test_the_error_over_all_looks_is_at_most_the_level(share):
    looks = plan_looks(1200, 200)
    most = most_changed(looks, share, 0.05)
    answers = np.random.default_rng(0).random((20_000, 1200)) < share
    changed = answers.cumsum(axis=1)[:, np.array(looks) - 1]
    claimed = (changed <= most).any(axis=1).mean()
    assert 0.03 < claimed < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 20_000)


def test_bound_p_value_and_number_agree():
    looks, planned = (300, 500), 1000
    (_, most) = most_changed(looks, 0.02, 0.05, planned)
    for changed in (most, most + 1):
        ruled_out = changed <= most
        assert (p_value(changed, looks, 0.02, planned) <= 0.05) == ruled_out
        assert (largest_share(changed, looks, 0.05, planned) <= 0.02) == ruled_out


# ---------------------------------------------------------------- Groups of examples


def test_spellings_share_a_key_and_other_texts_do_not() -> None:
    spellings = ["What's 1.5 + 2?", "what's 1.5 + 2", "WHAT’S  1.5 + 2 !", "(What's 1.5 + 2.)"]
    assert len({spelling_key(text) for text in spellings}) == 1
    others = ["What's 15 + 2?", "What's 1.5 - 2?", "What's 1.5 + 3?", "How's 1.5 + 2?"]
    assert len({spelling_key(text) for text in (*others, spellings[0])}) == 5


def test_groups_join_through_any_key() -> None:
    assert joined([None, None, None]) == (0, 1, 2)
    assert joined(["d1", "d1", "d2", "d3"], ["x", "y", "y", "z"]) == (0, 0, 0, 1)


def logs(folder: Path, texts: int, spellings: int) -> list[Path]:
    """Two tables of equal answers: each text in several spellings."""
    ends = ["", "!", "?", " .", "…", "!!", " ?", ";", ":", " !"]
    rows = [
        {
            "id": f"{text}.{end}",
            "prompt": f"Question {text}: what is it{ends[end]}",
            "document": f"d{text // 2}",
        }
        for text in range(texts)
        for end in range(spellings)
    ]
    paths = [folder / "a.jsonl", folder / "b.jsonl"]
    for path in paths:
        write_jsonl(path, ({**row, "score": 1} for row in rows))
    return paths


def test_forty_texts_in_ten_spellings_earn_no_b(tmp_path: Path) -> None:
    report = compare_logs(*logs(tmp_path, 40, 10))
    assert (report.n, report.groups, report.grade) == (400, 40, "C")
    assert "400 examples are 40 independent ones: the others are spellings of the same text" in report.notes
    apart = compare_logs(*logs(tmp_path, 400, 1))
    assert (apart.n, apart.groups, apart.grade) == (400, None, "B")


def test_a_column_of_documents_makes_groups(tmp_path: Path) -> None:
    a, b = logs(tmp_path, 200, 1)
    assert compare_logs(a, b).grade == "B"
    report = compare_logs(a, b, group="document")
    assert (report.groups, report.grouped_by, report.grade) == (100, "document", "C")
    with pytest.raises(InputError, match="no group in `documents`"):
        compare_logs(a, b, group="documents")


def test_one_group_is_no_sample(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="all examples belong to one group"):
        compare_logs(*logs(tmp_path, 1, 10))


# ---------------------------------------------------------------- The examples in the docstrings


MODULES = [module.name for module in pkgutil.iter_modules(statistics.__path__)]


@pytest.mark.parametrize("module", MODULES)
def test_examples(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"gradience.statistics.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
