"""From what a seed yielded to bench.json: counts that agree, and nothing that disappears."""

import pytest
from bench_sample import bench, config, pairs, three_seeds, variant_measures
from pydantic import ValidationError

from gradience.bench.plan.variants import plan_variants
from gradience.bench.verdict.assemble import measured
from gradience.files.packed import pack
from gradience.reports.bench import Bench


def test_a_seed_round_trips_and_has_a_status():
    for run in three_seeds():
        assert Bench.model_validate_json(run.to_json()) == run
        assert run.status == "PASS"
    first = three_seeds()[0]
    median = first.variant("uniform_median")
    assert median.delta_exact == "-5/200"
    assert median.status == "PASS"  # exactly at the bound
    assert first.variant("per_layer").delta == 0.035
    assert first.best.reduction == max(v.reduction for v in first.variants if v.same_as is None)


def test_another_number_of_parameters_than_planned_is_an_error():
    """The predecessor's per_layer was never what its report said: 7 of 7 stored runs."""
    from bench_sample import REPORT

    planned = next(v for v in plan_variants(REPORT, config(), 42) if v.name == "per_layer")
    counted = pairs(200, 57, 0, 0)
    wrong = variant_measures(planned, 42, counted, lora_params=planned.lora_params + 1536)
    result = measured(planned, wrong, counted, config().policy)
    assert result.status == "ERROR"
    assert "LoRA parameters; planned: " in result.reasons[0]


def test_counts_that_disagree_are_no_artifact():
    good = bench(42).variants[0].model_dump(by_alias=True)
    for change in (
        {"delta_exact": "-1/200"},
        {"pairs": None},
        {"pairs": {**good["pairs"], "n00": 0}},
        {"measures": {**good["measures"], "correct": 56}},
        {"measures": {**good["measures"], "score": 0.5}},
        {"measures": {**good["measures"], "correct_examples": pack([True] * 200)}},
    ):
        with pytest.raises(ValidationError):
            type(bench(42).variants[0]).model_validate(good | change)


def test_a_probe_below_its_gate_makes_everything_undertrained():
    run = bench(42, correct=19)
    assert run.status == "UNDERTRAINED"
    assert run.audit is None
    assert run.best is None
    assert {v.status for v in run.variants} == {"UNDERTRAINED"}
    assert run.variants[0].reasons == ("the probe has 19 / 200 correct (9.5 %); its quality gate is 10 %",)
    assert [v.name for v in run.variants] == [v.name for v in bench(42).variants]
    assert bench(42, correct=20).status == "PASS"  # exactly at the gate


def test_what_failed_is_a_result():
    run = bench(42, {"per_layer": "OutOfMemoryError: 80 GB"})
    assert run.status == "ERROR"
    assert run.variant("per_layer").reasons == ("OutOfMemoryError: 80 GB",)
    assert "per_layer" in run.reasons[0]
    none = bench(42, probe_error="ValueError: no such column")
    assert none.status == "ERROR"
    assert {v.status for v in none.variants} == {"ERROR"}
