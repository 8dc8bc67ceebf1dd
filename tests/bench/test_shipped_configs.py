"""The configs that come with Gradience: each loads as it stands, and its first lines say how it is run."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from gradience.bench.config.load import load_config
from gradience.bench.config.shipped import find_config
from gradience.bench.plan.variants import asked_for
from gradience.errors import InputError
from gradience.tasks import find

CONFIGS = sorted(Path(str(files("gradience.bench"))).glob("configs/*.yaml"))
SEEDS = (42, 123, 456)


def named(name: str) -> Path:
    return next(path for path in CONFIGS if path.stem == name)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_loads_and_nothing_in_it_is_without_effect(path):
    config = load_config(path)
    assert config.notes == (() if config.only_seed is None else (config.notes[-1],))
    assert config.smoke == path.stem.endswith("smoke")
    assert asked_for(config.compression)
    find(config.task.profile)


@pytest.mark.parametrize("name", ["mistral_gsm8k_certifiable", "distilbert_sst2_certifiable"])
def test_the_files_of_one_seed_are_the_plan_of_all(name):
    whole, *three = (load_config(named(stem)) for stem in (name, *(f"{name}_seed{seed}" for seed in SEEDS)))
    assert (whole.seeds, whole.due) == (SEEDS, SEEDS)
    assert [config.seeds for config in three] == [SEEDS] * 3
    assert [config.due for config in three] == [(seed,) for seed in SEEDS]
    assert {config.digest() for config in three} == {whole.digest()}
    assert {config.protocol_digest() for config in three} == {whole.protocol_digest()}
    bodies = {
        re.sub(r"seed(?:: )?\d+|seed \d+", "seed", named(f"{name}_seed{seed}").read_text(encoding="utf-8"))
        for seed in SEEDS
    }
    assert len(bodies) == 1


@pytest.mark.parametrize(
    "name",
    [
        "gradience/bench/configs/minilm_reviews.yaml",
        "/clone/of/it/gradience/bench/configs/minilm_reviews.yaml",
        "./gradience/bench/configs/minilm_reviews.yaml",
        "bench/configs/minilm_reviews.yaml",
        "configs/minilm_reviews",
        "minilm_reviews.yaml",
        "minilm_reviews",
    ],
)
def test_the_published_path_is_found_without_a_checkout(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == named("minilm_reviews")


@pytest.mark.parametrize(
    "name", ["mine/minilm_reviews.yaml", "other/bench/configs/minilm_reviews.yaml", "", "."]
)
def test_another_path_is_not_taken_for_a_shipped_config(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        find_config(name)
    assert caught.value.code == "config-not-found"
    assert "minilm_reviews" in caught.value.hint


def test_a_misspelt_name_gets_the_nearest_one():
    with pytest.raises(InputError) as caught:
        find_config("minilm_revews.yaml")
    assert caught.value.hint.startswith("did you mean `minilm_reviews` or `minilm_reviews_demo`")
