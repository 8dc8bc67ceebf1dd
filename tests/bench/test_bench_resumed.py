"""A resumed run: what is unchanged is kept, what its inputs no longer fit is made again, and all of it is said."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from bench_process import timeless, write_inputs
from tiny_bench import Watcher, llama

from gradience.bench.config.load import BenchConfig, load_config
from gradience.bench.run.bench import run_bench
from gradience.bench.verdict.facts import ANSWERS
from gradience.errors import UsageError
from gradience.evaluate.engines.transformers import engine
from gradience.files.records import read_records
from gradience.models.load import fingerprint_of
from gradience.models.settings import ModelSettings
from gradience.reports.bench import Bench
from gradience.tasks import user_code

SECTIONS: dict[str, Any] = {
    "lora": {"probe_r": 4, "alpha": 8, "target_modules": ["query", "value"]},
    "train": {"lr": 3e-3, "max_steps": 12, "per_device_train_batch_size": 4, "max_length": 16},
    "compression": {"arms": ["truncate"], "controls": ["rewrite_control"]},
}


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"), **SECTIONS)


@pytest.fixture(scope="module")
def whole(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    output = tmp_path_factory.mktemp("whole")
    run_bench(load_config(config_file), output, Watcher())
    return output


@pytest.fixture
def output(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, times of files included."""
    return Path(shutil.copytree(whole, tmp_path / "output"))


def again(config_file: Path, output: Path, *overrides: str) -> tuple[Bench, Watcher, set[str]]:
    """Take it up: the result, what was said, and the stages that were made again."""
    before = written(output)
    watcher = Watcher()
    (bench,), _ = run_bench(load_config(config_file, overrides), output, watcher)
    return bench, watcher, {name for name, when in written(output).items() if before.get(name) != when}


def written(output: Path) -> dict[str, int]:
    """Stage -> when its manifest was written."""
    return {
        str(path.parent.relative_to(output)): path.stat().st_mtime_ns
        for path in output.rglob("manifest.json")
    }


def evaluations(output: Path) -> set[str]:
    return {name for name in written(output) if name.endswith("/eval")}


def results(bench: Bench) -> Any:
    return timeless(json.loads(bench.to_json()))


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this is another machine, with another torch."""
    real = engine.numerics_on

    def numerics_elsewhere(device: torch.device) -> dict[str, Any]:
        facts = real(device)
        return facts | {"device": "another card", "versions": facts["versions"] | {"torch": "9.9"}}

    monkeypatch.setattr(engine, "numerics_on", numerics_elsewhere)


# ------------------------------------------------------------------ another machine, other versions


def test_finished_it_is_told_again_on_any_machine(
    config_file: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again(config_file, output, "runtime.keep_adapters=none")
    elsewhere(monkeypatch)
    monkeypatch.setattr("gradience.__version__", "9.9")
    bench, watcher, remade = again(config_file, output, "runtime.threads=2")
    assert (remade, watcher.notes) == (set(), [])
    assert results(bench) == timeless(json.loads((output / "bench.json").read_text()))


def test_unfinished_it_evaluates_all_adapters_again_on_another_machine_and_trains_nothing(
    config_file: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = sorted(evaluations(output))[-1]
    (output / last / "manifest.json").unlink()
    elsewhere(monkeypatch)
    bench, watcher, remade = again(config_file, output)
    assert remade == evaluations(output)
    (note,) = watcher.notes
    assert note.startswith("all adapters are evaluated again, since answers are compared: device ")
    assert "here another card" in note
    assert "here 9.9" in note
    assert bench.status in ("PASS", "FAIL", "INCONCLUSIVE")
    assert all(variant.status != "ERROR" for variant in bench.variants)
    devices = {read_records(path).run.device for path in output.rglob(ANSWERS)}
    assert devices == {"another card"}


def test_another_config_is_refused_with_the_settings_that_differ(config_file: Path, output: Path) -> None:
    there = yaml.safe_load((output / "config.yaml").read_text())
    with pytest.raises(UsageError) as caught:
        again(config_file, output, "train.lr=0.5", "lora.probe_r=7", "runtime.threads=2")
    message, hint = str(caught.value), caught.value.hint
    assert (
        f"another config: `lora.probe_r` is {there['lora']['probe_r']} there, 7 here, `train.lr` is "
        in message
    )
    assert "threads" not in message
    assert caught.value.exit_code == 2
    assert str(output / "config.yaml") in hint
    bench, watcher, remade = again(output / "config.yaml", output)
    assert (remade, watcher.notes) == (set(), [])
    assert bench.plan_digest == Bench.read(output / "bench.json").plan_digest


def test_other_data_are_refused_by_the_name_of_the_split(config_file: Path, output: Path) -> None:
    plan = json.loads((output / "plan.json").read_text())
    plan["splits"][0]["sha256"] = "0" * 64
    (output / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(UsageError, match="contains a run of other data: the train examples differ"):
        again(config_file, output)


def test_weights_that_were_removed_and_are_needed_again_are_asked_for(
    config_file: Path, output: Path
) -> None:
    again(config_file, output, "runtime.keep_adapters=none")
    victim = sorted(evaluations(output) - {"probe/eval"})[0]
    (output / victim / ANSWERS).unlink()
    bench, _, _ = again(config_file, output)
    broken = bench.variant(victim.removesuffix("/eval"))
    assert broken.status == "ERROR"
    assert "its weights are needed again" in broken.reasons[0]


# ------------------------------------------------------------------ what was exchanged or edited


def edit(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    os.utime(path, ns=(1, 1))


def exchange_weights(output: Path) -> None:
    path = output / "probe/train/adapter/adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))


def replacing(file: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    return lambda output: edit(output / file, old, new)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights": (exchange_weights, "probe/train"),
    "training": (replacing("probe/train/training.json", b'"loss": ', b'"loss": 1'), "probe/train"),
    "config": (
        replacing("probe/train/adapter/adapter_config.json", b'"lora_alpha": 8', b'"lora_alpha": 9'),
        "probe/train",
    ),
    "records": (replacing(f"probe/eval/{ANSWERS}", b'"correct":true', b'"correct":false'), "probe/eval"),
    "audit": (
        replacing("audit/audit.json", b'"suggested_r_global_90": ', b'"suggested_r_global_90": 1'),
        "audit",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_was_edited_is_made_again_with_the_same_result(
    what: str, config_file: Path, output: Path
) -> None:
    before = timeless(json.loads((output / "bench.json").read_text()))
    damage, stage = DAMAGE[what]
    damage(output)
    bench, watcher, remade = again(config_file, output)
    assert remade == {stage}  # what depends on it has the same inputs again
    assert watcher.notes == [note for note in watcher.notes if note.startswith(f"{stage}: repeated: ")]
    assert len(watcher.notes) == 1
    assert results(bench) == before


# ------------------------------------------------------------------ scoring


TASK = """
from gradience.tasks.base import GenerationTask
from tiny_bench import sums
from dataclasses import replace

