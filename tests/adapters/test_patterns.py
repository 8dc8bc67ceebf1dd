"""rank_pattern and alpha_pattern: PEFT's own rule, and no way for a stranger's expression to hang the process."""

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gradience.adapters.patterns import (
    BUDGET_SECONDS,
    MAX_EXPRESSIONS,
    MAX_STEPS,
    Found,
    PatternTable,
    SavedNames,
    anchored_key,
)
from gradience.errors import InputError

PARTS = st.sampled_from(
    [
        "model",
        "layers",
        "0",
        "1",
        "11",
        "self_attn",
        "q_proj",
        "qxproj",
        "v_proj",
        "mlp",
        "a-b",
        "to_out",
        "x y",
        "é",
    ]
)
NAMES = st.lists(PARTS, min_size=1, max_size=5).map(".".join)
ATOMS = st.one_of(
    PARTS,
    st.sampled_from(
        [".", r"\.", "^", "$", "|", "(", ")", "(?:", ".*", ".+", r"\d+", "[01]", "[^.]", "?", "+", "*", "{2}", "{1,2}",
         "(?=q)", "(?!q)", r"\b", r"\w*", "(?P<l>", r"\Z", "(?i:Q_PROJ)", r"\1", "-", "_", "q", "1"]
    ),
)  # fmt: skip
KEYS = st.one_of(
    NAMES,
    NAMES.map(re.escape),
    NAMES.map(anchored_key),
    NAMES.map(lambda name: name + "$"),
    st.tuples(NAMES, NAMES).map("|".join),
    NAMES.map(lambda name: f"({name})"),
    st.lists(ATOMS, max_size=7).map("".join),
)


def peft_rule(entries, name):
    """What PEFT does with the entries: its own function, then its own look-up."""
    from peft.utils.other import get_pattern_key

    return entries.get(get_pattern_key(entries.keys(), name))


def is_expression(key):
    try:
        re.compile(rf"(.*\.)?({key})$")
    except re.error:
        return False
    return True


@pytest.fixture(autouse=True, scope="module")
def _peft_imported():
    """Importing it takes seconds, which no example should be blamed for."""
    import peft.utils.other  # noqa: F401


@pytest.mark.filterwarnings("ignore::FutureWarning")
@settings(max_examples=600)
@given(st.dictionaries(KEYS.filter(is_expression), st.integers(1, 64), max_size=5), NAMES)
@example({"q.proj": 1}, "model.qxproj")
@example({"a+b": 3}, "a+b")  # matches nothing as an expression: PEFT then takes the name as it is
@example({"1": 2}, "layers.11")
@example({"^q_proj": 2}, "model.q_proj")
@example({"q_proj)|(v_proj": 3}, "model.q_proj.x")
@example({"": 3}, "q_proj")
@example({"a|": 3}, "model.")
@example({"q_proj": 3, ".*": 4}, "model.v_proj")
@example({".*": 4, "q_proj": 3}, "model.q_proj")
def test_the_rule_of_peft(entries, name):
    table = PatternTable(entries)
    value = table.lookup(name)
    if value.certain:
        assert value.value == peft_rule(entries, name)
    else:
        assert table.skipped


def test_keys_that_applied_to_nothing():
    table = PatternTable({"q_proj": 1, "v_proj": 2, "k.*": 3})
    table.lookup("a.q_proj")
    assert table.unmatched == ["v_proj", "k.*"]


@pytest.mark.parametrize(
    "key",
    ["(a+)+$", "(a|a)*b", "(.*a){25}b", r"(a*)*\.b", "((a+)(a+))+x", "(a|aa)+$b"],
)
def test_an_expression_that_would_run_for_years_is_given_up(key):
    table = PatternTable({key: 8})
    started = time.process_time()
    names = [f"layers.{i}." + "a" * 60 + "!" for i in range(50)]
    rows = [table.lookup(name) for name in names]
    assert time.process_time() - started < BUDGET_SECONDS + 0.5
    if table.skipped:
        assert "more than 1 s" in table.skipped[key]
        assert not rows[-1].certain
    else:  # the engine is cleverer than the bomb
        assert all(item.certain for item in rows)


def test_no_more_expressions_than_an_adapter_may_have(monkeypatch):
    table = PatternTable({f"(?:{index})": 4 for index in range(20_000)})
    assert not table.lookup("q").certain
    assert len(table.skipped) == 1
    assert len(table._compiled) == MAX_EXPRESSIONS + 1
    assert f"more than {MAX_EXPRESSIONS} expressions" in next(iter(table.skipped.values()))
    assert table.lookup("7") == Found(4)


def test_no_more_comparisons_with_names_than_an_adapter_may_have():
    table = PatternTable({"." * dots + "a" * (40 - dots): 4 for dots in range(40)})
    table._budget.steps = 100
    assert table.lookup("b" * 40) == Found(None)
    assert table.lookup("xx" + "a" * 38) == Found(4)  # two dots
    assert table.lookup("b" * 40) == Found(None, certain=False)
    assert "comparisons" in next(iter(table.skipped.values()))
    saved = SavedNames("n" * length for length in range(1, 1000))
    saved._steps = MAX_STEPS - 5000
    assert saved.find("a.b.c.d") is None
    with pytest.raises(InputError, match="comparisons") as caught:
        saved.find("a.b.c.d")
    assert caught.value.code == "too-many-names"


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("(q", "not a regular expression"),
        ("*", "not a regular expression"),
        ("(?i)q", "not a regular expression"),
        (r"\p{L}", "not a regular expression"),
        ("(?<=a*)b", "not a regular expression"),
        ("[a-", "not a regular expression"),
        ("(?:" + "x" * 600 + ")", "longer than 512"),
        ("x" * 10**7, "longer than 512"),
        ("(?:a{1000}){1000}", "more than 1000 repeats"),
        ("((a{,99}){9,}){2}", "more than 1000 repeats"),
        ("(?:q_prox){e<=1}", "two engines"),
        ("[[:alpha:]]", "two engines"),
    ],
)
def test_keys_that_are_not_evaluated(key, reason):
    table = PatternTable({key: 4})
    assert table.lookup("model.q_proj") == Found(None, certain=False)
    assert reason in table.skipped[key]
