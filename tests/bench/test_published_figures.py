"""The original's published figures, counted its way and ours: the numbers in docs/results/bench.md."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, pstdev, stdev

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DistilBertConfig, DistilBertForSequenceClassification

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
