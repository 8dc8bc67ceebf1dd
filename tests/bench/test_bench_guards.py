"""Guards in a Bench config: further data sets on which every variant must hold on every seed."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from bench_process import change_records, timeless, write_config
from data_files import write_jsonl
from spread_here import Here, runner_over
from tiny_bench import Watcher, counted_loads

from gradience.bench.config import BenchConfig, load_config
from gradience.bench.forecast import forecast
from gradience.bench.run.bench import run_bench
from gradience.bench.run.on_ray import _needed
from gradience.bench.verdict.grade import GradeFacts, SeedOutcome, grade, joint_p_value, verdict_over_seeds
from gradience.cli.progress import StageProgress
from gradience.files.records import read_records
from gradience.reports.base.graded import Bounds
from gradience.reports.bench import Bench, BenchAggregate
from gradience.reports.bench_plan import BenchPlan, Policy
from gradience.reports.evaluation import EvaluatedAdapter, EvaluationReport
from gradience.verification.verb import verify

SEEDS = (1, 2)
CUT = "uniform_r1.truncate"


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    rows = [
        {"prompt": f"{a} {b} is{' very' * c} =", "answer": str(a + b)}
        for a in range(9)
        for b in range(9)
        for c in range(3)
    ]
    texts = [f"a {word} film is {number} very {plot}" for word in ("good", "bad") for number in range(9)
             for plot in ("plot", "film")]  # fmt: skip
    file = write_jsonl(folder / "texts.jsonl", [{"text": text} for text in texts])
    exact = {"scorer": "exact", "max_new_tokens": 2}
    general = {"source": str(file), "margin": 0.9, "options": {"scorer": "nll"}, "limit": 30}
    path = write_config(
        folder,
        rows,
        {"options": exact},
        lora={"probe_r": 4, "alpha": 8, "target_modules": "all-linear"},
        train={"lr": 1e-2, "max_steps": 30, "per_device_train_batch_size": 8, "max_length": 24},
        compression={"variants": ["uniform_r1", "uniform_r2"], "arms": ["truncate"]},
        policy={"tolerance": 0.9, "floor": 0.9},
        guards={
            "general": general,
            "same": {"source": str(folder / "rows.jsonl"), "margin": 99, "options": exact},
        },
        seeds=SEEDS,
    )
    values = yaml.safe_load(path.read_text())
    values["model"]["name"] = f"../{folder.name}/base"  # records hold only `base`
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def whole(config_file, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    with counted_loads() as loads:
        run_bench(load_config(config_file), output, Watcher())
    assert len(loads) == len(SEEDS)
    return output


def loss(seed: Path, name: str) -> float:
    """Return a variant's NLL increase on the texts, in nats per token, computed from the records."""
    folder = seed / "guards" / "general" / "records"
    before, after = (read_records(folder / f"{row}.jsonl").records for row in ("probe", name))
    tokens = sum(row.n_tokens for row in before)
    return sum(a.loglikelihood - b.loglikelihood for a, b in zip(before, after, strict=True)) / tokens


def test_every_variant_is_tested_on_every_guard_and_the_columns_follow_from_the_records(whole):
    together = BenchAggregate.read(whole / "bench_aggregate.json")
    (cut,) = [variant for variant in together.variants if variant.name == CUT]
    losses = []
    for seed in SEEDS:
        bench = Bench.read(whole / f"seed_{seed}" / "bench.json")
        assert [guard.name for guard in bench.guards] == ["general", "same"]
        general = EvaluationReport.read(whole / f"seed_{seed}" / "guards" / "general" / "evaluation.json")
        names = [row.name for row in general.adapters]
        assert names == ["probe", "uniform_r1.truncate", "uniform_r2.truncate", "base"]
        assert {row.name: row.guards["general"] for row in bench.candidates} == {
            row.name: row for row in general.candidates
        }
        for row in general.candidates:
            assert row.likelihood.delta == pytest.approx(loss(whole / f"seed_{seed}", row.name), abs=1e-6)
        losses.append(loss(whole / f"seed_{seed}", CUT))
    assert cut.guards["general"].likelihood.delta == pytest.approx(max(losses), abs=1e-6)
    page = (whole / "bench_aggregate.md").read_text(encoding="utf-8")
    assert "general ΔNLL" in page
    assert f"{max(losses):+.4f}".replace("-", "−") in page
    assert [guard.name for guard in BenchPlan.read(whole / "plan.json").guards] == ["general", "same"]


