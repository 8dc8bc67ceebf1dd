"""`bench power`: what a budget can show, against tables worked by hand, a kept run's own counts, and the forecast."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pytest
from bench_sample import config
from scipy import stats

from gradience.bench.plan.forecast import forecast, report_of_config
from gradience.bench.plan.power import Assumed, observed, scenario
from gradience.bench.plan.variants import asked_for
from gradience.bench.verdict.folders import read_results
from gradience.cli.app import run
from gradience.reports.bench_plan import Policy
from gradience.reports.power import PowerReport, Scenario

KEPT = Path(__file__).parents[2] / "benchmarks" / "results" / "minilm_reviews"


def of(n: int, seeds: int, discordance: float, spread: float, policy: Policy | None = None) -> Scenario:
    return scenario(Assumed("a variant", discordance, spread), n, seeds, policy or Policy(), 0.025)


@pytest.mark.parametrize(
    ("n", "discordance", "spread", "equal", "worse"),
    [
        pytest.param(200, 0.16, 0.0, 0.58, 0.009, id="200 examples, runs alike"),
        pytest.param(200, 0.20, 0.01, 0.51, 0.015, id="200 examples, runs apart"),
        pytest.param(500, 0.06, 0.01, 0.87, 0.000, id="500 examples, few answers change"),
        pytest.param(500, 0.16, 0.01, 0.70, 0.001, id="500 examples, runs apart"),
        pytest.param(1319, 0.16, 0.01, 0.86, 0.000, id="the whole of GSM8K"),
    ],
)
def test_how_often_the_policy_passes_is_the_table_of_simulations(
    n: int, discordance: float, spread: float, equal: float, worse: float
) -> None:
    expected = of(n, 3, discordance, spread)
    assert expected.pass_if_equal == pytest.approx(equal, abs=0.012)
    assert expected.pass_if_worse == pytest.approx(worse, abs=0.004)


def test_what_is_needed_by_hand() -> None:
    """These runs, one seed: z·√(n·V₀) + z·√(n·pd) + ½ ≤ m·n, V₀ the variance of a pair of a variant at the margin."""
    expected = of(500, 1, 0.16, 0.0)
    lost = 0.08  # under Δ = −m the likeliest share that only the probe has correct is a root of a quadratic
    linear, constant = -0.16 - 2 * 0.025, lost * 0.025 * 1.025
    only_probe = (math.sqrt(linear**2 - 8 * constant) - linear) / 4
    at_margin = 2 * only_probe - 0.025 * 1.025
    for need in expected.needs:
        if need.claim == "these-runs":
            distance = stats.norm.isf(0.05) * math.sqrt(at_margin) + stats.norm.ppf(0.8) * 0.4
            root = (distance + math.sqrt(distance**2 + 4 * 0.025 * 0.5)) / (2 * 0.025)
            assert need.examples == math.ceil(root**2)
        else:
            assert (need.smallest_margin, need.examples) == (None, None)
    assert expected.power_over_trainings is None


def test_what_a_kept_run_has_shown_is_counted_from_its_file() -> None:
    path = KEPT / "bench_aggregate.json"
    variants = {row["name"]: row for row in json.loads(path.read_text(encoding="utf-8"))["variants"]}
    assumed = observed(read_results([KEPT]), "a run")  # type: ignore[arg-type]
    names = {each.name for each in assumed.of}
    assert "uniform_median" in names
    assert not names & {"rewrite_control", "random_directions", "head_only"}
    for each in assumed.of:
        seeds = [row for row in variants[each.name]["seeds"] if row["n"]]
        pairs = [(row["only_probe_correct"], row["only_variant_correct"], row["n"]) for row in seeds]
        share = sum(lost + gained for lost, gained, _ in pairs) / sum(n for _, _, n in pairs)
        assert each.discordance == pytest.approx(share)
        apart = statistics.variance([row["delta"] for row in seeds])
        assert each.spread**2 == pytest.approx(max(0, apart - 0.8 * share / pairs[0][2]), abs=1e-12)


def test_a_config_gives_examples_seeds_and_arms() -> None:
    ours = config(task={"profile": "gsm8k", "eval_samples": 500})
    expected = forecast(ours)
    report = report_of_config(ours)
    assert (report.n, report.seeds, report.allowed) == (500, 3, 12)
    tested = sum(variant.is_candidate for variant in asked_for(ours.compression))
    assert any(f"with {tested} tested together" in said for said in report.assumptions)
    text = report.to_text()
    assert "500 examples and 3 seeds" in text
    assert {each.name for each in expected.scenarios} == {each.name for each in report.scenarios}
    assert expected.scenarios == report.scenarios
    assert "Smallest margin" in expected.to_text()


# ---------------------------------------------------------------- the command


def test_the_screen_is_made_from_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "power", "--n", "500", "--seeds", "5", "--discordance", "0.06", "--spread", "0.01"]
    assert run([*arguments, "--json"]) == 0
    report = PowerReport.model_validate_json(capsys.readouterr().out)
    assert run(arguments) == 0
    assert capsys.readouterr().out == report.to_text()
    assert report.to_markdown().startswith("# Power of 500 examples and 5 seeds\n")
    assert len(report.to_dataframe()) == 1
    assert [each.discordance for each in report.scenarios] == [0.06]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "no budget given"),
        (["--n", "1"], 2, "--n: 1 is not between 2 and 1000000"),
        (["--n", "200", "--seeds", "0"], 2, "--seeds: 0 is not between 1 and 100"),
        (["--n", "200", "lora.probe_r=4"], 2, "no config to override"),
        (["--n", "200", "--discordance", "16"], 2, "16.0 is not between 0 and 1"),
        (["--n", "200", "--discordance", "0"], 2, "0.0 is not between 0 and 1"),
        (["--n", "200", "--spread", "-0.1"], 2, "-0.1 is not between 0 and 1"),
        (["--n", "200", "--margin", "0.025"], 2, "0.025 is read as points; for 2.5 points write 2.5"),
        (["--n", "200", "--margin", "much"], 2, "'much' is not a number"),
        (["--n", "200", "--from", "somewhere", "--discordance", "0.1"], 2, "give only one of --from"),
        (["--n", "200", "--from", "somewhere"], 3, "somewhere: no bench.json in it"),
        (["--config", "no_such_config"], 3, "no_such_config"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "power", *arguments]) == code
    assert said in capsys.readouterr().err
