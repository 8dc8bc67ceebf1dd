"""Plans and adapters from a calibration: limits hold, predictions are what they say, and another adapter is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from scipy import stats
from transformers import AutoModelForSequenceClassification

from gradience import CompressionPlan, ToBudget, ToEnergy, ToKl, ToRank, audit_adapter, plan_compression
from gradience.compress.adapter import compress_adapter
from gradience.errors import InputError, UsageError
from gradience.models.load import quiet
from gradience.plan.compression import curve, interval, with_calibration
from gradience.plan.modules import modules_of
from gradience.reports.base.blocks import View
from gradience.reports.calibration import Calibration, ExcludedModule


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


@pytest.mark.parametrize("criterion", [ToBudget(reduction=0.5), ToBudget(max_params=300)])
def test_a_budget_is_kept_and_its_prediction_is_that_of_its_ranks(report, calibration, criterion):
    plan = plan_compression(report, criterion, calibration=calibration)
    assert plan.new_params <= 0.5 * plan.old_params or plan.new_params <= 300
    assert plan.criterion.endswith("allocated by effect per parameter")
    assert plan.prediction.kl_per_token == pytest.approx(predicted_by_hand(calibration, ranks_of(plan)))
    assert plan.prediction.rows == 30
    assert plan.prediction.standard_error > 0


@pytest.mark.parametrize("limit", [1e-4, 1e-3, 1e-2])
def test_a_kl_limit_gives_the_first_size_from_which_on_it_is_kept(report, calibration, limit):
    plan = plan_compression(report, ToKl(limit), calibration=calibration)
    assert plan.prediction.kl_per_token < plan.prediction.high <= limit
    larger = [
        plan_compression(report, ToBudget(max_params=params), calibration=calibration)
        for params in range(plan.new_params, plan.old_params, 40)
    ]
    assert all(each.prediction.high <= limit for each in larger)
    smaller = plan_compression(report, ToBudget(max_params=plan.new_params - 1), calibration=calibration)
    assert smaller.prediction.high > limit or plan.new_params == smaller.new_params
    assert plan.new_params <= plan_compression(report, ToKl(limit / 100), calibration=calibration).new_params


def heavy(draw, rows: int, count: int) -> np.ndarray:
    """What leaving something out does to logits, along a random direction: rows differ a lot, the mean square is 1."""
    return draw.normal(size=(count, rows)) * np.exp(draw.normal(0, 0.65, (count, rows)) - 0.65**2)


def test_an_interval_covers_the_mean_of_rows_that_differ_a_lot():
    """Of 2,000 draws of 128 rows; twice the standard error does not."""
    covered, by_errors = [], []
    for change in heavy(np.random.default_rng(0), 128, 2000):
        kl, low, high, error = interval(change, 128)
        covered.append(low < 0.5 < high)
        by_errors.append(abs(kl - 0.5) < 2 * error)
    assert 0.92 < np.mean(covered) < 0.98
    assert np.mean(by_errors) < 0.87


def test_an_interval_is_that_of_chi_square_with_the_same_variance():
    change = np.random.default_rng(1).normal(size=200)
    each = change**2 / 2 * 200 / 900
    freedom = 2 * each.mean() ** 2 / (each.var(ddof=1) / 200)
    ends = each.mean() * freedom / stats.chi2.ppf([stats.norm.cdf(2.576), stats.norm.cdf(-2.576)], freedom)
    assert interval(change, 900)[1:3] == pytest.approx(ends, rel=1e-3)
    assert interval(np.zeros(9), 20) == (0.0, 0.0, 0.0, 0.0)
    kl, low, high, _ = interval(np.array([1.0, 0.0, 0.0]), 3)  # a single row decides
    assert low < kl < 1000 * kl < high


def test_a_wide_interval_is_warned_of_with_the_prompts_that_it_takes(report, calibration):
    plan = plan_compression(report, ToRank(2), calibration=calibration)
    prediction = plan.prediction
    uncertainty = (prediction.high - prediction.low) / 2 / prediction.kl_per_token
    assert uncertainty > 0.5
    shown = " ".join(plan.to_text().split())
    assert f"the upper bound is {prediction.high / prediction.kl_per_token:.2g} times the prediction" in shown
    assert "30 scored tokens are too few" in shown
    assert "Calibrate on about" in shown
    narrow = prediction.model_copy(
        update={"low": 0.9 * prediction.kl_per_token, "high": 1.1 * prediction.kl_per_token}
    )
    assert "are too few" not in plan.model_copy(update={"prediction": narrow}).to_text()


@pytest.fixture(scope="module")
def sizes(report, calibration):
    return curve(with_calibration(report, modules_of(report), calibration), calibration.report)


def test_a_size_is_a_budget_that_modules_share(report, calibration, sizes):
    """--rank gives every module that rank, with a different prediction."""
    plan = plan_compression(report, ToRank(2), calibration=calibration)
    row = next(point for point in sizes if point.rank == 2)
    assert plan.prediction.kl_per_token > 1.5 * row.calibrated_kl_per_token


def test_the_curve_has_uniform_svd_beside_each_size(report, calibration, sizes):
    assert [point.rank for point in sizes] == [2, 1]
    uniform = plan_compression(report, ToRank(2))
    svd = sum(
        moments.svd_effects[~calibration.selection, 2:].astype(float).sum(axis=1)
        for moments in calibration.modules.values()
    )
    point = sizes[0]
    assert point.params == uniform.new_params
    assert point.svd_kl_per_token == pytest.approx(
        float(np.square(svd).sum() / 2 / calibration.tokens[~calibration.selection].sum())
    )
    kept = plan_compression(report, ToBudget(max_params=point.params), calibration=calibration)
    assert point.calibrated_kl_per_token == pytest.approx(kept.prediction.kl_per_token)


def logits(case, folder) -> torch.Tensor:
    with quiet():
        base = AutoModelForSequenceClassification.from_pretrained(case.base, num_labels=2)
    model = PeftModel.from_pretrained(base, folder).eval()
    ids = torch.tensor([[3, 4, 5, 6], [7, 8, 3, 4]])
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_what_is_written_is_the_projection_and_peft_loads_it(classifier, calibration, tmp_path):
    written = compress_adapter(
        classifier.adapter, tmp_path / "small", calibration=classifier.calibration, max_params=250
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


def test_keeping_everything_changes_nothing(report, calibration):
    whole = plan_compression(report, ToBudget(reduction=0.0), calibration=calibration)
    assert whole.new_params == whole.old_params
    assert whole.predicted_error < 1e-6
    assert whole.prediction.kl_per_token == 0


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
    with pytest.raises(UsageError, match="a criterion on the weights' energy"):
        plan_compression(report, criterion, calibration=calibration)


@pytest.mark.parametrize("limit", [0, -1.0, float("inf"), float("nan")])
def test_a_limit_is_a_positive_number_and_needs_a_calibration(report, calibration, limit):
    with pytest.raises(UsageError, match="max_kl_per_token must be"):
        plan_compression(report, ToKl(limit), calibration=calibration)
    with pytest.raises(UsageError, match="predicting a KL divergence needs a calibration"):
        plan_compression(report, ToKl(0.1))


def test_a_damaged_file_is_refused(classifier, calibration, tmp_path):
    first = next(iter(calibration.modules))
    broken = calibration.modules[first]._replace(
        values=np.full_like(calibration.modules[first].values, np.nan)
    )
    rows = calibration.report.modules
    louder = calibration.modules[first]._replace(effects=1e12 * calibration.modules[first].effects)
    loud = replace(rows[0], importance=1e24 * rows[0].importance)

    def listed(*modules):
        return calibration.report.model_copy(update={"modules": modules})

    impossible = f"scores of {first} that no measurement gives"
    for what, changes in (
        ("NaN or infinity", {"modules": {**calibration.modules, first: broken}}),
        ("not 60 rows", {"tokens": calibration.tokens[:3]}),
        ("a row with -1 scored tokens", {"tokens": np.where(calibration.selection, -1, calibration.tokens)}),
        ("fewer than 2 rows that select", {"selection": np.arange(60) == 0}),
        (
            "not those that its report counts",
            {"selection": ~calibration.selection, "tokens": 2 * calibration.tokens},
        ),
        (f"the module {first} twice", {"report": listed(*rows, rows[0])}),
        (impossible, {"report": listed(replace(rows[0], importance=7.0), *rows[1:])}),
        (impossible, {"modules": {**calibration.modules, first: louder}, "report": listed(loud, *rows[1:])}),
    ):
        replace(calibration, **changes).write(tmp_path / "damaged.safetensors")
        with pytest.raises(InputError, match=what):
            Calibration.read(tmp_path / "damaged.safetensors")
    with pytest.raises(InputError, match="no metadata called 'gradience'"):
        Calibration.read(classifier.adapter / "adapter_model.safetensors")


def test_calibrate_ends_with_the_sizes_and_the_command_that_tests_them(calibration, sizes):
    facts = calibration.report.model_copy(update={"sizes": sizes})
    shown = " ".join(facts.to_text(view=View(brief=True, paths=("a", "c", "b"))).split())
    command = "Next: gradience shrink a --calibration c --base-model b --data test_rows.jsonl"
    assert shown.endswith(f"{command} Test on rows other than these prompts.")
    writer = " ".join(facts.model_copy(update={"kind": "causal_lm"}).to_text(view=View(brief=True)).split())
    assert writer.endswith("Without answers: --prompts instead of --data.")  # refused for a classifier
    assert all(f" {size.params:,} " in shown for size in sizes)
    assert "parameters same size as rank KL/example KL/example, truncation" in shown
