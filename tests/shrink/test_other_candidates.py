"""Candidates from a calibration and a distilled one: their place, what they are made of, what is said of prompts."""

import json
from dataclasses import replace

import adapters_to_compare as data
import pytest
from data_files import write_jsonl
from raising import raises

from gradience import compress_adapter, shrink_adapter
from gradience.adapters.formats import open_adapter
from gradience.audit.adapter import audit_opened
from gradience.calibrate.settings import DistillSettings
from gradience.calibrate.verb import calibrate as calibrate_inputs
from gradience.calibrate.verb import calibrate_adapter
from gradience.digests import sha256_file
from gradience.distill.verb import distill
from gradience.errors import UsageError
from gradience.reports.base.numbers import sig
from gradience.reports.calibration import Calibration
from gradience.reports.distill import DistillReport
from gradience.reports.shrink import ShrinkPlan, ShrinkReport
from gradience.shrink import candidates, verb
from gradience.shrink.candidates import plan_candidates
from gradience.shrink.verb import claim_of

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Adapters, rows to test on, and 20 other prompts with a calibration on them."""
    root = data.classifiers(tmp_path_factory.mktemp("candidates"))
    words = data.tiny_bench.WORDS[8:13]
    texts = [f"{words[place % 5]} {words[place // 5]} {words[0]}" for place in range(20)]
    write_jsonl(root / "prompts.jsonl", ({"text": text} for text in texts))
    calibrate(root, "prompts.jsonl", "c.safetensors")
    return root


def calibrate(root, prompts, output):
    options = {"prompts": root / prompts, "base_model": root / "base", "device": "cpu"}
    calibrate_adapter(root / "reference", root / output, **options)


def shrink(folder, output, name="reference", **options):
    settings = {"base_model": folder / "base", "data": folder / "rows.csv", "device": "cpu", "margin": "90"}
    return shrink_adapter(folder / name, output, **{**settings, "ranks": [2, 1], **options})


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """A search with candidates of both kinds, each of which holds."""
    output = tmp_path_factory.mktemp("finished") / "out"
    return shrink(
        folder, output, calibration=folder / "c.safetensors", prompts=folder / "prompts.jsonl"
    ), output


def test_calibrated_candidates_have_the_size_of_a_rank_and_the_prediction_of_their_plan(folder, finished):
    report, output = finished
    plan = ShrinkPlan.read(output / "plan.json")
    assert [candidate.name for candidate in plan.candidates] == ["calibrated2", "distilled1", "calibrated1"]
    assert plan.calibration_sha256 == Calibration.read(folder / "c.safetensors").sha256
    for candidate in (plan.candidates[0], plan.candidates[2]):
        uniform = compress_adapter(folder / "reference", rank=candidate.rank, dry_run=True).new_params
        expected = compress_adapter(
            folder / "reference",
            output / f"expected{candidate.rank}",
            max_params=uniform,
            calibration=folder / "c.safetensors",
        )
        assert candidate.lora_params == expected.new_params <= uniform
        assert candidate.predicted_kl_per_token == expected.prediction.kl_per_token
        assert sha256_file(output / "candidates" / candidate.name / WEIGHTS) == expected.output_sha256
    assert [candidate.predicted_kl_per_token for candidate in report.candidates] == [
        candidate.predicted_kl_per_token for candidate in plan.candidates
    ]


def test_the_distilled_candidate_stands_before_the_one_that_it_is_made_from(finished):
    report, output = finished
    distilled, cut = report.plan.candidates[1:]
    assert (distilled.kind, distilled.rank, distilled.lora_params) == ("distilled", cut.rank, cut.lora_params)
    assert distilled.predicted_kl_per_token is None
    done = DistillReport.read(output / "candidates" / "distilled1" / "distill_report.json")
    assert done.adapter_sha256 == sha256_file(output / "candidates" / "calibrated1" / WEIGHTS)
    assert done.teacher_sha256 == report.plan.adapter_sha256
    assert done.output_sha256 == report.candidates[1].result.sha256
    planned = report.plan.distillation
    assert (planned.prompts_sha256, planned.steps, planned.lr, planned.batch_size, planned.seed) == (
        done.prompts_sha256, done.planned_steps, done.lr, done.batch_size, done.seed
    )  # fmt: skip
    assert [candidate.status for candidate in report.candidates] == ["shown"] * 3
    assert report.smallest == "calibrated1"
    assert report.sentence.startswith("Calibrated rank 1 is the smallest candidate shown to stay")
    assert report.notes == (data.LABELS,)  # both were made on the same prompts, none of which is tested


def test_the_screen_says_what_is_predicted_and_how_candidates_are_made(finished):
    screen = finished[0].to_text()
    assert "up to 100 steps on prompts.jsonl" in " ".join(screen.split())
    _, table = screen.split("Candidates, compared with")
    _, heading, _, *rows = table.strip().splitlines()
    assert "KL/example  predicted KL" in heading
    for candidate, row in zip(finished[0].candidates, rows, strict=False):
        measured, predicted = candidate.result.change.kl_per_token, candidate.predicted_kl_per_token
        shown = [sig(measured, 2), "–" if predicted is None else sig(predicted, 2)]
        assert row.split()[0] == candidate.name
        assert " ".join(shown) in " ".join(row.split())
    kept = ShrinkReport.read(data.RESULTS / "minilm_shrink" / "shrink.json")
    assert "predicted" not in kept.to_text()


def test_a_search_that_resumes_calibrates_and_distills_again_only_if_something_changed(
    folder, tmp_path, monkeypatch
):
    distilled, calibrated = [], []
    monkeypatch.setattr(
        candidates, "distill", lambda *given, **how: distilled.append(given) or distill(*given, **how)
    )
    monkeypatch.setattr(
        candidates, "calibrate", lambda *given: calibrated.append(given) or calibrate_inputs(*given)
    )
    given, output = {"prompts": folder / "prompts.jsonl", "ranks": [1]}, tmp_path / "out"
    first = shrink(folder, output, **given)
    assert shrink(folder, output, **given).candidates == first.candidates
    assert len(distilled) == len(calibrated) == 1
    weights = output / "candidates" / "distilled1" / WEIGHTS
    weights.write_bytes((output / "candidates" / "rewrite_control" / WEIGHTS).read_bytes())
    assert shrink(folder, output, **given).candidates == first.candidates
    assert (len(distilled), len(calibrated)) == (2, 1)
    assert "calibration.safetensors" in (output / "digests.json").read_text()
    more = tmp_path / "more.jsonl"
    more.write_text((folder / "prompts.jsonl").read_text() + json.dumps({"text": "one more"}) + "\n")
    shrink(folder, output, **{**given, "prompts": more})
    assert (len(distilled), len(calibrated)) == (3, 2)


def test_prompts_that_are_tested_are_left_out_of_calibration_and_distillation(folder, tmp_path, monkeypatch):
    rows = (folder / "rows.csv").read_text().splitlines()[1:4]
    tested = {row.split(",")[0] for row in rows}
    mixed = tmp_path / "mixed.jsonl"
    lines = "".join(json.dumps({"text": text}) + "\n" for text in sorted(tested))
    mixed.write_text(lines + (folder / "prompts.jsonl").read_text())
    read = []
    monkeypatch.setattr(
        candidates, "calibrate", lambda inputs, file: read.append(inputs) or calibrate_inputs(inputs, file)
    )
    monkeypatch.setattr(
        candidates, "distill", lambda inputs, file: read.append(inputs.student) or distill(inputs, file)
    )
    report = shrink(folder, tmp_path / "out", prompts=mixed)
    assert [each.kind for each in report.plan.candidates] == ["calibrated", "distilled", "calibrated"]
    assert report.notes == (data.LABELS, "3 of the 23 prompts are test examples and are left out")
    for inputs in read:
        assert len(inputs.rows.all) == 20
        assert not tested & {row.text for row in inputs.rows.all}
    assert len(read) == 2
    forecast = shrink(folder, tmp_path / "dry", prompts=mixed, dry_run=True)
    assert "the search calibrates on the prompts first" in " ".join(forecast.to_text().split())
    assert not (tmp_path / "dry").exists()
    mixed.write_text(lines * 9)
    with pytest.raises(UsageError, match="0 different rows that are not tested"):
        shrink(folder, tmp_path / "none", prompts=mixed)


def test_prompts_of_a_calibration_that_are_tested_are_counted(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(verb, "shrink", lambda prepared, settings: prepared)
    prepared = shrink(folder, tmp_path / "out", calibration=folder / "c.safetensors")
    assert prepared.sets[0].notes == (data.LABELS,)
    known = Calibration.read(folder / "c.safetensors")
    before = replace(known, report=known.report.model_copy(update={"prompt_ids": ()}))
    prepared = shrink(folder, tmp_path / "out", calibration=before)
    assert prepared.sets[0].notes == (
        data.LABELS,
        "this calibration does not list its prompts: make sure that none of them is a test example",
    )
    calibrate(folder, "rows.csv", "tested.safetensors")
    prepared = shrink(folder, tmp_path / "out", calibration=folder / "tested.safetensors")
    tested, rows = prepared.plan.examples, len(Calibration.read(folder / "tested.safetensors").tokens)
    labels, note = prepared.sets[0].notes
    assert labels == data.LABELS
    assert note.startswith(f"{tested} of the {rows} calibration prompts are also test examples")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"name": "other", "calibration": "c.safetensors"}, "other-calibration"),
        ({"prompts": "few.jsonl"}, "too-few-rows"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(folder, tmp_path, options, code):
    lines = (folder / "prompts.jsonl").read_text().splitlines(keepends=True)
    (folder / "few.jsonl").write_text("".join(lines[:15]))
    options = {key: value if key == "name" else folder / value for key, value in options.items()}
    with raises(UsageError, code):
        shrink(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_another_calibration_or_distillation_changes_the_plan(finished):
    plan = finished[0].plan
    other = plan.distillation.model_copy(update={"prompts_sha256": "0" * 64})
    now = plan.model_copy(update={"calibration_sha256": "0" * 64, "distillation": other})
    before, after = claim_of(plan), claim_of(now)
    assert {name for name in after if before[name] != after[name]} == {"calibration", "distillation"}
    assert (before["calibration"], after["calibration"]) == (plan.calibration_sha256[:8], "00000000")
    assert before["distillation"].startswith("prompts.jsonl (")
    cut = now.model_copy(update={"candidates": plan.candidates[:1]})
    assert after["candidates"] == "calibrated rank 2, distilled rank 1, calibrated rank 1"
    assert claim_of(cut)["candidates"] == "calibrated rank 2"


def test_a_calibrated_search_starts_at_the_largest_smaller_size(folder):
    calibration = Calibration.read(folder / "c.safetensors")
    distilled = DistillSettings(folder / "reference", teacher=folder / "reference", prompts="p.jsonl")
    with open_adapter(folder / "reference") as opened:
        source = candidates.CandidateSource(opened, audit_opened(opened), calibration=calibration)
        ranks = [each.rank for each in plan_candidates(source, None)[0]]
        planned, _ = plan_candidates(replace(source, distillation=distilled), None)
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[0] == max(2**power for power in range(9) if 2**power < source.rank)
    assert [(each.kind, each.rank) for each in planned[-2:]] == [
        ("distilled", ranks[-1]),
        ("calibrated", ranks[-1]),
    ]
