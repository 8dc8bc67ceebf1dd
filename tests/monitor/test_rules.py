"""Every rule on real runs: where it speaks, and where it must not. scripts/make_monitor_fixtures.py trains them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from gradience.monitor import RULES, monitor_runs

RUNS = Path(__file__).parent / "runs"

# code -> (runs in which it speaks, runs in which it must not)
CASES = {
    "run-error": (["crashed"], ["good", "nan"]),
    "nonfinite": (["nan"], ["good", "overfitting", "diverging", "small_rank"]),
    "divergence": (["diverging"], ["good", "overfitting", "slow", "arithmetic"]),
    "loss-explosion": (["exploding", "diverging"], ["good", "overfitting", "slow", "arithmetic"]),
    "gradient-explosion": (["overfitting"], ["good", "diverging", "slow", "arithmetic"]),
    "overfitting": (["overfitting"], ["good", "slow", "arithmetic"]),
    "memorization-gap": (["overfitting"], ["good", "slow"]),
    "learning-rate": (["slow", "diverging"], ["good", "overfitting", "small_rank"]),
    "no-evaluation": (["diverging"], ["good", "nan"]),
    "untrained-modules": (["slow"], ["good", "arithmetic"]),
    "rank-too-small": (["small_rank"], ["good", "large_rank"]),
    "rank-too-large": (["large_rank"], ["small_rank", "diverging", "exploding"]),
    "plateau": (["slow"], ["good", "overfitting", "arithmetic"]),
}


@cache
def report(name):
    return monitor_runs([RUNS / f"{name}.jsonl"]).runs[0]


def test_every_rule_has_its_runs():
    assert [rule.code for rule in RULES] == list(CASES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_it_speaks_where_it_should(rule):
    for name in CASES[rule.code][0]:
        alert = next((a for a in report(name).alerts if a.code == rule.code), None)
        assert alert is not None, name
        assert alert.severity == rule.severity
        assert alert.source == rule.source
        assert alert.message
        assert alert.evidence or rule.code == "run-error"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_it_is_silent_where_it_must_be(rule):
    for name in CASES[rule.code][1]:
        assert rule.code not in {alert.code for alert in report(name).alerts}, name


def test_the_page_tells_of_every_rule_with_its_severity():
    page = (Path(__file__).parents[2] / "docs" / "monitor.md").read_text(encoding="utf-8")
    for rule in RULES:
        assert f"| `{rule.code}` | {rule.severity} |" in page


def test_a_good_run_has_no_alert():
    run = report("good")
    assert [(a.code, a.severity) for a in run.alerts if a.severity != "info"] == []
    assert run.outcome == "ok"


def test_each_recommendation_answers_an_alert_and_says_why():
    for path in RUNS.glob("*.jsonl"):
        run = report(path.stem)
        codes = {alert.code for alert in run.alerts}
        for item in run.recommendations:
            assert item.because in codes
            assert item.reason
            assert item.evidence or item.because == "run-error"


def test_the_hidden_nan_is_found_although_every_logged_loss_is_a_number():
    """The Trainer's filter logged a loss of 0.0; gradients and weights tell."""
    run = report("nan")
    assert run.loss.nonfinite == 0
    alert = next(a for a in run.alerts if a.code == "nonfinite")
    assert "logging_nan_inf_filter hid it" in alert.message
    assert {e.what for e in alert.evidence} >= {"LoRA modules with NaN or infinity"}
