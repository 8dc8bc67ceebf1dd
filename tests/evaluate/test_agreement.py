"""Prompts without answers decide by the share of changed outputs."""

from __future__ import annotations

import json
import shutil

import adapters_to_compare as data
import pytest
from adapters_to_compare import tiny_bench

from gradience import evaluate_adapters, shrink_adapter, verify
from gradience.errors import UsageError
from gradience.files.records import read_records
from gradience.statistics.agreement import largest_share


@pytest.fixture(scope="session")
def causal(tmp_path_factory):
    root = data.writers(tmp_path_factory.mktemp("writers"))
    shutil.copytree(root / "reference", root / "same")
    rows = [
        {"prompt": row.prompt, "document": number // 2}
        for number, row in enumerate(tiny_bench.sums().examples.all)
    ]
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def evaluate(causal, *names, **options):
    adapters = [causal / name for name in ("reference", *names)]
    settings = {"base_model": causal / "base", "prompts": causal / "prompts.jsonl", "device": "cpu"}
    return evaluate_adapters(adapters, **{**settings, "max_new_tokens": 4, "batch_size": 8, **options})


def test_changed_outputs_are_counted_and_bounded(causal, tmp_path):
    report = evaluate(causal, "other", "same", output=tmp_path / "out", all_rows=True, margin=10)
    outputs = {
        row.name: [record.output for record in read_records(tmp_path / "out" / row.records[0].path).records]
        for row in report.adapters
    }
    reference, other, same = report.adapters
    changed = sum(a != b for a, b in zip(outputs["reference"], outputs["other"], strict=True))
    assert 0 < changed == other.pairs.n10 == other.n - other.correct
    assert other.bounds.low == pytest.approx(-largest_share(changed, [other.n]), abs=1e-6)
    assert (reference.correct, same.correct, same.grade) == (same.n, same.n, "B")
    assert same.reason.startswith("shown for these runs: changed answers at most ")
    assert other.grade == "C"  # a changed answer need not be worse
    shown = " ".join(report.to_text().split())
    assert "For any deterministic scorer of the output text with values between 0 and 1" in shown
    assert "at most" in shown
    assert "KL/example" not in shown
    assert (verify(tmp_path / "out").verdict, verify(tmp_path / "out").level) == ("consistent", "L2")


def test_groups_with_a_changed_output_are_counted(causal):
    report = evaluate(causal, "other", group="document", all_rows=True)
    other, n = report.adapters[1], len(set(report.groups))
    assert n < other.n
    assert -other.bounds.low >= largest_share(-(-other.pairs.n10 // 2), [n]) - 1e-6
    assert "groups with a changed answer" in other.reason


def test_shrink_decides_by_agreement_without_examples(causal, tmp_path):
    given = {
        "base_model": causal / "base",
        "prompts": causal / "prompts.jsonl",
        "device": "cpu",
        "margin": 60,
    }
    report = shrink_adapter(causal / "reference", tmp_path / "out", ranks=[2, 1], max_new_tokens=4, **given)
    assert report.plan.compares == "agreement"
    assert {candidate.kind for candidate in report.candidates} == {"truncated"}
    first = report.candidates[0].result
    assert first.correct == first.n - first.pairs.n10
    assert "share of changed outputs" in " ".join(report.to_text().split())
    assert verify(tmp_path / "out").verdict == "consistent"


def test_prompts_beside_examples_are_refused(causal):
    with pytest.raises(UsageError, match="cannot be evaluated together"):
        evaluate(causal, "other", data=causal / "prompts.jsonl")


def test_kl_can_be_left_out(causal, tmp_path):
    rows = tiny_bench.sums().examples.all
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": r.prompt, "answer": r.answer}) + "\n" for r in rows))
    options = {"prompts": None, "data": path, "all_rows": True}
    without = evaluate(causal, "other", **options, no_kl=True, output=tmp_path / "without")
    measured = evaluate(causal, "other", **options, output=tmp_path / "with")
    assert without.adapters[1].change is None
    assert measured.adapters[1].change.kl_per_token > 0
    answers = [(tmp_path / name / "records" / "other.jsonl").read_bytes() for name in ("with", "without")]
    assert answers[0] == answers[1]
    assert read_records(tmp_path / "with" / "records" / "other.jsonl").run.near_tie < 1e-3
