"""Variants that a calibration of the probe chooses: planned, made, resumed, verified."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_process import write_inputs
from test_variants import distill_config as distillation_config
from test_variants import sentences
from tiny_bench import Watcher, bert

from gradience import verify
from gradience.bench.config import BenchConfig, load_config
from gradience.bench.run.bench import run_bench
from gradience.bench.run.seed import SeedRun
from gradience.bench.run.stages import files_of
from gradience.plan.compression import ToSizeOfRank, plan_compression
from gradience.reports.audit import AuditReport
from gradience.reports.bench import Bench
from gradience.reports.bench_plan import BenchPlan
from gradience.reports.calibration import Calibration
from gradience.reports.compression import CompressionReport
from gradience.reports.distill import DistillReport
from gradience.reports.training import StageManifest

CALIBRATES: dict[str, Any] = {
    "variants": ["uniform_r1", "calibrated_r1"],
    "arms": ["truncate", "distill"],
    "controls": ["rewrite_control", "probe_distilled"],
    "distillation": {"lr": 1e-2, "rows": 32},
    "calibration": {"rows": 32},
}
FILE = "calibration/calibration.safetensors"


def config(folder: Path, **compression: Any) -> BenchConfig:
    """One truncation by a calibration, and what it takes."""
    plain = {
        "arms": ["truncate"],
        "controls": [],
        "distillation": None,
        "variants": ["uniform_r1", "calibrated_r1"],
    }
    return distillation_config("seqcls", folder, **{**plain, "calibration": {"rows": 16}, **compression})


class Run:
    """A finished run with everything that a calibration decides, its plan and its result."""

    def __init__(self, folder: Path) -> None:
        self.config = load_config(write_inputs(folder / "inputs", compression=CALIBRATES))
        self.output = folder / "run"
        run_bench(self.config, self.output, Watcher())
        self.bench = Bench.read(self.output / "bench.json")
        self.variants = {variant.name: variant for variant in self.bench.variants}
        self.calibration = Calibration.read(self.output / FILE)
        self.audit = AuditReport.read(self.output / "audit" / "audit.json")

    def report(self, variant: str) -> CompressionReport:
        return CompressionReport.read(self.output / variant / "adapter/adapter/compression_report.json")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("calibrated"))


def test_a_calibrated_variant_is_what_compress_makes_of_the_same_calibration(run):
    criterion = ToSizeOfRank(1)
    expected = plan_compression(run.audit, criterion, calibration=run.calibration)
    written, result = run.report("calibrated_r1.truncate"), run.variants["calibrated_r1.truncate"]
    ranks = {module.name: module.new_rank for module in written.modules}
    assert ranks == {module.name: module.new_rank for module in expected.modules}
    assert written.prediction == expected.prediction
    assert (
        result.predicted.kl_per_token == expected.prediction.kl_per_token
    )  # of a classifier each row has one label
    assert (result.planned_lora_params, result.rank_basis) == (expected.new_params, criterion.words)
    assert result.measures.lora_params == expected.new_params
    uniform = run.variants["uniform_r1.truncate"]
    assert run.variants["calibrated_r1.truncate"].planned_lora_params <= uniform.planned_lora_params


def test_the_plan_names_the_prompts_before_anything_is_trained(run):
    planned, report = BenchPlan.read(run.output / "plan.json").calibration, run.calibration.report
    assert planned.rows == 32
    assert planned.prompts_sha256 == report.prompts_sha256
    assert (report.rows, report.seed) == (32 - report.duplicates, 42)
    assert {path.name for path in (run.output / "calibration").iterdir()} == {
        "calibration.safetensors", "manifest.json",
    }  # fmt: skip


def test_it_is_verified_answered_again_and_seen_when_it_is_changed(run):
    verified = verify(run.output, regenerate=4)
    assert (verified.mismatches, verified.level) == ((), "L3")
    assert "calibration" in {check.name for check in verified.checks}
    regenerated = {one.file.partition("/")[0] for one in verified.regenerated}
    assert regenerated >= {"uniform_r1.distill", "probe_distilled"}
    assert (run.variants["uniform_r1.distill"].arm, run.variants["probe_distilled"].arm) == (
        "distill",
        "control",
    )

    path, original = run.output / FILE, (run.output / FILE).read_bytes()
    manifest_path = path.with_name("manifest.json")
    manifest = StageManifest.read(manifest_path)
    turned = {
        name: each._replace(effects=-each.effects) if place % 2 else each  # its scores are what they were
        for place, (name, each) in enumerate(run.calibration.modules.items())
    }
    try:
        Calibration(run.calibration.report, turned, run.calibration.tokens, run.calibration.selection).write(
            path
        )
        manifest.model_copy(update={"files": files_of(path.parent)}).save(manifest_path)
        changed = verify(run.output)
        places = {(one.file, one.field) for one in changed.mismatches}
        report = "calibrated_r1.truncate/adapter/adapter/compression_report.json"
        assert {(report, "calibration_sha256"), (report, "prediction")} <= places
        assert any(file == "bench.json" and "predicted" in field for file, field in places)

        path.unlink()
        manifest.save(manifest_path)
        assert any("missing" in one.what for one in verify(run.output).mismatches)
    finally:
        path.write_bytes(original)
        manifest.save(manifest_path)


def test_a_report_of_a_distillation_that_was_exchanged_is_seen(run):
    """Another lr than the config's, and another teacher."""
    file = run.output / "uniform_r1.distill/adapter/adapter/distill_report.json"
    before, report = file.read_bytes(), DistillReport.read(file)
    report.model_copy(update={"lr": 3e-3, "teacher_sha256": "0" * 64}).save(file)
    assert {"lr", "teacher_sha256"} <= {one.field for one in verify(run.output).mismatches}
    file.write_bytes(before)


