"""What is known of an evaluation before a model is loaded: names, margins."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradience.evaluate.adapters import short_names
from gradience.evaluate.forecast import margins_of


def test_margins_shrink_with_examples_and_grow_with_discordance_and_claims():
    few, many = margins_of(200, 1), margins_of(2_000, 1)
    assert all(a.margin > b.margin for a, b in zip(few, many, strict=True))
    assert sorted(each.margin for each in few) == [each.margin for each in few]
    assert all(a.margin > b.margin for a, b in zip(margins_of(200, 3), few, strict=True))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/runs/adapter", "/mine/adapter"], ["runs", "mine"]),
        (["/runs/a/adapter", "/mine/a/adapter", "/mine/b"], ["runs", "mine", "b"]),
        (["/mine/Adapter", "/mine/adapter/b", "/yours/adapter"], ["mine", "b", "yours"]),
        (["/small/adapter", "/mine/adapter", "/x/small"], ["small-adapter", "mine-adapter", "x-small"]),
        (["/x/base"], ["x-base"]),
        (["/base"], ["1-base"]),
    ],
)
def test_a_name_that_several_folders_share_gives_way_to_the_one_above(paths, names):
    assert short_names([Path(path) for path in paths]) == names
