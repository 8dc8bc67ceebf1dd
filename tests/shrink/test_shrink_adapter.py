"""`shrink_adapter`: what it writes, against PEFT and a plain recount of its records; its plan, resuming, refusals."""

import csv
import json
import shutil
from pathlib import Path

import adapters_to_compare as data
import numpy as np
import pytest
import torch
from data_files import write_jsonl
from factory import edit_config
from kill_verbs import killed_in
from killing import apart
from peft import PeftModel
from raising import raises
from scipy.special import log_softmax
from transformers import AutoModelForSequenceClassification
from watching import Notes

import gradience
from gradience import evaluate_adapters, shrink_adapter, verify
from gradience.digests import sha256_file, sha256_text
from gradience.errors import InputError, UsageError
from gradience.evaluate.evaluator import Answering, Evaluator
from gradience.evaluate.verb import EDITED, MISSING
from gradience.files.digests import Digests
from gradience.files.records import read_records
from gradience.reports.compression import CompressionReport
from gradience.reports.evaluation import Ledger
from gradience.reports.shrink import ShrinkPlan, ShrinkReport
from gradience.settings import call
from gradience.shrink import search
from gradience.shrink.candidates import KINDS, TRUNCATED, TruncatedKind
from gradience.shrink.settings import ShrinkSettings
from gradience.statistics.paired import mean_difference
from gradience.statistics.pooled import pool
from gradience.statistics.table import PairedTable
from gradience.tasks.user_code import allowing


@pytest.fixture
def folder(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "all")
    return tmp_path / "all"


def shrink(folder, output, name="reference", **options):
    settings = {"base_model": folder / "base", "data": folder / "rows.csv", "device": "cpu", "batch_size": 7}
    settings |= {"margin": "90", "ranks": [2, 1], **options}
    return call(shrink_adapter, ShrinkSettings(folder / name, output, **settings))


def statuses(report):
    return {candidate.name: candidate.status for candidate in report.candidates}


@pytest.fixture(scope="module")
def finished(prepared, tmp_path_factory):
    """A search in which every candidate holds."""
    output = tmp_path_factory.mktemp("finished") / "out"
    return shrink(prepared, output), output


# ---------------------------------------------------------------- what is written


def test_the_smallest_that_holds_answers_in_peft_as_it_was_evaluated(prepared, finished):
    report, output = finished
    assert statuses(report) == {"rank2": "shown", "rank1": "shown"}
    assert (report.smallest, report.start) == ("rank1", "rank2")
    assert ShrinkReport.read(output / "shrink.json") == report
    assert sha256_file(output / "adapter" / "adapter_model.safetensors") == report.smallest_sha256
    compression = CompressionReport.read(output / "adapter" / "compression_report.json")
    assert (compression.output_sha256, compression.criterion) == (report.smallest_sha256, "rank 1")
    base = AutoModelForSequenceClassification.from_pretrained(prepared / "base", num_labels=2)
    model, tokenizer = (
        PeftModel.from_pretrained(base, output / "adapter").eval(),
        data.tiny_bench.tokenizer(),
    )
    assert model.peft_config["default"].r == 1
    with (prepared / "rows.csv").open() as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    with torch.no_grad():
        logits = {
            sha256_text(text): model(**tokenizer(text, return_tensors="pt")).logits[0].tolist()
            for text in texts
        }
    kept = {row.text_sha256: row.logits for row in read_records(output / "records" / "rank1.jsonl").records}
    assert kept.keys() == logits.keys()
    np.testing.assert_allclose([*kept.values()], [logits[key] for key in kept], atol=1e-5)


def test_every_figure_is_a_plain_count_over_the_records(finished):
    report, output = finished
    records = {
        name: read_records(output / "records" / f"{name}.jsonl").records
        for name in ("reference", "rewrite_control", "rank2", "rank1")
    }
    right = {name: np.array([row.correct for row in rows]) for name, rows in records.items()}
    log_p = {
        name: log_softmax(np.array([row.logits for row in rows]), axis=1) for name, rows in records.items()
    }
    kl = {
        name: (np.exp(log_p["reference"]) * (log_p["reference"] - values)).sum(axis=1)
        for name, values in log_p.items()
    }
    assert report.reference.correct == right["reference"].sum()
    for candidate in report.candidates:
        table = PairedTable.of(right["reference"], right[candidate.name])
        assert (candidate.result.pairs.n10, candidate.result.pairs.n01) == (table.n10, table.n01)
        differences = right[candidate.name].astype(int) - right["reference"]
        assert candidate.result.bounds.low == pytest.approx(pool([differences]).interval().low)
        measured = candidate.result.change.kl_per_example
        assert measured == pytest.approx(kl[candidate.name].mean(), abs=1e-9)
    control = report.control.result.change.kl_per_example
    assert control == pytest.approx(kl["rewrite_control"].mean(), abs=1e-9)
    assert control < 1e-6 < report.candidates[0].result.change.kl_per_example
    assert (right["rewrite_control"] == right["reference"]).all()


