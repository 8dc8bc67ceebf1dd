"""What counts as correct: SQuAD's normal form, the last number, an occurrence, a pattern within its time."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradience.errors import GradienceError, InputError
from gradience.tasks.scorers import SCORERS, matching, plain, scorer_of


def correct(name: str, output: str, gold: str, pattern: str | None = None) -> bool:
    scorer = scorer_of(name, pattern)
    extracted = scorer.extract(output)
    return extracted is not None and scorer.same(extracted, gold)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Punctuation is taken out, not made a blank, and before the articles: as SQuAD's normalize_answer does.
        ("The Denver Broncos!", "denver broncos"),
        ("  an   apple, a day ", "apple day"),
        ("Saint-Denis", "saintdenis"),
        ("the-cat", "thecat"),
        ("Theatre", "theatre"),
        ("A. B. C.", "b c"),
        ("$1,080.50", "108050"),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation is known
        ("the", ""),
    ],
)
def test_the_normal_form_of_squad(text, expected):
    assert plain(text) == expected


@pytest.mark.parametrize(
    ("name", "output", "gold", "expected"),
    [
        ("exact", " Paris\n", "Paris", True),
        ("exact", "paris", "Paris", False),
        ("exact", "Paris.", "Paris", False),
        ("exact", "", "Paris", False),
        ("normalized", "the PARIS.", "Paris", True),
        ("normalized", "Paris, France", "Paris", False),
        ("contains", "It is paris, France", "Paris", True),
        ("contains", "Par is", "Paris", False),
        ("contains", "", "Paris", False),
        ("number", "so 1,080 in all.", "1080", True),
        ("number", "12 or 13", "12", False),
    ],
)
def test_worked_examples(name, output, gold, expected):
    assert correct(name, output, gold) is expected


@given(st.text("1,.$#- \nx", max_size=30), st.text("1,.$#- \nx", max_size=30))
def test_numbers_are_compared_as_the_patterns_of_lm_eval_compare_them(extracted, gold):
    def plain(text):
        for pattern in (",", r"\$", r"(?s).*#### ", r"\.$"):
            text = re.sub(pattern, "", text)
        return text.lower()

    assert SCORERS["number"].same(extracted, gold) is (plain(extracted) == plain(gold))


@pytest.mark.parametrize("text", ["1,", "1", ".", "-", "$", "#", "#### ", "-1 "])
@pytest.mark.parametrize("name", ["exact", "normalized", "contains", "number"])
def test_a_scorer_takes_linear_time(name, text):
    started = time.process_time()
    correct(name, text * 100_000 + "2", "1")
    SCORERS[name].same(text * 100_000, text * 99_999)
    assert time.process_time() - started < 2


def test_one_group_extracts_and_without_one_the_whole_match():
    assert matching(r"#### (\S+)")("x #### 12 #### 13") == "12"
    assert matching(r"#### \S+")("x #### 12") == "#### 12"
    assert matching(r"#### (\S*)")("####  ") is None
    assert matching(r"(?s).*(?:is|=) (\d+)")("it is 3\nor = 4") == "4"
    assert correct("regex", "answer: B", "B", pattern=r"answer: ([A-D])")


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(", "not a regular expression"),
        ("(a)(b)", "2 groups"),
        ("(a{1000}){1000}", "more than 1000 repeats"),
        ("a" * 600, "longer than 512 characters"),
    ],
)
def test_a_pattern_that_is_none(pattern, why):
    with pytest.raises(GradienceError, match=why) as caught:
        matching(pattern)
    assert (caught.value.code, caught.value.exit_code) == ("task-pattern", 2)


def test_a_pattern_that_takes_for_ever_ends_and_decides_nothing(monkeypatch):
    monkeypatch.setattr("gradience.tasks.scorers.PATTERN_SECONDS", 0.05)
    with pytest.raises(InputError, match=r"takes more than 0\.05 s on an output of 61 characters"):
        matching(r"^(?:a|aa)+b")("a" * 61)


@pytest.mark.parametrize(("name", "pattern"), [("regex", None), ("exact", "a")])
def test_a_pattern_belongs_to_regex(name, pattern):
    with pytest.raises(GradienceError) as caught:
        scorer_of(name, pattern)
    assert caught.value.code == "task-scorer"
