"""Answers as bits: exact, in a stated order, and nothing else is read as answers."""

import base64
import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradience.files import packed
from gradience.files.packed import pack, unpack


def test_the_examples_are_true() -> None:
    assert doctest.testmod(packed).failed == 0


@given(st.lists(st.booleans(), max_size=200))
def test_it_is_numpys_packing_in_base64(correct: list[bool]) -> None:
    text = pack(correct)
    assert base64.b64decode(text) == np.packbits(np.array(correct, dtype=bool)).tobytes()
    assert unpack(text, len(correct)) == tuple(correct)


@pytest.mark.parametrize(
    ("text", "n"),
    [("gYA=", 8), ("gYA=", 17), ("gYE=", 9), ("gYA", 9), ("g\nYA=", 9), ("", 1), ("AA==", 0)],
    ids=["too long", "too short", "padding set", "no base64", "a line end", "empty", "no examples"],
)
def test_anything_else_is_refused(text: str, n: int) -> None:
    with pytest.raises(ValueError, match=r"answers"):
        unpack(text, n)