def test_free_text_has_the_divergence_on_its_gold_responses(causal, tmp_path):
    with allowing(True):
        report = shrink_adapter(
            causal / "reference", tmp_path / "out", base_model=causal / "base", task=str(causal / "task.py"),
            role="dev", device="cpu", batch_size=8, margin="90", ranks=[2],
        )  # fmt: skip
    scores = {
        name: read_records(tmp_path / "out" / "records" / f"{name}.scores.jsonl").records
        for name in ("reference", "rewrite_control", "rank2")
    }
    kl = [record.kl for record in scores["rank2"]]
    assert report.candidates[0].result.change.kl_per_example == pytest.approx(np.mean(kl), abs=1e-9)
    assert [record.kl for record in scores["reference"]] == pytest.approx([0.0] * len(kl), abs=1e-6)
    assert (verify(tmp_path / "out").verdict, verify(tmp_path / "out").level) == ("consistent", "L1")


def test_likelihoods_are_compared_in_nats_per_token(causal, tmp_path):
    prompts = [example.prompt for example in data.tiny_bench.sums().examples.all[:9]]
    rows = [{"prompt": f"{prompt} {place}", "completion": " 3"} for place, prompt in enumerate(prompts)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    report = shrink_adapter(
        causal / "reference", tmp_path / "out", base_model=causal / "base", data=tmp_path / "rows.jsonl",
        options={"scorer": "nll"}, device="cpu", margin="0.01", ranks=[1],
    )  # fmt: skip
    (candidate,) = report.candidates
    before, after = (
        read_records(tmp_path / "out" / "records" / f"{name}.jsonl").records
        for name in ("reference", "rank1")
    )
    tokens = np.mean([record.n_tokens for record in before])
    lost = np.array([a.loglikelihood - b.loglikelihood for a, b in zip(before, after, strict=True)])
    assert candidate.result.likelihood.delta == pytest.approx(lost.mean() / tokens, abs=1e-9)
    expected = pool([-lost / tokens]).interval()
    assert expected.low < mean_difference(-lost / tokens, 0.90).low  # the worst example counts twice
    assert candidate.result.bounds.low == pytest.approx(expected.low, abs=1e-9)
    assert (candidate.status == "shown") == (expected.low > -0.01)
    assert (verify(tmp_path / "out").verdict, verify(tmp_path / "out").level) == ("consistent", "L2")
    assert "0.01 nats per token" in report.to_markdown()
    assert "points" not in report.to_markdown()


def test_a_dora_is_written_for_the_base_that_it_stands_on(folder, tmp_path):
    report = shrink(folder, tmp_path / "out", "dora", ranks=[2])
    assert report.smallest == "rank2"
    base = AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=2)
    assert PeftModel.from_pretrained(base, tmp_path / "out" / "adapter").peft_config["default"].use_dora


def test_nothing_shown_leaves_no_adapter_and_says_what_could_be_shown(folder, tmp_path):
    output = tmp_path / "out"
    assert (shrink(folder, output).smallest, (output / "adapter").is_dir()) == ("rank1", True)
    watcher = Notes()
    report = shrink(folder, output, margin="0.5", watcher=watcher)
    assert any("adapter was removed: no smaller adapter is shown" in note for note in watcher.notes)
    first = report.candidates[0]
    assert (report.smallest, report.smallest_sha256, (output / "adapter").exists()) == (None, None, False)
    assert first.status in ("inconclusive", "worse")
    assert report.candidates[1].status == "not tested"
    assert "with 60 examples, a drop of up to" in report.sentence or "is worse" in report.sentence


# ---------------------------------------------------------------- fixed beforehand


