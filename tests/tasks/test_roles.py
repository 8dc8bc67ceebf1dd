"""Examples get their role from their content: stable, disjoint, without duplicates."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradience.tasks import reviews
from gradience.tasks.examples import (
    PER_10_000,
    ROLES,
    Examples,
    LabeledExample,
    PromptExample,
    content_id,
    prepare_first,
    role_of,
)
from gradience.tasks.examples import prepare as prepare_examples
from gradience.tasks.scorers import room_for


def prepare(rows: list[tuple[str, int]]) -> Examples[LabeledExample]:
    """Examples from rows of (text, label), with the roles that their identities give them."""
    return prepare_examples(
        LabeledExample(content_id(text), text, label, role_of(content_id(text))) for text, label in rows
    )


def rows(count: int) -> list[tuple[str, int]]:
    return [(f"A film about number {number}.", number % 2) for number in range(count)]


def test_the_split_is_what_it_was_when_the_adapters_were_trained() -> None:
    # Change this and every published score is about other sentences.
    expected = {
        "Touché!": ("7d54967d1806e859", "train"),
        "A film about number 4.": ("0ec3074ce717d49a", "dev"),
        "A film about number 2.": ("571b143c379652b0", "confirm"),
    }
    assert {text: (content_id(text), role_of(content_id(text))) for text in expected} == expected


def test_roles_are_disjoint_complete_and_of_the_stated_size() -> None:
    examples = prepare(rows(20_000))
    by_role = {role: {example.id for example in examples.of(role)} for role in ROLES}
    assert sum(len(ids) for ids in by_role.values()) == len(set().union(*by_role.values())) == 20_000
    for role, ids in by_role.items():
        assert abs(len(ids) - 2 * PER_10_000[role]) < 300  # more than four standard deviations
    assert sum(PER_10_000.values()) == 10_000


@pytest.mark.parametrize(
    "other", ["a  FILM about number 3", "“A film, about number 3!”", "Á film about númber 3"]
)
def test_spellings_of_one_text_are_one_example(other: str) -> None:
    examples = prepare([("A film about number 3.", 1), (other, 1), ("Another film.", 0)])
    assert [example.text for example in examples.all if example.label] == ["A film about number 3."]
    assert examples.counts == {"rows": 3, "duplicates": 1, "conflicts": 0}


def test_a_text_with_two_labels_is_left_out_and_counted() -> None:
    examples = prepare([("Fine.", 1), ("fine", 0), ("FINE!", 1), ("Good.", 1)])
    assert [example.text for example in examples.all] == ["Good."]
    assert examples.counts == {"rows": 4, "duplicates": 0, "conflicts": 3}


@pytest.mark.parametrize("pair", [("कि", "का"), ("กิ", "กา")], ids=["Devanagari", "Thai"])
def test_vowel_signs_are_no_accents(pair: tuple[str, str]) -> None:
    assert content_id(pair[0]) != content_id(pair[1])


def test_the_fingerprint_sees_text_label_and_role() -> None:
    fingerprint = prepare(rows(50)).fingerprint("train")
    assert prepare(rows(50)).fingerprint("train") == fingerprint
    assert prepare(rows(50)).fingerprint("dev") != fingerprint
    assert prepare([(text, 1 - label) for text, label in rows(50)]).fingerprint("train") != fingerprint
    assert prepare([(text.upper(), label) for text, label in rows(50)]).fingerprint("train") != fingerprint


def test_reviews_are_read_with_their_labels_and_the_neutral_ones_counted(tmp_path: Path) -> None:
    path = tmp_path / "reviews.txt"
    lines = [
        "1\t2.5\tA joy from start to end.",
        "2\t-0.51\tDull.",
        "3\t0.5\tA film.",
        "4\t-1\tdull",
        "5\t3\tTouché!",
    ]
    path.write_bytes(("\r\n".join(lines) + "\r\n").encode())
    task = reviews.load(path)
    examples = task.examples
    assert {(example.text, example.label) for example in examples.all} == {
        ("A joy from start to end.", 1),
        ("Dull.", 0),
        ("Touché!", 1),
    }
    assert examples.counts == {"rows": 5, "duplicates": 1, "conflicts": 0, "neutral": 1}
    assert task.label_names[1] == "positive"


@given(
    rows=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 2)), max_size=120),
    limit=st.integers(1, 12),
)
def test_the_first_examples_are_those_of_a_reading_that_holds_all(rows, limit):
    """Duplicates, contradictions and the room of an output included, also where many of the first are left out."""
    examples = [PromptExample(content_id(f"{n}"), f"{n}", "x" * a, f"{a}", "train") for n, a in rows]
    whole, first = prepare_examples(examples), prepare_first(lambda: iter(examples), limit)
    assert (first.all, first.counts) == (whole.all[:limit], whole.counts)
    assert room_for(first) == room_for(whole)


def test_examples_that_were_dropped_come_back_where_the_first_contradict_each_other():
    rows = [(n, 0) for n in range(3000)]
    ordered = sorted(rows, key=lambda row: content_id(f"{row[0]}"))
    rows += [(n, 1) for n, _ in ordered[:600]]
    examples = [PromptExample(content_id(f"{n}"), f"{n}", "x", f"{a}", "train") for n, a in rows]
    assert prepare_first(lambda: iter(examples), 20).all == prepare_examples(examples).all[:20]
