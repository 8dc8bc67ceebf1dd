"""Plans and adapters from a calibration: limits hold, predictions are what they say, and another adapter is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification

from gradience import CompressionPlan, ToBudget, ToEnergy, ToKl, ToRank, audit_adapter, plan_compression
from gradience.artifacts.calibration import Calibration, ExcludedModule
from gradience.compress.verb import compress_adapter
from gradience.errors import InputError, UsageError
from gradience.models.load import quiet


@pytest.fixture(scope="module")
def calibration(classifier):
    return Calibration.read(classifier.calibration)


@pytest.fixture(scope="module")
def report(classifier):
    return audit_adapter(classifier.adapter)


def predicted_by_hand(calibration, ranks) -> float:
    """½·Σ(Σ over what is left out)²/tokens of the rows that predict."""
    change = 0.0
    for name, moments in calibration.modules.items():
        change = change + moments.effects[~calibration.selection, ranks[name] :].astype(float).sum(axis=1)
    return float(np.square(change).sum() / 2 / calibration.tokens[~calibration.selection].sum())


def ranks_of(plan) -> dict[str, int]:
    return {row.name: row.new_rank for row in plan.modules}


@pytest.mark.parametrize(
    "criterion", [ToBudget(reduction=0.5), ToBudget(max_params=300), ToBudget(max_bytes=1500)]
)
def test_a_budget_is_kept_and_its_prediction_is_that_of_its_ranks(report, calibration, criterion):
    plan = plan_compression(report, criterion, calibration=calibration)
    assert plan.new_params <= 0.5 * plan.old_params or plan.new_params <= 300 or plan.new_bytes <= 1500
    assert plan.criterion.endswith("allocated by effect per parameter")
    assert plan.prediction.kl == pytest.approx(predicted_by_hand(calibration, ranks_of(plan)))
    assert plan.prediction.rows == 30
    assert plan.prediction.standard_error > 0


@pytest.mark.parametrize("limit", [1e-4, 1e-3, 1e-2])
def test_a_kl_limit_gives_the_first_size_from_which_on_it_is_kept(report, calibration, limit):
    plan = plan_compression(report, ToKl(limit), calibration=calibration)
    assert plan.prediction.kl <= limit
    larger = [
        plan_compression(report, ToBudget(max_params=params), calibration=calibration)
        for params in range(plan.new_params, plan.old_params, 40)
    ]
    assert all(each.prediction.kl <= limit for each in larger[:1])
    smaller = plan_compression(report, ToBudget(max_params=plan.new_params - 1), calibration=calibration)
    assert smaller.prediction.kl > limit or plan.new_params == smaller.new_params


def test_a_stricter_limit_never_gives_a_smaller_adapter(report, calibration):
    sizes = [
        plan_compression(report, ToKl(limit), calibration=calibration).new_params
        for limit in (1e-6, 1e-4, 1e-3, 1e-2)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[2]


def test_the_curve_has_uniform_svd_beside_each_size(report, calibration):
    plan = plan_compression(report, ToRank(2), calibration=calibration)
    assert [point.rank for point in plan.curve] == [2, 1]
    uniform = plan_compression(report, ToRank(2))
    svd = sum(
        moments.svd_effects[~calibration.selection, 2:].astype(float).sum(axis=1)
        for moments in calibration.modules.values()
    )
    point = plan.curve[0]
    assert point.params == uniform.new_params
    assert point.svd_kl == pytest.approx(
        float(np.square(svd).sum() / 2 / calibration.tokens[~calibration.selection].sum())
    )
    kept = plan_compression(report, ToBudget(max_params=point.params), calibration=calibration)
    assert point.calibrated_kl == pytest.approx(kept.prediction.kl)


def logits(case, folder) -> torch.Tensor:
    with quiet():
        base = AutoModelForSequenceClassification.from_pretrained(case.base, num_labels=2)
    model = PeftModel.from_pretrained(base, folder).eval()
    ids = torch.tensor([[3, 4, 5, 6], [7, 8, 3, 4]])
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_what_is_written_is_the_projection_and_peft_loads_it(classifier, calibration, tmp_path):
    written = compress_adapter(
        classifier.adapter,
        tmp_path / "small",
        calibration=classifier.calibration,
        max_params=250,
        verify_peft=False,
    )
    assert 0 < written.new_params <= 250
    assert written.dropped  # some module has no component left
    before, after = (
        load_file(folder / "adapter_model.safetensors") for folder in (classifier.adapter, tmp_path / "small")
    )
    squares = total = 0.0
    for row in written.modules:
        A, B = (before[f"base_model.model.{row.name}.lora_{side}.weight"].astype(float) for side in "AB")
        moments = calibration.modules[row.name]
        wanted = B @ moments.p[:, : row.new_rank] @ moments.q[:, : row.new_rank].T @ A
        if row.new_rank:
            new = [after[f"base_model.model.{row.name}.lora_{side}.weight"].astype(float) for side in "AB"]
            np.testing.assert_allclose(new[1] @ new[0], wanted, atol=1e-6)
        error = np.linalg.norm(B @ A - wanted) / np.linalg.norm(B @ A)
        assert row.measured_error == pytest.approx(error, abs=1e-5)
        assert row.predicted_error == pytest.approx(error, abs=1e-5)
        squares += (row.scale * np.linalg.norm(B @ A - wanted)) ** 2
        total += (row.scale * np.linalg.norm(B @ A)) ** 2
    assert written.measured_error == pytest.approx(np.sqrt(squares / total), rel=1e-4)
    assert not torch.allclose(logits(classifier, tmp_path / "small"), logits(classifier, classifier.adapter))


def test_keeping_everything_changes_nothing(classifier, report, calibration):
    whole = plan_compression(report, ToBudget(reduction=0.0), calibration=calibration)
    assert whole.new_params == whole.old_params
    assert whole.predicted_error < 1e-6
    assert whole.prediction.kl == 0


def test_a_plan_of_a_calibration_needs_the_same_one(classifier, tmp_path):
    plan = compress_adapter(
        classifier.adapter, calibration=classifier.calibration, reduction=0.5, dry_run=True
    )
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    assert CompressionPlan.read(path) == plan
    again = compress_adapter(classifier.adapter, calibration=classifier.calibration, plan=path, dry_run=True)
    assert (ranks_of(again), again.prediction) == (ranks_of(plan), plan.prediction)
    with pytest.raises(UsageError, match="was made with the calibration"):
        compress_adapter(classifier.adapter, plan=path, dry_run=True)
    plain = compress_adapter(classifier.adapter, rank=2, dry_run=True)
    with pytest.raises(UsageError, match="was made without a calibration"):
        compress_adapter(classifier.adapter, calibration=classifier.calibration, plan=plain, dry_run=True)


def test_modules_that_are_not_calibrated_keep_their_rank_and_are_counted(report, calibration):
    name = report.layers[0].name
    left = {key: each for key, each in calibration.modules.items() if key != name}
    rows = tuple(row for row in calibration.report.modules if row.name != name)
    gone = (ExcludedModule(name=name, reason="a convolution"),)
    facts = calibration.report.model_copy(update={"modules": rows, "excluded": gone})
    fewer = replace(calibration, modules=left, report=facts)
    plan = plan_compression(report, ToBudget(reduction=0.6), calibration=fewer)
    assert plan.prediction.excluded_modules == 1
    assert plan.modules[0].new_rank == plan.modules[0].old_rank
    assert plan.modules[0].fixed == "not in the calibration: a convolution"


def test_the_calibration_of_another_adapter_or_scale_is_refused(report, calibration):
    other = replace(calibration, report=calibration.report.model_copy(update={"adapter_sha256": "0" * 64}))
    with pytest.raises(UsageError, match="is for another adapter"):
        plan_compression(report, ToRank(2), calibration=other)
    rows = tuple(replace(row, scale=2 * row.scale) for row in calibration.report.modules)
    rescaled = replace(calibration, report=calibration.report.model_copy(update={"modules": rows}))
    with pytest.raises(UsageError, match="had the scale"):
        plan_compression(report, ToRank(2), calibration=rescaled)


@pytest.mark.parametrize("criterion", [ToEnergy(0.9), ToBudget(max_error=0.1)])
def test_a_size_of_weight_energy_is_refused_with_a_calibration(report, calibration, criterion):
    with pytest.raises(UsageError, match="says nothing about the weights' energy"):
        plan_compression(report, criterion, calibration=calibration)


@pytest.mark.parametrize("limit", [0, -1.0, float("inf"), float("nan")])
def test_a_limit_is_a_positive_number_and_needs_a_calibration(report, calibration, limit):
    with pytest.raises(UsageError, match="is no limit"):
        plan_compression(report, ToKl(limit), calibration=calibration)
    with pytest.raises(UsageError, match="predicted from a calibration, and none is given"):
        plan_compression(report, ToKl(0.1))


def test_a_damaged_file_is_refused(classifier, calibration, tmp_path):
    first = next(iter(calibration.modules))
    broken = calibration.modules[first]._replace(
        values=np.full_like(calibration.modules[first].values, np.nan)
    )
    replace(calibration, modules={**calibration.modules, first: broken}).write(tmp_path / "nan.safetensors")
    replace(calibration, tokens=calibration.tokens[:3]).write(tmp_path / "short.safetensors")
    for name, what in (("nan", "NaN or infinity"), ("short", "not 60 rows")):
        with pytest.raises(InputError, match=what):
            Calibration.read(tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match="no metadata called 'gradience'"):
        Calibration.read(classifier.adapter / "adapter_model.safetensors")


def test_an_audit_tells_what_matters_to_the_output_and_says_what_it_rests_on(classifier, calibration, report):
    audited = audit_adapter(classifier.adapter, calibration=classifier.calibration)
    effects = audited.effects
    assert list(audited.evidence) == ["predicted_kl", "gradient_weighted_energy", *report.evidence]
    assert (
        audited.model_copy(update={"effects": None, "evidence": report.evidence, "run": report.run}) == report
    )
    whole = {
        name: moments.effects[~calibration.selection].astype(float).sum(axis=1)
        for name, moments in calibration.modules.items()
    }
    tokens = calibration.tokens[~calibration.selection].sum()
    for row in effects.modules:
        assert row.importance == pytest.approx(np.square(whole[row.name]).sum() / 2 / tokens)
    for layer in effects.by_layer:
        together = sum(change for name, change in whole.items() if name.startswith(f"{layer.layer}."))
        assert layer.importance == pytest.approx(np.square(together).sum() / 2 / tokens)
    assert effects.curve == plan_compression(report, ToRank(1), calibration=calibration).curve
    assert type(audited).read(audited.save(classifier.calibration.parent / "audit.json")) == audited
    assert "".join(audited.json_chunks()) == audited.to_json(indent=None)