def test_the_plan_is_on_the_disk_before_anything_is_evaluated(folder, tmp_path, monkeypatch):
    plans = []
    evaluate = Answering.reference

    def watched(self):
        plans.append(ShrinkPlan.read(tmp_path / "out" / "plan.json"))
        return evaluate(self)

    monkeypatch.setattr(Answering, "reference", watched)
    report = shrink(folder, tmp_path / "out", ranks=[3, 1])
    assert plans == [report.plan]
    assert [candidate.rank for candidate in report.plan.candidates] == [3, 1]
    assert report.plan_sha256 == sha256_file(tmp_path / "out" / "plan.json")


def test_a_plan_that_changes_after_answers_is_noticed_and_stays_said(folder, tmp_path):
    output, watcher = tmp_path / "out", Notes()
    shrink(folder, output, ranks=[2])
    assert shrink(folder, output, ranks=[2]).plan.changes == ()
    changed = shrink(folder, output, watcher=watcher, ranks=[2, 1], margin="80")
    assert changed.plan.changes == (
        "the candidates were 2, and are 2, 1",
        "the margin was 90.00 points, and is 80.00 points",
    )
    assert [note for note in watcher.notes if "the plan changed after answers existed" in note]
    assert shrink(folder, output, ranks=[2, 1], margin="80").plan.changes == changed.plan.changes
    assert "is not guaranteed" in changed.to_markdown()


def edit_margin(plan):
    plan.write_text(plan.read_text().replace('"0.9"', '"0.8"'))


@pytest.mark.parametrize(
    ("touch", "margin", "change"),
    [
        (Path.unlink, "90", MISSING),
        (edit_margin, "80", EDITED),  # what is asked for now agrees with the edited file
        (lambda plan: (plan.parent / "records" / "manifest.json").unlink(), "90", EDITED),
    ],
)
def test_a_plan_other_than_that_of_the_answers_caps_the_grade(
    prepared, finished, tmp_path, touch, margin, change
):
    output = shutil.copytree(finished[1], tmp_path / "out")
    touch(output / "plan.json")
    for _ in range(2):  # what is said stays said
        report = shrink(prepared, output, margin=margin)
        assert report.plan.changes == (change,)
        assert (report.smallest, report.candidates[-1].result.grade) == ("rank1", "C")
        assert report.sentence.startswith("Exploratory: ")
        assert report.candidates[-1].result.reason.startswith("exploratory (")
        assert verify(output).verdict == "consistent"


def test_different_tests_on_the_same_rows_are_counted_beside_the_run(folder, tmp_path):
    first = shrink(folder, tmp_path / "a", ranks=[2])
    again = shrink(folder, tmp_path / "b", ranks=[2])  # the same test
    assert (first.tests, again.tests) == (1, 1)
    assert "tests of this reference" not in first.to_text()
    second = shrink(folder, tmp_path / "c", ranks=[2, 1])
    options = {"base_model": folder / "base", "data": folder / "rows.csv", "device": "cpu"}
    third = evaluate_adapters([folder / "reference", folder / "other"], output=tmp_path / "d", **options)
    assert (second.tests, third.tests) == (2, 3)
    assert "3 tests of this reference adapter on these examples" in " ".join(third.to_text().split())
    assert "is up to 15 %, not 5 %" in " ".join(third.to_markdown().split())
    other = evaluate_adapters([folder / "other", folder / "reference"], output=tmp_path / "e", **options)
    alone = evaluate_adapters([folder / "reference"], output=tmp_path / "f", **options)
    uncounted = shrink(folder, tmp_path / "g", ranks=[1], no_ledger=True)
    assert (other.tests, alone.tests, uncounted.tests) == (1, None, None)
    ledger = tmp_path / ".gradience" / "ledger.json"
    kept = Ledger.read(ledger)
    assert sorted(len(tests) for tests in kept.tests.values()) == [1, 3]
    assert first.plan.adapter_sha256 not in ledger.read_text()
    assert "tests" not in json.loads((tmp_path / "g" / "shrink.json").read_text())
    watcher = Notes()
    ledger.write_text("{}")
    assert shrink(folder, tmp_path / "a", ranks=[2], watcher=watcher).tests is None
    assert [note for note in watcher.notes if note.startswith("this test was not counted: ")]


