"""Files of the public predecessor: each gets a sentence that says what it is. Names and shapes as in its repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gradience.artifacts.audit import AuditReport
from gradience.artifacts.base import Artifact
from gradience.artifacts.bench import Bench
from gradience.artifacts.bench_aggregate import BenchAggregate
from gradience.bench.config.load import load_config
from gradience.cli.app import run
from gradience.errors import InputError

CONFIG = """
bench_version: "0.1"
model: {name: distilbert-base-uncased, type: seqcls}
task: {dataset: glue, subset: sst2, profile: seqcls_glue, eval_max_samples: 500}
lora: {probe_r: 16, alpha: 16, target_modules: [q_lin, v_lin]}
train: {max_steps: 100, lr: 2e-4}
"""
POLICY = """
policy_version: "0.1"
policy_name: Safe Uniform Baseline Policy
scope: {model_family: distilbert}
criteria: {pass_rate_min: 0.67, worst_delta_min: -0.025}
recommendations: {primary_uniform_rank: 20}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "given.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("artifact", "content"),
    [
        (Bench, {"bench_version": "0.1", "timestamp": "2026-01-14", "probe": {"rank": 32, "accuracy": 0.8}}),
        (BenchAggregate, {"bench_version": "0.1", "n_seeds": 3, "variant_results": {}}),
        (AuditReport, {"audit_timestamp": "2026-01-13", "probe_rank": 16, "summary": {}, "layers": []}),
        (AuditReport, {"total_lora_params": 1, "n_layers": 1, "peft_dir": "a", "stable_rank_mean": 1.0}),
    ],
)
def test_its_artifacts(tmp_path: Path, artifact: type[Artifact], content: dict[str, object]) -> None:
    path = tmp_path / "artifact.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match="written by the original Gradience") as caught:
        artifact.read(path)
    assert caught.value.code == "artifact-version"
    assert artifact.schema_id in str(caught.value)


def test_a_file_of_ours_that_lost_its_schema_is_not_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "artifact.json"
    path.write_text(json.dumps({"smoke": False, "layers": []}), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        Bench.read(path)
    assert caught.value.code == "artifact-invalid"


def test_its_configs_are_read_and_said_to_be_its(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, CONFIG))
    assert config.notes[0].startswith("a config of the original Gradience")
    assert config.task.profile == "glue"
    with pytest.raises(
        InputError, match=r"given\.yaml \(a config of the original Gradience\): unknown keys"
    ) as caught:
        load_config(write(tmp_path, CONFIG.replace("lr: 2e-4", "lr: 2e-4, batch_size: 4, num_epochs: 2")))
    assert "`train.batch_size`" in str(caught.value)
    assert "`train.num_epochs`" in str(caught.value)


def test_its_policy_files_are_no_configs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a policy file of the original Gradience, not a config") as caught:
        load_config(write(tmp_path, POLICY))
    assert "pass_rate: 0.67, tolerance: 0.025, floor: 0.025" in caught.value.hint


def test_a_run_of_it_cannot_be_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bench.json").write_text(json.dumps({"bench_version": "0.1"}), encoding="utf-8")
    assert run(["bench", "aggregate", str(tmp_path)]) == 3
    assert "written by the original Gradience" in capsys.readouterr().err


def test_a_file_without_a_schema_that_is_nobodys_is_not_asked_to_be_made_again(tmp_path, capsys):
    (tmp_path / "speed.json").write_text('{"machine": "2 cores"}', encoding="utf-8")
    assert run(["bench", "summary", str(tmp_path / "speed.json")]) == 3
    said = capsys.readouterr().err
    assert "it names no schema" in said
    assert "name another file, or the folder of a run" in said
