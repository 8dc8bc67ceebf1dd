"""The configs that come with Gradience: each loads as it stands, and its first lines say how it is run."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from gradience.bench.config import load_config
from gradience.bench.tasks import find
from gradience.bench.variants import asked_for

CONFIGS = sorted(Path(str(files("gradience.bench"))).glob("configs/*.yaml"))
SEEDS = (42, 123, 456)


def named(name: str) -> Path:
    return next(path for path in CONFIGS if path.stem == name)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_loads_and_nothing_in_it_is_without_effect(path):
    config = load_config(path)
    assert config.notes == ()
    assert config.smoke == path.stem.endswith("smoke")
    assert asked_for(config.compression)
    find(config.task.profile)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_begins_with_the_command_what_it_needs_and_what_came_out(path):
    text = path.read_text(encoding="utf-8")
    comment = re.match(r"(?:#.*\n)+", text)[0]
    assert f"--config {path.stem} " in comment or f"--config gradience/bench/configs/{path.name} " in comment
    for word in ("Needs", "esult", "ime") if "smoke" not in path.stem else ("Needs", "esult"):
        assert word in comment
    assert "TODO" not in text
    assert all(len(line) <= 150 for line in text.splitlines())


@pytest.mark.parametrize("name", ["mistral_gsm8k_certifiable", "distilbert_sst2_certifiable"])
def test_the_three_seeds_are_one_protocol(name):
    three = [load_config(named(f"{name}_seed{seed}")) for seed in SEEDS]
    assert [config.seeds for config in three] == [(seed,) for seed in SEEDS]
    assert len({config.protocol_digest() for config in three}) == 1
    assert len({config.digest() for config in three}) == 3
    bodies = {
        re.sub(r"seed(?:: )?\d+|seed \d+", "seed", named(f"{name}_seed{seed}").read_text(encoding="utf-8"))
        for seed in SEEDS
    }
    assert len(bodies) == 1


def test_the_published_mistral_run():
    config = load_config(named("mistral_gsm8k_certifiable_seed42"))
    assert (config.lora.probe_r, config.lora.alpha, config.train.max_steps) == (64, 128, 1200)
    assert config.train.per_device_train_batch_size * config.train.gradient_accumulation_steps == 16
    assert config.train.lr == 1e-4
    assert config.task.eval_samples is None  # all 1,319
    assert 64 in config.compression.allowed_ranks  # the grid does not end below the probe


def test_the_gates():
    gates = {path.stem: str(load_config(path).gate()) for path in CONFIGS}
    assert gates["distilbert_sst2_certifiable_seed42"] == "3/4"
    assert gates["mistral_gsm8k_certifiable_seed42"] == "1/10"
    assert gates["minilm_reviews"] == "4/5"
