"""What a search fixes beforehand: its candidates, and the rows that choose where it starts."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest

import gradience
from gradience import audit_adapter
from gradience.shrink import plan as planning
from gradience.shrink.candidates import CandidateSource, halvings, plan_candidates
from gradience.shrink.plan import split
from gradience.tasks.examples import LabeledExample, content_id

EXAMPLE = Path(gradience.__file__).parent / "examples" / "minilm-reviews-r8"


def test_candidates_are_halvings_of_the_suggestion_that_make_something_smaller():
    source = CandidateSource(EXAMPLE, audit_adapter(EXAMPLE))
    assert source.audit.suggestions.p90.rank == source.rank == 8  # which makes nothing smaller
    candidates, notes = plan_candidates(source, None)
    assert [(candidate.name, candidate.params_saved) for candidate in candidates] == [
        ("rank4", 0.5),
        ("rank2", 0.75),
        ("rank1", 0.875),
    ]
    assert notes == ()
    given, notes = plan_candidates(source, [2, 16, 2, 8])
    assert [candidate.name for candidate in given] == ["rank2"]
    assert notes == ("left out because not smaller: rank 16, rank 8",)
    assert [halvings(rank) for rank in (1, 24)] == [(1,), (24, 12, 6, 3, 1)]


@pytest.mark.parametrize("count", [1, 2_000, 2_001, 3_000, 4_001])
def test_rows_beyond_2000_are_set_aside_at_most_half_by_what_they_hold(count):
    rows = [LabeledExample(content_id(f"row {n}"), f"row {n}", n % 2, "confirm") for n in range(count)]
    inputs = SimpleNamespace(examples=rows, role=None)
    assert split(inputs, 4) == (rows, (), None)
    test, dev, planned = split(inputs, 5)
    assert len(test) >= min(count, 2_000)
    assert len(dev) == max(0, min(count - 2_000, count // 2))
    assert {row.id for row in test} | {row.id for row in dev} == {row.id for row in rows}
    assert len(test) + len(dev) == count
    assert (planned is None) == (count <= 2_000)
    mixed = random.Random(0).sample(rows, count)
    again = split(SimpleNamespace(examples=mixed, role=None), 5)
    assert [{row.id for row in part} for part in again[:2]] == [
        {row.id for row in part} for part in (test, dev)
    ]


def test_a_task_gives_its_own_dev_examples(monkeypatch):
    monkeypatch.setattr(planning, "UNSPLIT", 10)
    rows = [LabeledExample(str(n), f"row {n}", 0, "confirm" if n < 12 else "dev") for n in range(100)]
    examples = SimpleNamespace(of=lambda role: tuple(row for row in rows if row.role == role))
    inputs = SimpleNamespace(examples=rows[:12], role="confirm", task=SimpleNamespace(examples=examples))
    test, dev, planned = split(inputs, 5)
    assert (len(test), len(dev), planned.source) == (12, 6, "task")
    assert {row.role for row in dev} == {"dev"}
