"""Sums and differences: what counts as an answer, and questions that are the same on every machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradience.errors import MissingExtra, UsageError
from gradience.tasks import arithmetic
from gradience.tasks.examples import ROLES

NEEDED = "needs the extra `demo`: make conformance installs it"
CASES: dict[str, tuple[str, str | None, str | None]] = {
    # name: (output, leading, flexible)
    "trained": (" 16", "16", "16"),
    "negative": (" -82", "-82", "-82"),
    "goes-on": (" 16, I think", "16", "16"),
    "sentence": (" 16.", "16", "16"),
    "explains-first": (" 12 + 4 = 16", "12", "16"),
    "words-first": (" The answer is -16", None, "-16"),
    "difference-is-no-sign": ("16-3", "16", "3"),
    "spaced-difference-is-no-sign": ("16 - 3", "16", "3"),
    "decimals-are-another-number": ("16.5", None, None),
    "thousands-are-another-number": ("1,600", None, None),
    "list": ("16, 17", "16", "17"),
    "leading-zeros": (" 016", "016", "016"),
    "minus-alone": (" -", None, None),
    "empty": ("", None, None),
    "digits-of-another-script": ("٣", None, None),
}


@pytest.mark.parametrize(("output", "leading", "flexible"), CASES.values(), ids=CASES)
def test_filters(output, leading, flexible):
    assert arithmetic.leading(output) == leading
    assert arithmetic.flexible(output) == flexible


@given(st.integers(), st.integers(), st.integers(0, 3))
def test_numbers_are_the_same_when_they_are_equal(one, other, zeros):
    padded = str(one).replace("-", "").zfill(len(str(abs(one))) + zeros)
    assert arithmetic.same(("-" if one < 0 else "") + padded, str(one))
    assert arithmetic.same(str(one), str(other)) is (one == other)


def test_without_the_generator_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingExtra) as caught:
        arithmetic.load()
    assert caught.value.hint == 'in your clone of Gradience: pip install ".[demo]"'


@pytest.mark.parametrize("least", [{"min_terms": 4}, {"min_digits": 3}], ids=str)
def test_a_minimum_above_its_maximum(least):
    with pytest.raises(UsageError, match="is greater than") as caught:
        arithmetic.load(**least)
    assert caught.value.code == "task-range"


# --- what is generated (reasoning-gym builds C code, so only `make conformance` is sure to have it) ----


@pytest.fixture(scope="module")
def task():
    pytest.importorskip("reasoning_gym", reason=NEEDED)
    return arithmetic.load()


def test_another_process_makes_the_same_questions(task):
    code = (
        "from gradience.tasks import arithmetic; task = arithmetic.load();"
        " print(*map(task.examples.fingerprint, ('train', 'dev', 'confirm')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [task.examples.fingerprint(role) for role in ROLES]
