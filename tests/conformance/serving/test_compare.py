"""The comparison must not let through what it exists to catch."""

import pytest

from conformance.serving.compare import MOVES, TOLERANCE, compare

BASE = [[-1.0, -2.0], [-3.0, -0.5]]


def shifted(by):
    return [[value + by for value in row] for row in BASE]


OUTCOMES = {
    "within-tolerance": (shifted(1.0), shifted(1.0 + TOLERANCE / 2), "equal"),
    "just-outside": (shifted(1.0), shifted(1.0 + 2 * TOLERANCE), "differs"),
    "half-the-scale": (shifted(1.0), shifted(0.5), "differs"),
    "left-out-silently": (shifted(1.0), BASE, "no effect"),
    "hardly-moves-the-base": (shifted(MOVES / 2), shifted(MOVES / 2), "void"),
    "does-not-move-the-base": (BASE, BASE, "void"),
    "nothing-to-compare-with": (None, shifted(1.0), "void"),
}


@pytest.mark.parametrize(("peft", "served", "outcome"), OUTCOMES.values(), ids=OUTCOMES)
def test_outcomes(peft, served, outcome):
    assert compare(peft=peft, base=BASE, served=served).outcome == outcome


def test_a_refusal_keeps_its_words():
    comparison = compare(peft=shifted(1.0), base=BASE, served=None, refusal="ValueError: no")
    assert comparison[:2] == ("refused", None)
    assert comparison.refusal == "ValueError: no"


def test_one_wrong_token_of_one_prompt_is_enough():
    served = shifted(1.0)
    served[1][0] += 0.01
    comparison = compare(peft=shifted(1.0), base=BASE, served=served)
    assert (comparison.outcome, comparison.difference) == ("differs", pytest.approx(0.01))
