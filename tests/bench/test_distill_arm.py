"""The arm `distill` and its control: truncated, distilled by the probe, and never without the control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench_process import CONFIG, write_inputs
from pydantic import ValidationError
from tiny_bench import ROLES, Watcher, bert, llama, sums

from gradience.bench.config.load import BenchConfig, load_config
from gradience.bench.run.bench import run_bench
from gradience.bench.run.seed import SeedRun
from gradience.bench.verify.verify import verify_run
from gradience.reports.bench import Bench
from gradience.reports.distill import DistillReport
from gradience.tasks.base import ClassificationTask
from gradience.tasks.examples import LabeledExample, content_id, prepare

DISTILLS = {
    "variants": ["uniform_r1"],
    "arms": ["truncate", "distill"],
    "controls": ["rewrite_control", "probe_distilled"],
    "distillation": {"lr": 1e-2, "steps": 1},
}
VALUES: dict[str, Any] = CONFIG | {
    "train": CONFIG["train"] | {"max_steps": 40, "save_steps": None},
    "compression": DISTILLS,
}


def sentences(count: int = 60) -> ClassificationTask:
    """Good or bad, and no text twice."""
    items = []
    for place in range(count):
        text = f"{'good' if place % 2 else 'bad'} film {place % 20} {place // 20}"
        items.append(LabeledExample(content_id(text, exact=True), text, place % 2, ROLES[place % 5]))
    return ClassificationTask(name="sentences", examples=prepare(items), label_names=("bad", "good"))


def config(kind: str, folder: Path, **compression: Any) -> BenchConfig:
    profile = {"seqcls": "sentences", "causal_lm": "sums"}[kind]
    gate = {"min_value": 0, "above_base": None}
    lora = VALUES["lora"] | ({"target_modules": ["q_proj", "down_proj"]} if kind == "causal_lm" else {})
    return BenchConfig.model_validate(
        VALUES
        | {"lora": lora}
        | {"model": {"name": str(folder), "type": kind}, "task": {"profile": profile, "probe_gate": gate}}
        | {"compression": DISTILLS | compression}
    )


@pytest.mark.parametrize("kind", ["seqcls", "causal_lm"])
def test_the_truncated_probe_comes_closer_to_the_probe(kind: str, tmp_path: Path) -> None:
    base = (bert if kind == "seqcls" else llama)(tmp_path / "base")
    task = sentences() if kind == "seqcls" else sums()
    folder, watcher = tmp_path / "run", Watcher()
    facts = SeedRun(config(kind, base), task, 42, folder, watcher).run()
    by_name = {outcome.planned.name: outcome for outcome in facts.outcomes}
    assert {name: outcome.error for name, outcome in by_name.items() if outcome.error} == {}
    assert set(by_name) == {"uniform_r1.truncate", "uniform_r1.distill", "rewrite_control", "probe_distilled"}
    stages = iter(watcher.stages)
    order = [
        "rewrite_control/eval",
        "uniform_r1.distill/adapter",
        "probe_distilled/adapter",
        "uniform_r1.distill/eval",
    ]
    assert all(stage in stages for stage in order)
    distilled = by_name["uniform_r1.distill"].adapter
    assert distilled is not None
    assert facts.probe is not None
    assert facts.probe.adapter is not None
    report = DistillReport.read(distilled.folder / "distill_report.json")
    assert report.adapter_sha256 == by_name["uniform_r1.truncate"].adapter.sha256
    assert report.teacher_sha256 == facts.probe.adapter.sha256
    assert report.output_sha256 == distilled.sha256
    assert report.planned_steps == 40
    assert report.improved
    assert report.after.kl_per_token < report.before.kl_per_token
    assert distilled.lora_params == by_name["uniform_r1.truncate"].adapter.lora_params
    left = {path.name for path in (folder / "uniform_r1.distill/adapter").iterdir()}
    assert left == {"adapter", "manifest.json", "parameters.json", "weights_header.json"}
    control = DistillReport.read(folder / "probe_distilled/adapter/adapter/distill_report.json")
    assert control.before.kl_per_token == pytest.approx(0, abs=1e-6)
    assert control.trained_params == control.teacher_params

    again = Watcher()
    SeedRun(config(kind, base), task, 42, folder, again).run()
    assert again.stages == watcher.stages
    assert again.notes == []


def test_a_run_with_distilled_variants_is_verified_and_asked_again(tmp_path: Path) -> None:
    path = write_inputs(
        tmp_path / "inputs", compression=DISTILLS | {"distillation": {"lr": 1e-2, "rows": 64}}
    )
    config, output = load_config(path), tmp_path / "mine"
    run_bench(config, output, Watcher())
    results = {variant.name: variant for variant in Bench.read(output / "bench.json").variants}
    assert (results["uniform_r1.distill"].arm, results["probe_distilled"].arm) == ("distill", "control")
    verified = verify_run(output, regenerate=4)
    assert verified.mismatches == ()
    assert verified.regenerated is not None
    assert {one.file.partition("/")[0] for one in verified.regenerated} >= {
        "uniform_r1.distill",
        "probe_distilled",
    }

    # Another lr than the config's: a report that was exchanged together with its manifest.
    file = output / "uniform_r1.distill/adapter/adapter/distill_report.json"
    DistillReport.read(file).model_copy(update={"lr": 3e-3, "teacher_sha256": "0" * 64}).save(file)
    fields = {one.field for one in verify_run(output).mismatches}
    assert {"lr", "teacher_sha256"} <= fields


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"controls": ["rewrite_control"]}, "the arm distill needs the control probe_distilled"),
        ({"arms": ["truncate"], "distillation": None}, "the control probe_distilled needs the arm distill"),
        ({"arms": ["truncate"], "controls": []}, "`arms` has no `distill`"),
        ({"distillation": {"rows": 15}}, "greater than or equal to 16"),
        ({"distillation": {"steps": 0}}, "greater than 0"),
    ],
)
def test_what_makes_no_sense_together_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=said):
        config("seqcls", tmp_path, **changes)
