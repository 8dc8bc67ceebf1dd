"""What a search fixes beforehand: its candidates."""

from __future__ import annotations

from pathlib import Path

import gradience
from gradience import audit_adapter
from gradience.shrink.candidates import CandidateSource, halvings, plan_candidates

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
