"""Sequential tests of a search: rows answered look by look, the repeated intervals, resuming, limits and growth."""

import json
import shutil
from fractions import Fraction
from itertools import pairwise

import adapters_to_compare as data
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from gradience import evaluate_adapters, shrink_adapter, verify
from gradience.card import card_of, read_evaluation
from gradience.evaluate.inputs import read_inputs
from gradience.evaluate.settings import EvaluateSettings
from gradience.files.records import read_records
from gradience.progress import Watcher
from gradience.reports.shrink import ShrinkPlan
from gradience.settings import call
from gradience.shrink.settings import ShrinkSettings
from gradience.statistics import sequential
from gradience.statistics.pooled import pool
from gradience.statistics.sequential import Look
from gradience.statistics.table import PairedTable

LOOKS = (20, 25, 30, 35, 40, 45, 50, 55, 60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return data.classifiers(tmp_path_factory.mktemp("classifiers"))


@pytest.fixture(autouse=True)
def looks_of_few_rows(monkeypatch):
    monkeypatch.setattr(sequential, "fewest_at_first_look", lambda margin: 20)
    monkeypatch.setattr(sequential, "FEWEST_BETWEEN", 5)


class Stopped(Exception):
    """What ends a search in these tests."""


class Count(Watcher):
    """Counts batches, and stops after some."""

    def __init__(self, stop=10**6):
        self.steps, self.stop = 0, stop

    def step(self, done, total):
        self.steps += 1
        if self.steps == self.stop:
            raise Stopped


def shrink(folder, output, **options):
    settings = {"base_model": folder / "base", "data": folder / "rows.csv", "device": "cpu", "batch_size": 7}
    settings |= {"margin": "20", "ranks": [2, 1], **options}
    return call(shrink_adapter, ShrinkSettings(folder / "reference", output, **settings))


def records(output):
    return {path.name: path.read_bytes() for path in (output / "records").glob("*.jsonl")}


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequential, "fewest_at_first_look", lambda margin: 20)
        patch.setattr(sequential, "FEWEST_BETWEEN", 5)
        return shrink(folder, output), output


def test_each_candidate_stops_at_its_look_and_has_the_repeated_interval(finished):
    report, output = finished
    assert report.plan.looks == ShrinkPlan.read(output / "plan.json").looks == LOOKS
    tested = [candidate.result for candidate in report.candidates if candidate.result is not None]
    assert report.reference.n == max(row.n for row in tested)
    assert report.control.result.n == LOOKS[0]
    answers = {name: [row.correct for row in read_records(output / "records" / f"{name}.jsonl").records]
               for name in (report.reference.name, *(row.name for row in tested))}  # fmt: skip
    for row in tested:
        look, theirs = Look(LOOKS, row.look.number), answers[row.name]
        assert len(theirs) == row.n == look.examples
        table = PairedTable.of(answers[report.reference.name][: row.n], theirs)
        assert row.pairs == table
        level = sequential.nominal_levels(LOOKS, 0.025)[look.number - 1]
        differences = np.subtract(theirs, answers[report.reference.name][: row.n], dtype=float)
        assert row.look.low == pytest.approx(pool([differences]).interval(confidence=1 - 2 * level).low)
        assert row.look.low < table.low  # the naive interval is shorter
        assert (row.grade == "B") == (row.bounds.low > -0.2) == (row.look.stopped == "shown")
        assert (row.bounds.p_value <= 0.05) == (row.grade == "B")
    assert len({row.n for row in tested} - {60}) > 0  # one at least has not needed all rows
    shown = report.to_text()
    assert f"{tested[0].n} (look {tested[0].look.number})" in shown
    look = LOOKS.index(report.reference.n) + 1
    assert f"{report.reference.n} of 60 rows (task classification), stopped at look {look} of 9" in shown
    fewer = [row for row in tested if row.n < report.reference.n]
    assert fewer
    assert all(f"{row.correct} vs {row.pairs.n11 + row.pairs.n10} " in shown for row in fewer)


def test_the_same_command_resumes_at_its_look(folder, finished, tmp_path):
    report, output = finished
    again = shutil.copytree(output, tmp_path / "again")
    count = Count()
    assert shrink(folder, again, watcher=count).candidates == report.candidates
    assert (count.steps, records(again)) == (0, records(output))
    whole = Count()
    shrink(folder, tmp_path / "whole", watcher=whole)
    with pytest.raises(Stopped):
        shrink(folder, tmp_path / "killed", watcher=Count(stop=whole.steps - 2))
    rest = Count()
    assert shrink(folder, tmp_path / "killed", watcher=rest).candidates == report.candidates
    assert rest.steps == 2
    assert records(tmp_path / "killed") == records(output)


def test_a_limit_stops_at_an_earlier_look_and_growth_is_a_change_of_the_plan(folder, tmp_path):
    output = tmp_path / "out"
    whole = shrink(folder, output, margin="1")
    assert whole.candidates[0].result.n > 25
    stopped = shrink(folder, output, margin="1", limit=25)
    row = stopped.candidates[0].result
    assert (row.n, row.look.stopped, row.grade) == (25, "limit", "C")
    assert stopped.plan.looks == LOOKS
    assert stopped.plan.changes == ()
    notes = []
    assert shrink(folder, output, margin="1", limit=5, note=notes.append).candidates[0].result.n == LOOKS[0]
    assert notes[-1].startswith("--limit 5 has no effect below 20: ")
    assert shrink(folder, output, margin="1").candidates == whole.candidates
    small = tmp_path / "small"
    assert shrink(folder, small, limit=40).plan.examples == 40
    (change,) = shrink(folder, small).plan.changes
    assert change.startswith("the examples were 40 at looks (")
    assert ", and are 60 at looks (" in change


