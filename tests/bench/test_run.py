"""One seed from training to bench.json, with real training and evaluation of tiny models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_process import CONFIG
from safetensors.torch import load_file
from tiny_bench import Watcher, bert, llama, sentences, sums

from gradience.bench.arms import truncate
from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.preregister import bench_plan
from gradience.bench.run import seed as run_module
from gradience.bench.run.seed import SeedRun
from gradience.bench.verdict.assemble import assemble, data_of
from gradience.bench.verdict.facts import SeedFacts
from gradience.errors import NetworkError
from gradience.evaluate.engines.transformers import TransformersEngine
from gradience.evaluate.evaluator import Evaluator
from gradience.files.records import read_records
from gradience.reports.base.run import Stopwatch
from gradience.reports.bench import Bench
from gradience.reports.bench_plan import BenchPlan, DataSplit
from gradience.reports.training import REPORT, TrainingReport
from gradience.tasks.base import Task

CLASSIFY: dict[str, Any] = CONFIG | {
    "model": {"name": "", "type": "seqcls"},
    "task": {"profile": "sentences", "probe_gate": {"min_value": 0.5}},
    "train": CONFIG["train"] | {"max_steps": 40, "save_steps": None},
    "compression": {"controls": ["per_layer_shuffled", "random_directions", "head_only", "rewrite_control"]},
}
ANSWER: dict[str, Any] = CLASSIFY | {
    "model": {"name": "", "type": "causal_lm"},
    "task": {"profile": "sums", "probe_gate": {"min_value": 0, "above_base": None}},
    "lora": {"probe_r": 8, "alpha": 16, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "compression": {"controls": ["rewrite_control"], "retrain": ["per_layer"]},
}


def with_base(values: dict[str, Any], folder: Path, **sections: Any) -> BenchConfig:
    model = values["model"] | {"name": str(folder)}
    return BenchConfig.model_validate(values | {"model": model} | sections)


def plan_of(config: BenchConfig, task: Task) -> BenchPlan:
    splits = [
        DataSplit(role=role, n=len(task.examples.of(role)), sha256=task.examples.fingerprint(role))
        for role in ("train", "confirm")
    ]
    return bench_plan(config, task.name, splits)


def bench_of(facts: SeedFacts, task: Task) -> Bench:
    plan = plan_of(facts.config, task)
    return assemble(facts, task, data_of(task, facts.config, plan), plan, Stopwatch().run_info())


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def classified(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bench, Watcher]:
    folder, watcher = tmp_path_factory.mktemp("classified"), Watcher()
    config = with_base(CLASSIFY, classifier)
    facts = SeedRun(config, sentences(), 42, folder, watcher).run()
    return folder, bench_of(facts, sentences()), watcher


@pytest.fixture(scope="module")
def answered(causal: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bench, int]:
    folder = tmp_path_factory.mktemp("answered")
    loads: list[int] = []
    load = TransformersEngine.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            TransformersEngine, "load", classmethod(lambda cls, *a, **k: loads.append(1) or load(*a, **k))
        )
        facts = SeedRun(with_base(ANSWER, causal), sums(), 42, folder).run()
    return folder, bench_of(facts, sums()), len(loads)


def test_a_classification_goes_all_the_way(classified: tuple[Path, Bench, Watcher]) -> None:
    _, bench, watcher = classified
    assert watcher.stages[:3] == ["probe/train", "probe/eval", "audit"]
    names = [variant.name for variant in bench.variants]
    assert names[:6] == [
        "uniform_median", "uniform_median.truncate", "uniform_p90", "uniform_p90.truncate", "per_layer",
        "per_layer.truncate",
    ]  # fmt: skip
    assert {"random_directions", "head_only", "rewrite_control"} < set(names)
    assert bench.probe.gate.passed
    assert bench.probe.n == len(sentences().examples.of("confirm"))
    assert bench.status in ("PASS", "FAIL")
    assert all(variant.status != "ERROR" for variant in bench.variants)
    assert bench.base_params > 1_000


def test_the_same_configuration_is_trained_once(classified: tuple[Path, Bench, Watcher]) -> None:
    _, bench, watcher = classified
    trained = [name for name in watcher.stages if name.endswith("/train")]
    evaluated = [variant for variant in bench.variants if variant.measures and not variant.same_as]
    ranks = [variant.name for variant in evaluated if variant.made_by in ("retrain", "head")]
    assert trained == ["probe/train", *(f"{name}/train" for name in ranks)]
    assert len(set(watcher.stages)) == len(watcher.stages)
    for variant in bench.variants:
        if variant.same_as and variant.same_as != "probe":
            other = bench.variant(variant.same_as)
            assert (variant.pairs, variant.measures) == (other.pairs, other.measures)


def test_the_head_alone_is_trained_as_the_probe_is(classified: tuple[Path, Bench, Watcher]) -> None:
    """A head with the probe's LoRA switched off was at chance, and said nothing of what a head can learn."""
    folder, bench, _ = classified
    head = bench.variant("head_only")
    assert head.measures.lora_params == 0
    assert head.measures.other_params == bench.probe.other_params > 0
    alone, probe = (TrainingReport.read(folder / name / "train" / REPORT) for name in ("head_only", "probe"))
    assert (alone.trained, probe.trained) == ("head", "lora")
    assert (alone.recipe, alone.steps, alone.lora) == (probe.recipe, probe.steps, probe.lora)
    assert alone.start.streams == probe.start.streams
    assert alone.start.first_batch_sha256 == probe.start.first_batch_sha256
    weights = "train/adapter/adapter_model.safetensors"
    before, after = load_file(folder / "probe" / weights), load_file(folder / "head_only" / weights)
    for key, value in after.items():
        if "lora_B" in key:
            assert not value.any()
        elif "lora_" not in key:
            assert not torch.equal(value, before[key])