def test_a_plan_without_answers_may_change(folder, tmp_path, monkeypatch):
    output = tmp_path / "out"
    with monkeypatch.context() as broken:
        broken.setattr(Answering, "reference", lambda self: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            shrink(folder, output, ranks=[2])
    assert ShrinkPlan.read(output / "plan.json").candidates[0].rank == 2
    assert shrink(folder, output, ranks=[1]).plan.changes == ()


# ---------------------------------------------------------------- resumed


def test_what_is_finished_loads_no_model(prepared, finished, monkeypatch):
    report, output = finished
    monkeypatch.setattr(Evaluator, "engine", property(lambda self: pytest.fail("a model is loaded")))
    again = shrink(prepared, output)
    assert again.model_dump(exclude={"run"}) == report.model_dump(exclude={"run"})


TIMED = {"shrink.json", "compression_report.json"}
"""What says when it was made."""


def test_killed_and_run_again_it_ends_with_the_same(prepared, tmp_path):
    apart(killed_in, tmp_path, "shrink", prepared, kills=2, models=True)
    whole, killed = (
        {path.relative_to(tmp_path / name): path for path in (tmp_path / name).rglob("*.*")}
        for name in ("whole", "killed")
    )
    assert whole.keys() == killed.keys()
    for name, path in whole.items():
        if name.name in TIMED:
            one, other = (json.loads(each.read_text()) for each in (path, killed[name]))
            one["run"] = other["run"] = None
            assert one == other
        elif name.name == "digests.json":
            one, other = (Digests.read(each).files for each in (path, killed[name]))
            assert (
                {*one} == {*other} > {"plan.json", "records/rank1.jsonl", "adapter/adapter_model.safetensors"}
            )
            assert {Path(name).name for name in one if one[name] != other[name]} == TIMED
        elif path.is_file():
            assert path.read_bytes() == killed[name].read_bytes(), name


# ---------------------------------------------------------------- what cannot be


class Inert(TruncatedKind):
    """Candidates that do nothing from rank 1 down."""

    def make(self, source, rank, folder):
        super().make(source, rank, folder)
        if rank == 1:
            edit_config(folder, lora_alpha=0)


def test_a_candidate_of_another_kind_that_does_nothing_ends_the_sequence(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, TRUNCATED.name, Inert())
    report = shrink(folder, tmp_path / "out", ranks=[2, 1])
    assert statuses(report) == {"rank2": "shown", "rank1": "not evaluated"}
    assert report.smallest == "rank2"
    assert "rank1: has no effect" in report.candidates[1].result.reason


def test_without_other_factors_there_is_no_floor_and_the_reason(folder, tmp_path, monkeypatch):
    def refuse(source, folder):
        raise InputError("no other factors", code="not-rotatable", hint="none")

    monkeypatch.setattr(search, "write_rotated", refuse)
    report = shrink(folder, tmp_path / "out", ranks=[1])
    assert (report.control.result, report.control.reason) == (None, "no other factors")
    assert "no rewrite control: no other factors" in report.to_markdown()


def test_names_never_meet(folder, tmp_path):
    shutil.copytree(folder / "reference", folder / "rank1")
    report = shrink(folder, tmp_path / "out", "rank1", ranks=[1])
    assert report.reference.name == "rank1-original"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"ranks": [4]}, "nothing-smaller"),
        ({"name": "untrained", "ranks": None}, "no-suggestion"),
        ({"data": None}, "no-task"),
        ({"name": "nowhere"}, "not-found"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(folder, tmp_path, monkeypatch, options, code):
    data.adapter(folder / "untrained", folder / "base", 3, init_lora_weights=True)
    monkeypatch.setattr("gradience.models.load.load_base", lambda *_, **__: pytest.fail("a model is loaded"))
    with raises(gradience.GradienceError, code):
        shrink(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "plan.json").exists()


@pytest.mark.parametrize(("output", "code"), [("reference", "output-is-input"), ("theirs", "output-exists")])
def test_an_output_that_holds_an_adapter_of_somebody_is_left_alone(folder, output, code):
    shutil.copytree(folder / "other", folder / "theirs" / "adapter")
    with raises(UsageError, code):
        shrink(folder, folder / output)
    assert sha256_file(folder / "theirs" / "adapter" / "adapter_model.safetensors") == sha256_file(
        folder / "other" / "adapter_model.safetensors"
    )
