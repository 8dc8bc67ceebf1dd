"""Eight processes write the same at once: one wins or all are done, and nothing is mixed (R11)."""

from __future__ import annotations

import pytest

from hostile.crashing import answer_of
from hostile.figures import record


def test_eight_at_once_into_an_adapter_and_a_run(tmp_path):
    answer = answer_of("at_once", tmp_path, "--rounds", 1, "--writers", "compress", "audit --append")
    assert answer["problems"] == []
    assert answer["tally"]["exit 2"] == 7


@pytest.mark.hostile
def test_eight_at_once_into_everything_that_is_written(tmp_path):
    answer = answer_of("at_once", tmp_path, "--rounds", 5)
    assert answer["problems"] == []
    assert answer["tally"]["bench run"] == 1
    rounds = sum(count for name, count in answer["tally"].items() if not name.startswith("exit"))
    codes = {name: count for name, count in answer["tally"].items() if name.startswith("exit")}
    record("R11", "eight processes at once", rounds=rounds, **codes, seconds=round(answer["seconds"]))
