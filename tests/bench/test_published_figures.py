"""The original's published figures, counted its way and ours: the numbers in docs/results/bench.md."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from statistics import fmean, pstdev, stdev

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from gradience.bench.verdict.grade import GradeFacts, grade
from gradience.reports.base.graded import Bounds
from gradience.statistics.paired import holm
from gradience.statistics.pooled import Pooled
from gradience.statistics.power import seeds_needed

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "results" / "bench.md").read_text(encoding="utf-8")
RANKS = {42: 2, 123: 4, 456: 2}
PROBE = 32


def trainable(r: int) -> tuple[int, int]:
    """(LoRA, head) as PEFT trains DistilBERT's attention at rank r. No weight is allocated."""
    with torch.device("meta"):
        base = DistilBertForSequenceClassification(DistilBertConfig())
        config = LoraConfig(r=r, target_modules=["q_lin", "k_lin", "v_lin", "out_lin"], task_type="SEQ_CLS")
        model = get_peft_model(base, config)
    named = [(name, p.numel()) for name, p in model.named_parameters() if p.requires_grad]
    lora = sum(size for name, size in named if "lora_" in name)
    return lora, sum(size for _, size in named) - lora


@pytest.fixture(scope="module")
def counted():
    return {r: trainable(r) for r in {PROBE, *RANKS.values()}}


def test_61_and_91_7_percent_are_of_the_same_adapters(counted):
    ours = fmean(1 - counted[r][0] / counted[PROBE][0] for r in RANKS.values())
    theirs = fmean(1 - sum(counted[r]) / sum(counted[PROBE]) for r in RANKS.values())
    assert f"{ours:.1%}" == "91.7%"
    assert theirs == pytest.approx(0.610315739330774, abs=1e-12)  # as the original's aggregate has it
    for lora, head in counted.values():
        assert f"{lora:,} | {lora + head:,}" in PAGE
        assert f"{head:,} parameters at every rank" in PAGE


def test_their_spread_is_over_n_and_ours_over_n_minus_1():
    seeds = [27.0, 28.5, 30.0]
    assert fmean(seeds) == 28.5
    assert f"{pstdev(seeds):.2f} points over n and {stdev(seeds):.2f} over n − 1" in PAGE


N, SEEDS, MARGIN = 200, 3, Fraction(1, 40)
PUBLISHED = {"uniform_median": (1, -5), "uniform_p90": (9, -3), "per_layer": (21, -4)}
"""Mistral-7B on GSM8K: what each variant has more correct than the probe over three seeds, and on the worst of them."""
AT_BEST = {"uniform_median": "C", "uniform_p90": "B", "per_layer": "B"}


def at_best(net: int, worst: int, discordance: float) -> Pooled:
    """The pooled runs if as many answers changed, and the seeds differ as little as mean and worst allow."""
    pairs = round(discordance * N * SEEDS)
    pairs += (pairs - net) % 2
    share = pairs / (N * SEEDS)
    of_run = np.array([worst, (net - worst) / 2, (net - worst) / 2]) / N
    effect = 1 + 0.2 * (SEEDS - 1)
    return Pooled(
        runs=SEEDS,
        examples=N,
        delta=net / (N * SEEDS),
        gained=(pairs + net) // 2,
        lost=(pairs - net) // 2,
        example_variance=effect * share / (N * SEEDS),
        design_effect=effect,
        run_variance=max(0.0, float(of_run.var(ddof=1)) - 0.8 * share / N),
    )


@pytest.mark.parametrize("discordance", [0.12, 0.16, 0.20])
def test_the_grades_that_the_mistral_table_could_have_had(discordance):
    pooled = {name: at_best(net, worst, discordance) for name, (net, worst) in PUBLISHED.items()}
    adjusted = holm([each.p_value(float(MARGIN), "new-run") for each in pooled.values()])
    for (name, each), adjusted_p in zip(pooled.items(), adjusted, strict=True):
        bounds = {
            claim: Bounds.of(each.interval(claim), each.p_value(float(MARGIN), claim))
            for claim in ("these-runs", "new-run")
        }
        facts = GradeFacts(
            passes=True, margin=MARGIN, these_runs=bounds["these-runs"], new_run=bounds["new-run"],
            adjusted_p=adjusted_p, family=len(pooled), seeds=SEEDS,
        )  # fmt: skip
        assert grade(facts).grade == AT_BEST[name]
        [row] = [
            line
            for line in PAGE.splitlines()
            if line.startswith(f"| `{name}`") and "**" in line.split("|")[6]
        ]
        cells = [cell.strip() for cell in row.split("|")]
        place = [0.12, 0.16, 0.20].index(discordance)
        for cell, claim in zip(cells[4:6], bounds, strict=True):
            assert cell.split(" / ")[place] == f"{100 * bounds[claim].low:+.1f}".replace("-", "−")
        assert cells[6].startswith(f"**{AT_BEST[name]}**")


def test_what_it_would_have_taken():
    needed = [seeds_needed(1319, 0.16, 0.025, spread=spread) for spread in (0.005, 0.01)]
    assert needed == [3, 4]