def load() -> GenerationTask:
    return replace(sums(), same=lambda extracted, gold: {same})
"""


def own_task(folder: Path, same: str) -> Path:
    path = folder / "task.py"
    path.write_text(TASK.replace("{same}", same))
    return path


def test_a_corrected_task_gets_its_new_score_and_keeps_its_trainings(tmp_path: Path) -> None:
    values: dict[str, Any] = SECTIONS | {
        "model": {"name": str(llama(tmp_path / "base")), "type": "causal_lm"},
        "task": {
            "profile": str(own_task(tmp_path, "False")),
            "probe_gate": {"min_value": 0, "above_base": None},
        },
        "lora": SECTIONS["lora"] | {"target_modules": ["q_proj", "v_proj"]},
        "runtime": {"device": "cpu", "threads": 1},
    }
    config, output, watcher = BenchConfig.model_validate(values), tmp_path / "output", Watcher()
    with user_code.allowing():
        (wrong,), _ = run_bench(config, output, watcher)
        first = written(output)
        own_task(tmp_path, "True")
        (corrected,), _ = run_bench(config, output, watcher)
    assert (wrong.probe.correct, wrong.data) == (0, corrected.data)
    assert corrected.probe.correct == corrected.probe.n - corrected.probe.failed_extractions > 0
    assert {name for name, when in written(output).items() if first[name] != when} == evaluations(output)
    assert (
        watcher.notes[0] == "the task's own code has changed: trainings are reused, evaluations are repeated"
    )
    assert wrong.plan_digest != corrected.plan_digest
    runs = [read_records(path).run.scoring for path in output.rglob(ANSWERS)]
    assert len(set(runs)) == 1


# ------------------------------------------------------------------ the base, by its content


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_base_in_a_folder_is_known_by_its_files(suffix: str, tmp_path: Path) -> None:
    folder = llama(tmp_path / "base")
    weights = folder / "model.safetensors"
    if suffix == "bin":
        weights = weights.rename(folder / "pytorch_model.bin")
    settings = ModelSettings(name=str(folder), type="causal_lm")
    first = fingerprint_of(settings)
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    assert fingerprint_of(ModelSettings(name=str(copy), type="causal_lm")) == first
    (folder / "README.md").write_text("a card decides nothing")
    assert fingerprint_of(settings) == first
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(weights, ns=(1, 1))
    second = fingerprint_of(settings)
    assert second != first
    edit(folder / "tokenizer.json", b'"good"', b'"fine"')
    assert fingerprint_of(settings) not in (first, second)