def test_it_verifies_and_one_altered_answer_on_a_guard_is_a_mismatch(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    verified = verify(run, data=True)
    assert (verified.mismatches, verified.level) == ((), "L2")
    path = run / "seed_2" / "guards" / "general" / "records" / f"{CUT}.jsonl"
    change_records(path, lambda _, rows: rows[2].update(loglikelihood=rows[2]["loglikelihood"] + 1))
    wrong = {(each.file, each.field) for each in verify(run).mismatches}
    at = "seed_2/guards/general/evaluation.json"
    assert (at, f"adapters.{CUT}.likelihood.delta") in wrong


def narrow(config_file: Path, margin: float) -> BenchConfig:
    return load_config(config_file, [f"guards.general.margin={margin}"])


def test_a_variant_that_forgets_fails_whatever_its_task_says(config_file, whole, tmp_path):
    worst = {name: max(loss(whole / f"seed_{seed}", name) for seed in SEEDS)
             for name in (CUT, "uniform_r2.truncate")}  # fmt: skip
    assert worst[CUT] > max(0, worst["uniform_r2.truncate"])
    between = (worst[CUT] + max(0, worst["uniform_r2.truncate"])) / 2
    _, together = run_bench(narrow(config_file, round(between, 4)), tmp_path / "run", Watcher())
    assert together is not None
    status = {variant.name: variant.status for variant in together.candidates}
    assert status == {CUT: "FAIL", "uniform_r2.truncate": "PASS"}
    assert any("general: " in why and "nats per token higher than the probe" in why for why in
               next(variant for variant in together.variants if variant.name == CUT).reasons)  # fmt: skip


class KilledInside(Watcher):
    """Raises after the first batch of a stage."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.last = stage

    def step(self, done: int, total: int) -> None:
        if self.stages[-1:] == [self.last]:
            raise KeyboardInterrupt


def test_a_run_that_was_killed_in_a_guard_resumes_there(config_file, whole, tmp_path, capsys):
    config = load_config(config_file)
    with pytest.raises(KeyboardInterrupt):
        run_bench(config, tmp_path, KilledInside("guards/same"))
    before = (tmp_path / "seed_1" / "guards" / "general" / "manifest.json").stat().st_mtime_ns
    run_bench(config, tmp_path, StageProgress())
    assert "evaluating guard same" in capsys.readouterr().err
    assert (tmp_path / "seed_1" / "guards" / "general" / "manifest.json").stat().st_mtime_ns == before
    for seed in SEEDS:
        for guard in ("general", "same"):
            name = f"seed_{seed}/guards/{guard}/records/{CUT}.jsonl"
            assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_stages_that_other_processes_make_give_the_same(config_file, whole, tmp_path, monkeypatch):
    runner_over(config_file, monkeypatch)(Here(), tmp_path)
    for name in ("bench_aggregate.json", "seed_2/bench.json"):
        alone, spread = (
            timeless(json.loads((folder / name).read_text("utf-8"))) for folder in (whole, tmp_path)
        )
        assert alone == spread
    inputs = ("probe/train", "audit", f"{CUT}/adapter", f"{CUT}/eval")
    assert [*_needed("guards/general", inputs)] == [*inputs]


def test_the_dry_run_names_the_guards(config_file):
    text = " ".join(forecast(load_config(config_file)).to_text().split())
    assert "30 examples, margin 0.9 nats per token" in text
    assert "general: " in text


def test_a_guard_that_fails_on_one_seed_fails_the_variant():
    good = [SeedOutcome(seed, n=200, only_probe=2, only_variant=2) for seed in (1, 2)]
    bad = SeedOutcome(3, n=200, guard="general: 0.2 nats per token higher than the probe; allowed: 0.05")
    policy = Policy(pass_rate=Fraction(1, 2))
    assert verdict_over_seeds(good, (1, 2), policy).status == "PASS"
    verdict = verdict_over_seeds([*good, bad], (1, 2, 3), policy)
    assert (verdict.status, verdict.reasons[0].partition(":")[0]) == ("FAIL", "seed 3")


def test_a_grade_needs_every_guard():
    bounds = Bounds(low=-0.01, high=0.01, p_value=0.001)

    def of(letter: str, reason: str, adjusted: float) -> tuple[str, str]:
        row = EvaluatedAdapter.model_construct(grade=letter, reason=reason, bounds=bounds)
        guards = {"general, seed 1": row}
        assert joint_p_value(guards) == (0.001 if letter == "B" else 1)
        return grade(
            GradeFacts(
                passes=True, margin=Fraction("0.025"), these_runs=bounds, next_training=None, adjusted_p=None,
                adjusted_p_these_runs=adjusted, seeds=2, guards=guards,
            )
        )  # fmt: skip

    assert of("B", "", 0.01)[0] == "B"
    unshown = "inconclusive: 60 examples"
    assert of("C", unshown, 1.0) == (
        "C", f"passes the policy, but not shown on the guard general, seed 1: {unshown}"
    )  # fmt: skip
    assert of("D", "worse: NLL", 1.0)[0] == "D"


def test_a_text_alone_is_the_source(config_file):
    values = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    config = BenchConfig.model_validate(values | {"guards": {"general": "text"}})
    assert config.guards["general"].source == "text"
    assert "guards" not in BenchConfig.model_validate(values | {"guards": {}}).model_dump(mode="json")
