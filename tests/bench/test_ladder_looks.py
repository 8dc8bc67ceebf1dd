"""A ladder at looks: all seeds answer a step up to its decision, a killed run resumes there, and verify follows."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_process import change_records, timeless, write_config
from tiny_bench import bert

from gradience import verify
from gradience.bench.config import load_config
from gradience.bench.run.bench import run_bench
from gradience.bench.run.seed import SeedRun
from gradience.bench.verdict.facts import ANSWERS
from gradience.files.records import read_records
from gradience.progress import Watcher
from gradience.reports.bench import Bench, BenchAggregate
from gradience.reports.bench_plan import BenchPlan

SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    rows = [
        {"text": f"{('bad', 'good')[i % 2]} film {i}", "label": ("no", "yes")[i % 2], "document": i // 40}
        for i in range(2400)
    ]
    return write_config(
        tmp_path_factory.mktemp("inputs"),
        rows,
        {"profile": "classification", "probe_gate": {"min_value": 0.5, "above_base": None}},
        bert,
        lora={"probe_r": 8, "alpha": 16, "target_modules": ["query", "value"]},
        train={"lr": 3e-3, "max_steps": 60, "per_device_train_batch_size": 8, "max_length": 16},
        compression={
            "variants": ["uniform_r4"],
            "arms": ["truncate"],
            "controls": ["rewrite_control"],
            "ladder": {"steps": [8, 6, 4, 2, 1]},
        },
        seeds=SEEDS,
    )


@pytest.fixture(scope="module")
def whole(config_file, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    run_bench(load_config(config_file), output, Watcher())
    return output


def rows_of(output: Path, name: str) -> list[int]:
    """Answers that each seed has given under a name."""
    paths = [output / f"seed_{seed}" / name / "eval" / ANSWERS for seed in SEEDS]
    return [read_records(path).run.n if path.is_file() else 0 for path in paths]


def test_every_seed_answers_a_step_up_to_the_look_that_decides(whole):
    plan = BenchPlan.read(whole / "plan.json")
    looks, together = plan.ladder.looks, BenchAggregate.read(whole / "bench_aggregate.json")
    assert len(looks) > 1
    assert rows_of(whole, "probe") == rows_of(whole, "uniform_r4.truncate") == 3 * [looks[-1]]
    tested = [step for step in together.ladder.steps if step.examples]
    assert tested
    assert any(step.examples < looks[-1] for step in tested)
    for step in together.ladder.steps[1:]:
        if step.name != "ladder.r4":  # the candidate's twin
            assert rows_of(whole, step.name) == 3 * [step.examples or 0]
        assert (step.status == "shown") == (step.stopped == "shown")
    assert together.ladder.steps[0].status == "not smaller"


def test_the_bound_of_a_step_holds_over_all_looks(whole):
    """By the statistics, from the answers of the records."""
    from gradience.statistics.pooled import pool
    from gradience.statistics.sequential import Look

    plan, together = BenchPlan.read(whole / "plan.json"), BenchAggregate.read(whole / "bench_aggregate.json")
    step = together.ladder.steps[1]
    rows = []
    for seed in SEEDS:
        answers = [
            [row.correct for row in read_records(whole / f"seed_{seed}" / name / "eval" / ANSWERS).records]
            for name in ("probe", step.name)
        ]
        rows.append(np.array(answers[1], int) - np.array(answers[0][: step.examples], int))
    look = Look(plan.ladder.looks, plan.ladder.looks.index(step.examples) + 1)
    pooled = pool(np.stack(rows))
    low = pooled.interval("mean-over-trainings", look.confidence(0.9)).low
    assert step.low == pytest.approx(low, abs=1e-9)
    assert step.low < pooled.interval("mean-over-trainings").low
    assert step.p_value == pytest.approx(look.p_value(pooled.p_value(0.025, "mean-over-trainings")), rel=1e-6)


def test_it_verifies_with_its_data_and_by_answers_made_again(whole):
    verified = verify(whole, data=True, regenerate=8, sample_seed=1)
    assert verified.mismatches == ()
    assert verified.level == "L3"


def test_verify_names_a_step_whose_rows_are_not_those_of_its_look(whole, tmp_path):
    """Answers left off a step after its decision, or before it."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    path = run / "seed_1" / "ladder.r6" / "eval" / ANSWERS

    def five_less(_, rows):
        del rows[-5:]

    change_records(path, five_less)
    assert any("ladder.r6" in mismatch.file for mismatch in verify(run).mismatches)


def test_a_run_that_stops_in_the_ladder_resumes_at_its_look(config_file, whole, tmp_path, monkeypatch):
    reached = []

    def stop(self: Any, facts: Any, name: str, look: int) -> Any:
        if len(reached) == 4:
            raise KeyboardInterrupt
        reached.append((self.seed, name, look))
        return climb(self, facts, name, look)

    climb = SeedRun.evaluate_step
    monkeypatch.setattr(SeedRun, "evaluate_step", stop)
    with pytest.raises(KeyboardInterrupt):
        run_bench(load_config(config_file), tmp_path, Watcher())
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("manifest.json")}
    monkeypatch.setattr(SeedRun, "evaluate_step", climb)
    run_bench(load_config(config_file), tmp_path, Watcher())
    finished = {path for path, when in kept.items() if path.stat().st_mtime_ns == when}
    assert finished >= {path for path in kept if "ladder" not in str(path) or "/adapter/" in str(path)}
    ours, theirs = (
        timeless(json.loads((output / "bench_aggregate.json").read_text())) for output in (tmp_path, whole)
    )
    assert ours["ladder"] == theirs["ladder"]


def test_all_rows_answers_everything_at_once(config_file, tmp_path):
    overrides = ["compression.ladder.all_rows=true", "seeds=[1]", "compression.ladder.steps=[4,2,1]"]
    (bench,), _ = run_bench(load_config(config_file, overrides), tmp_path, Watcher())
    plan = BenchPlan.read(tmp_path / "plan.json")
    assert plan.ladder.looks == ()
    probe = bench.probe
    assert [result.measures and result.measures.n for result in bench.steps] == 3 * [probe.n]


def test_one_seed_climbs_down_by_itself_and_groups_count(config_file, tmp_path):
    overrides = ["seeds=[1]", "task.group=document"]
    (bench,), _ = run_bench(load_config(config_file, overrides), tmp_path, Watcher())
    plan = BenchPlan.read(tmp_path / "plan.json")
    assert plan.group == "document"
    assert plan.groups == bench.data.groups
    assert len(set(plan.groups)) < bench.probe.n
    ends = [n for n in range(1, bench.probe.n) if plan.groups[n] != plan.groups[n - 1]]
    assert set(plan.ladder.looks[:-1]) <= set(ends)  # a look ends with a whole group
    assert bench == Bench.read(tmp_path / "bench.json")
    assert verify(tmp_path, data=True).mismatches == ()
