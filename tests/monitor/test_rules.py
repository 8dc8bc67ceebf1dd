"""Every rule on real runs: where it speaks, and where it must not.

scripts/make_monitor_fixtures.py trained them.
sft, dpo and grpo… are TRL's trainers (tests/conformance/tiny_trl.py).
"""

import json
import math
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gradience.monitor import monitor_runs
from gradience.monitor.facts import MAX_BUCKETS, Series
from gradience.monitor.rules import RULES
from gradience.telemetry import TelemetryWriter
from gradience.telemetry.records import method_of

RUNS = Path(__file__).parent / "runs"

# code -> (runs in which it speaks, runs in which it must not)
RL = ["grpo"]
CASES = {
    "run-error": (["crashed"], ["good", "nan"]),
    "nonfinite": (["nan"], ["good", "overfitting", "diverging", "small_rank"]),
    "divergence": (["diverging"], ["good", "overfitting", "slow", "arithmetic", "sft", "dpo", *RL]),
    "loss-explosion": (["exploding", "diverging"], ["good", "overfitting", "slow", "arithmetic", *RL]),
    "gradient-explosion": (["overfitting"], ["good", "diverging", "slow", "arithmetic", *RL]),
    "overfitting": (["overfitting"], ["good", "slow", "arithmetic", *RL]),
    "memorization-gap": (["overfitting"], ["good", "slow", "dpo", *RL]),
    "learning-rate": (["slow", "diverging"], ["good", "overfitting", "small_rank", "dpo", *RL]),
    "no-evaluation": (["diverging"], ["good", "nan", *RL]),
    "untrained-modules": (["slow"], ["good", "arithmetic", "grpo"]),
    "rank-too-small": (["small_rank"], ["good", "large_rank"]),
    "rank-too-large": (["large_rank"], ["small_rank", "diverging", "exploding"]),
}


@cache
def report(name):
    return monitor_runs([RUNS / f"{name}.jsonl"]).runs[0]


def test_every_rule_has_its_runs():
    assert [rule.code for rule in RULES] == list(CASES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_it_speaks_where_it_should_alone(rule):
    for name in CASES[rule.code][0]:
        alert = next((a for a in report(name).alerts if a.code == rule.code), None)
        assert alert is not None, name
        assert alert.severity == rule.severity
        assert alert.source == rule.source
        assert alert.message
        assert alert.evidence or rule.code == "run-error"
    for name in CASES[rule.code][1]:
        assert rule.code not in {alert.code for alert in report(name).alerts}, name


@pytest.mark.parametrize("name", ["good", "sft", "dpo", "grpo"])
def test_a_good_run_has_no_alert(name):
    run = report(name)
    assert [(a.code, a.severity) for a in run.alerts if a.severity != "info"] == []
    assert run.outcome == "ok"


def started_otherwise(name, folder, change):
    """The same log after `change(config)` of its start."""
    start, *lines = (RUNS / f"{name}.jsonl").read_text().splitlines()
    record = json.loads(start)
    change(record["config"])
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join([json.dumps(record), *lines]) + "\n")
    return monitor_runs([path]).runs[0]


@pytest.mark.parametrize(
    ("name", "trainer", "method"),
    [
        ("sft", "SFTTrainer", "supervised"),
        ("dpo", "DPOTrainer", "preference"),
        ("grpo", "GRPOTrainer", "reinforcement"),
    ],
)
def test_trainers_of_trl_are_known(name, trainer, method):
    run = report(name)
    assert (run.setup.trainer, run.setup.method) == (trainer, method)
    assert any("does not measure progress" in note for note in run.notes) == (method == "reinforcement")


def test_reinforcement_learning_is_recognized_by_its_rewards_if_the_trainer_is_not_known(tmp_path):
    """The log of a callback, or a loop, that does not say which trainer it is."""
    run = started_otherwise("grpo", tmp_path, lambda config: config.pop("trainer"))
    assert run.setup.method == "reinforcement"
    assert run.alerts == report("grpo").alerts