def test_every_result_is_reproduced_from_the_disk_without_a_model(
    classified: tuple[Path, Bench, Watcher], classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, bench, watcher = classified
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for weights in copy.rglob("adapter_model.safetensors"):
        weights.unlink()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a finished stage is made again")

    monkeypatch.setattr(run_module, "train", refuse)
    monkeypatch.setattr(Evaluator, "answers", refuse)
    again = Watcher()
    facts = SeedRun(with_base(CLASSIFY, classifier), sentences(), 42, copy, again).run()
    same = {"run"}
    assert bench_of(facts, sentences()).model_dump(exclude=same) == bench.model_dump(exclude=same)
    assert again.stages == watcher.stages


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a card the base makes room for a training")
def test_everybody_is_evaluated_on_one_base_that_is_loaded_once(answered: tuple[Path, Bench, int]) -> None:
    _, bench, loads = answered
    assert sum(variant.measures is not None for variant in bench.variants) > 3
    assert loads == 1


def test_answers_are_generated_and_compared_with_the_probe_s(answered: tuple[Path, Bench, int]) -> None:
    folder, bench, _ = answered
    assert bench.status in ("PASS", "FAIL")
    for variant in bench.variants:
        if variant.measures is None:
            continue
        assert (folder / variant.measures.records).is_file()
        assert variant.divergence.kl_per_example >= 0
    again = bench.variant("rewrite_control")
    assert again.divergence.kl_per_example < 1e-6
    assert again.divergence.flips == 0
    truncated = bench.variant("uniform_median.truncate")
    assert truncated.divergence.kl_per_example > 10 * again.divergence.kl_per_example


# ------------------------------------------------------------------ what goes wrong


def test_a_probe_below_its_gate_costs_nothing_more(causal: Path, tmp_path: Path) -> None:
    config = with_base(ANSWER, causal, task={"profile": "sums", "probe_gate": {"min_value": 0.99}})
    watcher = Watcher()
    bench = bench_of(SeedRun(config, sums(), 42, tmp_path, watcher).run(), sums())
    assert watcher.stages == ["probe/train", "probe/eval"]
    assert bench.status == "UNDERTRAINED"
    assert {variant.status for variant in bench.variants} == {"UNDERTRAINED"}
    assert bench.audit is None
    assert "its quality gate is 99 %" in bench.variants[0].reasons[0]


def test_a_probe_must_leave_its_base_behind(causal: Path, tmp_path: Path) -> None:
    """The base has no sum of the test right, and neither has a probe of a few steps."""
    config = with_base(ANSWER, causal, task={"profile": "sums", "probe_gate": {"min_value": 0}})
    watcher = Watcher()
    bench = bench_of(SeedRun(config, sums(), 42, tmp_path, watcher).run(), sums())
    assert watcher.stages == ["probe/train", "probe/eval", "base/eval"]
    assert bench.status == "UNDERTRAINED"
    assert (bench.probe.gate.base, bench.probe.gate.base_correct) == (
        "without an adapter",
        bench.probe.correct,
    )
    assert f"the base model has {bench.probe.correct}" in bench.variants[0].reasons[0]
    assert read_records(tmp_path / "base" / "eval" / "answers.records.jsonl")[0].adapter is None


def test_a_probe_that_diverged_is_not_even_evaluated(causal: Path, tmp_path: Path) -> None:
    train = ANSWER["train"] | {"lr": 1e30, "max_grad_norm": 0}
    lora = ANSWER["lora"] | {"target_modules": "all-linear"}
    watcher = Watcher()
    config = with_base(ANSWER, causal, train=train, lora=lora)
    bench = bench_of(SeedRun(config, sums(), 42, tmp_path, watcher).run(), sums())
    assert watcher.stages == ["probe/train"]
    assert bench.status == "UNDERTRAINED"
    assert bench.probe is None
    assert "diverged at step" in bench.variants[0].reasons[0]


def test_a_variant_that_fails_is_a_result_and_the_others_go_on(
    causal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compress = truncate.write_compressed

    def fail(adapter: Path, plan: Any, target: Path, **kwargs: Any) -> Any:
        if "uniform_median.truncate" in str(target):
            raise ZeroDivisionError("for the test")
        return compress(adapter, plan, target, **kwargs)

    monkeypatch.setattr(truncate, "write_compressed", fail)
    config = with_base(ANSWER, causal, compression={"arms": ["truncate"], "controls": ["rewrite_control"]})
    bench = bench_of(SeedRun(config, sums(), 42, tmp_path).run(), sums())
    broken = bench.variant("uniform_median.truncate")
    assert broken.status == bench.status == "ERROR"
    assert broken.reasons == ("ZeroDivisionError: for the test",)
    assert "Traceback" in caplog.text
    per_layer = bench.variant("per_layer.truncate")
    assert per_layer.status in ("PASS", "FAIL")
    monkeypatch.undo()
    repaired = bench_of(SeedRun(config, sums(), 42, tmp_path).run(), sums())
    assert repaired.status in ("PASS", "FAIL")


def test_a_base_that_cannot_be_had_is_an_error_for_the_user_not_a_result(tmp_path: Path) -> None:
    config = with_base(ANSWER, Path("no/such-model-anywhere"))
    with pytest.raises(NetworkError):
        SeedRun(config, sums(), 42, tmp_path).run()
