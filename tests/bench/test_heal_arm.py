"""The arm `heal` and its control: truncated, healed by the probe, and never without the control."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bench_process import CONFIG, write_inputs
from pydantic import ValidationError
from tiny_bench import ROLES, Watcher, bert, llama, sums

from gradience.bench.config.load import BenchConfig, load_config
from gradience.bench.plan.forecast import forecast
from gradience.bench.run.bench import run_bench
from gradience.bench.run.seed import SeedRun
from gradience.bench.verify.regenerate import regenerated
from gradience.bench.verify.verify import verify_run
from gradience.report.faces import to_markdown
from gradience.reports.bench import Bench
from gradience.reports.heal import HealReport
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


def test_a_run_with_healed_variants_is_verified_and_asked_again(tmp_path: Path) -> None:
    path = write_inputs(tmp_path / "inputs", compression=HEALS | {"healing": {"lr": 1e-2, "rows": 64}})
    config, output = load_config(path), tmp_path / "mine"
    run_bench(config, output, Watcher(), page_of=to_markdown)
    results = {variant.name: variant for variant in Bench.read(output / "bench.json").variants}
    assert (results["uniform_r1.heal"].arm, results["probe_healed"].arm) == ("heal", "control")
    verified = verify_run(output, page_of=to_markdown, regenerate=partial(regenerated, least=4))
    assert verified.mismatches == ()
    assert verified.regenerated is not None
    assert {one.file.partition("/")[0] for one in verified.regenerated} >= {"uniform_r1.heal", "probe_healed"}

    # Another lr than the config's: a report that was exchanged together with its manifest.
    file = output / "uniform_r1.heal/adapter/adapter/heal_report.json"
    HealReport.read(file).model_copy(update={"lr": 3e-3, "teacher_sha256": "0" * 64}).save(file)
    fields = {one.field for one in verify_run(output, page_of=to_markdown).mismatches}
    assert {"lr", "teacher_sha256"} <= fields


def test_where_healing_helps_nowhere_it_is_graded_as_the_truncated_probe_that_it_is(tmp_path: Path) -> None:
    path = write_inputs(tmp_path / "inputs", compression=HEALS | {"healing": {"lr": 1e-30, "rows": 64}})
    anyhow = ["task.probe_gate.min_value=0", "task.probe_gate.above_base=null"]
    (bench,), _ = run_bench(load_config(path, anyhow), tmp_path / "out", Watcher(), page_of=to_markdown)
    report = HealReport.read(tmp_path / "out/uniform_r1.heal/adapter/adapter/heal_report.json")
    assert not report.improved
    truncated, healed = bench.variant("uniform_r1.truncate"), bench.variant("uniform_r1.heal")
    assert healed.measures is not None
    assert truncated.measures is not None
    assert healed.measures.adapter_sha256 == truncated.measures.adapter_sha256
    assert healed.evidence is not None
    assert truncated.evidence is not None
    assert healed.evidence.grade == truncated.evidence.grade != "X"


def test_the_forecast_names_the_stages(tmp_path: Path) -> None:
    path = write_inputs(tmp_path, compression=HEALS | {"healing": {}})
    seen = forecast(load_config(path))
    stages = [stage for stage in seen.stages if "heal" in stage]
    assert stages == [
        "uniform_r1.heal/adapter", "probe_healed/adapter", "uniform_r1.heal/eval", "probe_healed/eval",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"controls": ["aa"]}, "the arm heal needs the control probe_healed"),
        ({"arms": ["truncate"], "healing": None}, "the control probe_healed needs the arm heal"),
        ({"arms": ["truncate"], "controls": []}, "`arms` has no `heal`"),
        ({"healing": {"rows": 15}}, "greater than or equal to 16"),
        ({"healing": {"steps": 0}}, "greater than 0"),
    ],
)
def test_what_makes_no_sense_together_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=said):
        config("seqcls", tmp_path, **changes)


def test_how_is_healed_stands_in_the_plan_only_where_something_is(tmp_path: Path) -> None:
    heals = config("seqcls", tmp_path, healing=None).model_dump(mode="json")["compression"]
    assert heals["healing"] == {"steps": "0.1", "rows": 512, "lr": 3e-4}
    without = config("seqcls", tmp_path, arms=["truncate"], controls=[], healing=None)
    assert "healing" not in without.model_dump(mode="json")["compression"]
