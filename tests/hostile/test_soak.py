"""Many audits in one process: memory and open files stay as they are (R12)."""

from __future__ import annotations

import factory
import pytest

from hostile.crashing import answer_of
from hostile.figures import record

KB = 1024


def flat(answer):
    assert answer["late files"] == answer["early files"]
    assert answer["late bytes"] - answer["early bytes"] < 4096 * KB
    return answer


def test_three_hundred_audits_in_one_process(tmp_path):
    """A leak of 15 kB an audit would be noticed."""
    flat(answer_of("soak", factory.adapter(tmp_path, factory.modules()), 300))


@pytest.mark.hostile
def test_ten_thousand_audits_in_one_process(tmp_path):
    """A leak of 500 bytes an audit would be noticed."""
    answer = flat(answer_of("soak", factory.adapter(tmp_path, factory.modules()), 10_000))
    growth = (answer["late bytes"] - answer["early bytes"]) // KB
    record(
        "R12",
        "audits in one process",
        audits=10_000,
        **{"growth, kB": growth},
        seconds=round(answer["seconds"]),
    )
