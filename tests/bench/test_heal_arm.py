"""The arm `heal` and its control: truncated, healed by the probe, and never without the control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench_process import CONFIG
from tiny_bench import ROLES, Watcher, bert, llama, sums

from gradience.artifacts.heal import HealReport
from gradience.bench.config.load import BenchConfig
from gradience.bench.run.seed import SeedRun
from gradience.tasks.base import ClassificationTask
from gradience.tasks.examples import LabelledExample, content_id, prepare

HEALS = {
    "variants": ["uniform_r1"],
    "arms": ["truncate", "heal"],
    "controls": ["aa", "probe_healed"],
    "healing": {"lr": 1e-2, "steps": 1},
}
VALUES: dict[str, Any] = CONFIG | {
    "train": CONFIG["train"] | {"max_steps": 40, "save_steps": None},
    "compression": HEALS,
}


def sentences(count: int = 60) -> ClassificationTask:
    """Good or bad, and no text twice."""
    items = []
    for place in range(count):
        text = f"{'good' if place % 2 else 'bad'} film {place % 20} {place // 20}"
        items.append(LabelledExample(content_id(text, exact=True), text, place % 2, ROLES[place % 5]))
    return ClassificationTask(name="sentences", examples=prepare(items), label_names=("bad", "good"))


def config(kind: str, folder: Path, **compression: Any) -> BenchConfig:
    profile = {"seqcls": "sentences", "causal_lm": "sums"}[kind]
    gate = {"min_value": 0, "above_base": None}
    lora = VALUES["lora"] | ({"target_modules": ["q_proj", "down_proj"]} if kind == "causal_lm" else {})
    return BenchConfig.model_validate(
        VALUES
        | {"lora": lora}
        | {"model": {"name": str(folder), "type": kind}, "task": {"profile": profile, "probe_gate": gate}}
        | {"compression": HEALS | compression}
    )


@pytest.mark.parametrize("kind", ["seqcls", "causal_lm"])
def test_the_truncated_probe_comes_closer_to_the_probe(kind: str, tmp_path: Path) -> None:
    base = (bert if kind == "seqcls" else llama)(tmp_path / "base")
    task = sentences() if kind == "seqcls" else sums()
    folder, watcher = tmp_path / "run", Watcher()
    facts = SeedRun(config(kind, base), task, 42, folder, watcher).run()
    by_name = {outcome.planned.name: outcome for outcome in facts.outcomes}
    assert {name: outcome.error for name, outcome in by_name.items() if outcome.error} == {}
    assert set(by_name) == {"uniform_r1.truncate", "uniform_r1.heal", "aa", "probe_healed"}
    stages = iter(watcher.stages)
    order = ["aa/eval", "uniform_r1.heal/adapter", "probe_healed/adapter", "uniform_r1.heal/eval"]
    assert all(stage in stages for stage in order)
    healed = by_name["uniform_r1.heal"].adapter
    assert healed is not None
    assert facts.probe is not None
    assert facts.probe.adapter is not None
    report = HealReport.read(healed.folder / "heal_report.json")
    assert report.adapter_sha256 == by_name["uniform_r1.truncate"].adapter.sha256
    assert report.teacher_sha256 == facts.probe.adapter.sha256
    assert report.output_sha256 == healed.sha256
    assert report.planned_steps == 40
    assert report.improved
    assert report.after.kl < report.before.kl
    assert healed.lora_params == by_name["uniform_r1.truncate"].adapter.lora_params
    left = {path.name for path in (folder / "uniform_r1.heal/adapter").iterdir()}
    assert left == {"adapter", "manifest.json", "parameters.json"}
    control = HealReport.read(folder / "probe_healed/adapter/adapter/heal_report.json")
    assert control.before.kl == pytest.approx(0, abs=1e-6)
    assert control.trained_params == control.teacher_params

    again = Watcher()
    SeedRun(config(kind, base), task, 42, folder, again).run()
    assert again.stages == watcher.stages
    assert again.notes == []