def test_all_rows_are_answered_at_once_on_request(folder, tmp_path):
    report = shrink(folder, tmp_path / "out", all_rows=True)
    assert report.plan.looks == ()
    assert {candidate.result.n for candidate in report.candidates if candidate.result} == {60}
    assert report.candidates[0].result.look is None


def test_an_evaluation_shares_its_error_among_the_candidates(folder, tmp_path):
    given = [folder / name for name in ("reference", "other", "patterns")]
    options = {"base_model": folder / "base", "data": folder / "rows.csv", "device": "cpu", "margin": "30"}
    kept = evaluate_adapters(given, **options, output=tmp_path / "out", with_base=True)
    assert kept.looks == LOOKS
    reference, *candidates, base = kept.adapters
    assert reference.n == base.n == max(row.n for row in candidates)
    assert base.look.stopped is None
    for row in candidates:
        if row.look.stopped == "shown":
            assert row.bounds.p_value <= 0.025
        assert (row.grade == "B") == (row.adjusted_p <= 0.05 and row.bounds.low > -0.3)
    assert evaluate_adapters(given, **options, with_base=True).adapters[1].pairs == kept.adapters[1].pairs


def test_more_examples_without_looks_give_no_grade_above_c_either(folder, tmp_path):
    given, output = [folder / "reference", folder / "patterns"], tmp_path / "out"
    options = {"base_model": folder / "base", "data": folder / "rows.csv", "device": "cpu", "margin": "60"}
    first = evaluate_adapters(given, **options, output=output, all_rows=True, limit=40)
    grown = evaluate_adapters(given, **options, output=output, all_rows=True)
    assert (first.looks, first.candidates[0].grade, first.grown_from) == ((), "B", None)
    assert (grown.looks, grown.grown_from, grown.candidates[0].grade) == ((), 40, "C")
    assert verify(output).verdict == "consistent"


def test_more_examples_than_an_evaluation_planned_give_no_grade_above_c(folder, tmp_path):
    given, output = [folder / "reference", folder / "reference"], tmp_path / "out"
    given[1] = shutil.copytree(folder / "reference", tmp_path / "same")
    options = {"base_model": folder / "base", "data": folder / "rows.csv", "device": "cpu", "margin": "30"}
    first = evaluate_adapters(given, **options, output=output, limit=40)
    assert (first.looks[-1], first.candidates[0].grade, first.grown_from) == (40, "B", None)
    earlier = evaluate_adapters(given, **options, output=output, limit=22)
    assert earlier.looks == first.looks
    grown = evaluate_adapters(given, **options, output=output)
    assert (grown.looks, grown.grown_from, grown.candidates[0].grade) == (LOOKS, 40, "C")
    assert "exploratory" in grown.candidates[0].reason
    assert "40 examples were planned, and there are 60 now" in grown.to_text()
    verified = verify(output)
    assert (verified.verdict, verified.level) == ("consistent", "L2")


def test_a_margin_changed_after_answers_gives_no_grade_above_c(folder, tmp_path):
    given, output = [folder / "reference", folder / "reference"], tmp_path / "out"
    given[1] = shutil.copytree(folder / "reference", tmp_path / "similar")
    weights = load_file(given[1] / "adapter_model.safetensors")
    changed = {name: 1.0001 * tensor for name, tensor in weights.items()}
    save_file(changed, given[1] / "adapter_model.safetensors", {"format": "pt"})
    options = {"base_model": folder / "base", "data": folder / "rows.csv", "device": "cpu"}
    first = evaluate_adapters(given, **options, output=output, margin="1.5")
    assert (first.candidates[0].grade, first.first_margin) == ("C", None)
    wider = evaluate_adapters(given, **options, output=output, margin="30")
    assert (wider.candidates[0].grade, wider.first_margin) == ("C", Fraction("0.015"))
    said = "the margin was 1.50 points when the first answers were saved, and is 30.00 points now"
    assert said in " ".join(wider.to_text().split())
    assert said in card_of(given[1], read_evaluation(output / "evaluation.json")).block
    assert (verify(output).verdict, verify(output).level) == ("consistent", "L2")
    document = json.loads((output / "evaluation.json").read_text())
    del document["first_margin"]
    (output / "evaluation.json").write_text(json.dumps(document))
    assert any(mismatch.field == "first_margin" for mismatch in verify(output).mismatches)
    elsewhere = evaluate_adapters(given, **options, output=tmp_path / "elsewhere", margin="30")
    assert (elsewhere.candidates[0].grade, elsewhere.first_margin) == ("B", None)


def test_a_look_ends_with_a_whole_group(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sequential, "fewest_at_first_look", lambda margin: 5)
    rows = (folder / "rows.csv").read_text().splitlines()
    lines = [f"{row},{'group' if place == 0 else place // 4}" for place, row in enumerate(rows)]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    given = read_inputs(
        EvaluateSettings(
            [folder / "reference", folder / "other"], base_model=folder / "base", margin="20",
            data=tmp_path / "rows.csv", group="group",
        )
    )  # fmt: skip
    groups = [given.group_of[example.id] for example in given.examples]
    assert len(given.looks) > 1
    for look in given.looks[:-1]:
        assert not {*groups[:look]} & {*groups[look:]}
    assert len({*groups}) == sum(a != b for a, b in pairwise([None, *groups]))
