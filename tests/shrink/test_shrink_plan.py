"""What a search fixes beforehand: its candidates."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records_sample import NO, YES, labeled, run_of

import gradience
from gradience.adapters.formats import open_adapter
from gradience.audit.adapter import audit_opened
from gradience.evaluate.adapters import AdapterInput
from gradience.evaluate.evaluator import AdapterAnswers
from gradience.files.records import Evaluation
from gradience.reports.shrink import PlannedCandidate
from gradience.shrink.candidates import CandidateSource, halvings, plan_candidates
from gradience.shrink.search import candidates_of, results_on
from gradience.statistics.pooled import pool

EXAMPLE = Path(gradience.__file__).parent / "examples" / "minilm-reviews-r8"


def test_candidates_are_halvings_of_the_suggestion_that_make_something_smaller():
    with open_adapter(EXAMPLE) as opened:
        source = CandidateSource(opened, audit_opened(opened))
        candidates, notes = plan_candidates(source, None)
        given, given_notes = plan_candidates(source, [2, 16, 2, 8])
    assert source.audit.suggestions.p90.rank == source.rank == 8  # which makes nothing smaller
    assert [(candidate.name, candidate.params_saved) for candidate in candidates] == [
        ("rank4", 0.5),
        ("rank2", 0.75),
        ("rank1", 0.875),
    ]
    assert notes == ()
    assert [candidate.name for candidate in given] == ["rank2"]
    assert given_notes == ("left out because not smaller: rank 16, rank 8",)
    assert [halvings(rank) for rank in (1, 24)] == [(1,), (24, 12, 6, 3, 1)]


# ---------------------------------------------------------------- The candidates in order


IDENTITY = SimpleNamespace(weights_sha256="w", config_sha256="c")


def answers(name, right):
    """Two labels, the first of which is correct."""
    records = tuple(labeled(place, 0, NO if good else YES) for place, good in enumerate(right))
    adapter = AdapterInput(name, name, IDENTITY, (1, 1), 1, 0, None, {})
    return AdapterAnswers(adapter, Evaluation(run_of(adapter=name, n=len(right)), records))


@dataclass
class Kept:
    """An evaluation whose answers are known; remembers which were asked for."""

    known: dict
    margin: Fraction
    asked: list = field(default_factory=list)

    @property
    def inputs(self):
        reference, nothing = self.known["reference"].adapter, {"task": None, "group_of": {}, "looks": ()}
        by = dict.fromkeys(("likelihoods", "compares_nll", "by_agreement"), False)
        return SimpleNamespace(margin=self.margin, reference=reference, **nothing, **by)

    def reference(self):
        return self.known["reference"]

    def stops(self, row):
        return True

    def candidate(self, name, stops):
        self.asked.append(name)
        return self.known[name]


@st.composite
def cases(draw):
    n = draw(st.integers(2, 60))
    reference = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    known = {"reference": answers("reference", reference)}
    for rank in range(draw(st.integers(1, 5)), 0, -1):
        flipped = draw(st.sets(st.integers(0, n - 1), max_size=6))
        right = [value != (place in flipped) for place, value in enumerate(reference)]
        known[f"rank{rank}"] = answers(f"rank{rank}", right)
    return known, draw(st.sampled_from(["0.025", "0.1", "0.3"]))


@settings(max_examples=50)
@given(cases())
def test_the_sequence_stops_at_the_first_that_a_plain_count_does_not_show(case):
    known, margin = case
    asked, names = Kept(known, Fraction(margin)), [name for name in known if name != "reference"]
    candidates = tuple(
        PlannedCandidate(
            name=name, kind="truncated", rank=int(name[4:]), lora_params=1, params_saved=0.5, kept_energy=1
        )
        for name in names
    )
    results = results_on(asked, candidates, lambda candidate: candidate.name)
    by_name = results.tested
    tested = list(by_name.values())
    right = {name: [row.correct for row in one.answers.records] for name, one in known.items()}
    pooled = {name: pool([np.subtract(right[name], right["reference"], dtype=float)]) for name in names}
    p_values = [pooled[name].p_value(float(margin)) for name in names]
    shown = next((place for place, value in enumerate(p_values) if value > 0.05), len(names))
    assert asked.asked == names[: shown + 1]
    assert [each.grade == "B" for each in tested] == [True] * shown + [False] * (len(tested) - shown)
    assert [each.adjusted_p for each in tested] == pytest.approx(
        [max(p_values[: place + 1]) for place in range(len(tested))]
    )
    plan = SimpleNamespace(
        candidates=candidates,
        margin=Fraction(margin),
        compares="correct",
        changes=(),
    )
    plan.sets = (plan,)
    rows = candidates_of(plan, [results])
    below = ["not tested"] * (len(names) - shown - 1)
    assert [row.status for row in rows][shown + 1 :] == below
    if shown < len(names):
        worse = pooled[names[shown]].interval().high < -float(margin)
        assert rows[shown].status == ("worse" if worse else "inconclusive")
        assert bool(rows[shown].needs) == (rows[shown].status == "inconclusive")