@pytest.mark.parametrize(
    ("classes", "rewarded", "method"),
    [
        (["MyTrainer", "GRPOTrainer", "_BaseTrainer", "Trainer"], False, "reinforcement"),
        (["UnslothGRPOTrainer", "_UnslothGRPOTrainer", "Trainer"], False, "reinforcement"),
        (["KTOTrainer", "Trainer"], True, "preference"),
        (["SFTTrainer", "Trainer"], False, "supervised"),
        (["GRPOConfig"], False, "reinforcement"),
        (["Trainer"], True, "reinforcement"),
        (["Trainer"], False, "supervised"),
        ([], False, "supervised"),
    ],
)
def test_methods(classes, rewarded, method):
    assert method_of(classes, rewarded=rewarded) == method


def test_who_evaluates_afterwards_is_not_asked_for_an_evaluation(tmp_path):
    by = {"evaluated_by": "after training, by gradience"}
    run = started_otherwise("diverging", tmp_path, lambda config: config.update(by))
    codes = {alert.code for alert in run.alerts}
    assert "no-evaluation" not in codes
    assert "divergence" in codes


def test_the_learning_rate_is_judged_by_the_peak_that_was_set_and_not_by_the_one_that_was_logged(tmp_path):
    """A log in the middle of a decay shows less than the peak: 24 times below, under a header that says 20."""
    path = tmp_path / "run.jsonl"
    with TelemetryWriter(path) as run:
        run.start({"lora": {"r": 8, "alpha": 16}, "optimizer": {"lr": 5e-5}, "base": {"hidden_size": 2000}})
        run.train_step(10, loss=1.0, lr=4.2e-5)
    (alert,) = monitor_runs([path]).runs[0].alerts
    assert alert.message == "the learning rate 5e-5 is far below the reference for α = 16 (factor 20)"


def test_each_action_has_a_reason():
    alerts = [alert for path in RUNS.glob("*.jsonl") for alert in report(path.stem).alerts]
    assert alerts
    assert all(alert.action and alert.reason for alert in alerts)


def test_the_hidden_nan_is_found_although_every_logged_loss_is_a_number():
    """The Trainer's filter logged a loss of 0.0; gradients and weights tell."""
    run = report("nan")
    assert (run.loss.low_step, run.loss.last, run.loss.first_nonfinite_step) == (4, None, 18)
    assert run.evaluations["eval"].best is None
    alert = next(a for a in run.alerts if a.code == "nonfinite")
    assert "logging_nan_inf_filter hid it" in alert.message
    assert {e.what for e in alert.evidence} >= {"LoRA modules with NaN or infinity"}


# ---------------------------------------------------------------- A bounded series tells the same about a


values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3000)


def filled(numbers):
    series = Series()
    for step, value in enumerate(numbers):
        series.add(step, value)
    return series


@given(values)
@example([math.sin(step) for step in range(5 * MAX_BUCKETS)])
def test_extremes_and_count_are_exact_and_memory_is_bounded(numbers):
    series = filled(numbers)
    assert len(series.buckets) <= MAX_BUCKETS
    assert series.count == len(numbers)
    assert series.lowest.low == min(numbers)
    assert series.highest.high == max(numbers)
    assert numbers[series.lowest.low_step] == min(numbers)
    assert numbers[series.highest.high_step] == max(numbers)
    assert series.last == numbers[-1]
    assert series.level(0, 1) == pytest.approx(sum(numbers) / len(numbers), rel=1e-9, abs=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_counted_and_left_out(bad):
    series = filled([1.0, bad, 3.0, bad])
    assert (series.count, series.nonfinite, series.first_nonfinite_step) == (2, 2, 1)
    assert series.level(0, 1) == 2.0
    assert not math.isfinite(series.last)


def test_dropping_what_a_resumed_run_writes_again():
    series = filled([3.0, 2.0, math.nan, 1.0])
    series.drop_after(1)
    assert (series.count, series.nonfinite, series.last, series.last_step) == (2, 0, 2.0, 1)
    series.add(2, 1.5)
    assert [b.mean for b in series.buckets] == [3.0, 2.0, 1.5]