class Interrupted(Watcher):
    """Breaks off in the middle of the calibration."""

    def step(self, done: int, total: int) -> None:
        super().step(done, total)
        if self.stages[-1] == "calibration" and done == 2:
            raise KeyboardInterrupt


def test_a_calibration_that_was_interrupted_begins_again_and_a_finished_one_stands(tmp_path):
    chosen, folder = config(bert(tmp_path / "base")), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        SeedRun(chosen, sentences(), 42, folder, Interrupted()).run()
    assert not (folder / FILE).exists()
    facts = SeedRun(chosen, sentences(), 42, folder, Watcher()).run()
    before, first = (folder / FILE).read_bytes(), facts.outcomes[1].adapter

    again = Watcher()
    assert SeedRun(chosen, sentences(), 42, folder, again).run().outcomes[1].adapter == first
    assert (again.notes, (folder / FILE).read_bytes()) == ([], before)

    (folder / FILE).write_bytes(before[:-8] + bytes(8))
    facts = SeedRun(chosen, sentences(), 42, folder, again).run()
    assert "calibration: repeated: calibration.safetensors is not what this stage wrote" in again.notes
    anew = Calibration.read(folder / FILE)
    assert facts.outcomes[1].adapter.sha256 == first.sha256
    (folder / "before.safetensors").write_bytes(before)
    for name, moments in Calibration.read(folder / "before.safetensors").modules.items():
        assert all(map(np.array_equal, moments, anew.modules[name]))


def test_where_it_fails_the_other_variants_are_made(tmp_path, monkeypatch):
    def fails(*_: Any) -> None:
        raise RuntimeError("no memory left")

    monkeypatch.setattr("gradience.bench.run.seed.calibrate_probe", fails)
    compression = {"variants": ["calibrated_r1", "uniform_r1"], "arms": ["truncate"], "controls": []}
    path = write_inputs(tmp_path / "inputs", compression=compression)
    run_bench(load_config(path), tmp_path / "run", Watcher())
    calibrated, uniform = Bench.read(tmp_path / "run" / "bench.json").variants
    assert (calibrated.status, calibrated.reasons) == ("ERROR", ("RuntimeError: no memory left",))
    assert uniform.status in ("PASS", "FAIL")
    verified = verify(tmp_path / "run")
    assert verified.mismatches == ()
    assert "calibration: that it ended in the recorded error" in verified.not_verified
