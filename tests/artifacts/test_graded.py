"""The parts that hold evidence: their numbers are those of `gradience.statistics`, and a file gives them back."""

import doctest
from fractions import Fraction

import numpy as np
import pytest

from gradience.reports.base import graded
from gradience.reports.bench import PooledEvidence
from gradience.statistics.pooled import pool
from gradience.statistics.table import PairedTable


def test_the_examples_are_true() -> None:
    result = doctest.testmod(graded)
    assert result.attempted > 0
    assert result.failed == 0


def test_one_run_is_pooled_and_shows_nothing_of_a_new_run() -> None:
    table = PairedTable(n11=150, n10=12, n01=8, n00=30)
    differences = np.repeat([[-1, 1, 0]], [12, 8, 180], axis=1)
    evidence = PooledEvidence.of(pool(differences), Fraction("0.025"))
    assert evidence.these_runs.p_value == pytest.approx(pool(differences).p_value(0.025))
    assert evidence.over_trainings is None
    assert evidence.run_spread is None
    assert evidence.discordance == table.discordance == 0.1
