"""Paths of the public functions: a text and a `Path` mean the same, and a text is one path."""

import inspect
import json
import shutil
from pathlib import Path

import adapters_to_compare
import pytest

import gradience
from gradience import GradienceError
from gradience.cli.demo import example_adapter

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CPU = {"base_model": "base", "device": "cpu"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A base, adapters of it, rows, and what the other verbs read."""
    folder = adapters_to_compare.classifiers(tmp_path_factory.mktemp("paths"))
    shutil.copytree(example_adapter(), folder / "my_adapter")
    for scores in (EXAMPLES / "evidence").iterdir():
        shutil.copy(scores, folder / scores.name)
    texts = [line.partition(",")[0] for line in (folder / "rows.csv").read_text().splitlines()[1:]]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "bench.yaml").write_text(
        "model: {name: base, type: seqcls}\ntask: {profile: sst2}\nlora: {probe_r: 4}\n"
    )
    gradience.audit_fleet(folder / "my_adapter", folder / "fleet.jsonl", workers=1, root=folder)
    gradience.compress_adapter(folder / "reference", folder / "smaller", rank=2)
    with gradience.TelemetryWriter(folder / "run.jsonl") as run:
        run.start({"lora": {"r": 16}})
        run.train_step(10, loss=0.7, lr=1e-4)
    return folder


def refused(call):
    with pytest.raises(GradienceError) as refusal:
        call()
    return str(refusal.value)


CALLS = {
    "audit_adapter": lambda p: gradience.audit_adapter(p("my_adapter")),
    "audit_fleet": lambda p: gradience.audit_fleet(p("my_adapter"), p("out.jsonl"), root=p("."), workers=1),
    "calibrate_adapter": lambda p: gradience.calibrate_adapter(
        p("reference"), p("c.safetensors"), prompts=p("prompts.jsonl"), dry_run=True, **CPU
    ),
    "check_config": lambda p: gradience.check_config(
        p("my_adapter/adapter_config.json"), peft_dir=p("reference")
    ),
    "compare_adapters": lambda p: gradience.compare_adapters(p("my_adapter"), p("my_adapter")),
    "compare_logs": lambda p: gradience.compare_logs(p("probe.csv"), p("truncated.csv"), margin=1),
    "compress_adapter": lambda p: gradience.compress_adapter(p("my_adapter"), p("out"), rank=2),
    "compress_fleet": lambda p: gradience.compress_fleet(p("fleet.jsonl"), p("out"), rank=2, root=p(".")),
    "convert_adapter": lambda p: gradience.convert_adapter(p("my_adapter"), p("out"), to="peft"),
    "distill_adapter": lambda p: gradience.distill_adapter(
        p("smaller"), p("out"), teacher=p("reference"), prompts=p("prompts.jsonl"), dry_run=True, **CPU
    ),
    "evaluate_adapters": lambda p: gradience.evaluate_adapters(
        p("reference"), data=p("rows.csv"), output=p("out"), margin=5, limit=20, **CPU
    ),
    "merge_adapters": lambda p: gradience.merge_adapters([p("reference"), p("smaller")], p("out")),
    "monitor_runs": lambda p: gradience.monitor_runs(p("run.jsonl")),
    "plan_compression": lambda p: gradience.plan_compression(
        gradience.audit_adapter("my_adapter"), gradience.ToRank(2), path=p("my_adapter")
    ),
    "run_bench": lambda p: refused(lambda: gradience.run_bench(config=p("bench.yaml"), output=p("rows.csv"))),
    "shrink_adapter": lambda p: gradience.shrink_adapter(
        p("reference"), p("out"), data=p("rows.csv"), margin=90, ranks=[1], limit=20, **CPU
    ),
    "update_card": lambda p: gradience.update_card(p("my_adapter")).block,
    "verify": lambda p: gradience.verify(p("smaller")),
}


def content(result):
    """The result without times and the memory of the process."""
    if isinstance(result, str):
        return result
    report = getattr(result, "report", result)
    return report.model_dump(mode="json", exclude={"run", "process_bytes"})


def test_every_public_function_with_paths_is_called():
    functions = {name: getattr(gradience, name) for name in gradience.__all__}
    taking = {
        name
        for name, item in functions.items()
        if inspect.isfunction(item) and "PathLike" in str(inspect.signature(item))
    }
    assert taking == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_a_text_and_a_path_give_the_same(name, prepared, tmp_path, monkeypatch):
    results = []
    for kind in (str, Path):
        folder = tmp_path / kind.__name__ / "work"
        shutil.copytree(prepared, folder)
        monkeypatch.chdir(folder)
        results.append((content(CALLS[name](kind)), sorted(map(str, Path().rglob("*")))))
    assert results[0] == results[1]


def test_one_text_is_one_path(prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    assert [run.file for run in gradience.monitor_runs("run.jsonl").runs] == ["run.jsonl"]
    assert gradience.audit_fleet("my_adapter", workers=1).adapters == 1
    with pytest.raises(GradienceError, match="nowhere"):
        gradience.evaluate_adapters("nowhere", data="rows.csv")
