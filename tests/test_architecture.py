"""Each kind of thing is added in one file and one line: a toy of each, seen everywhere where its kind is seen."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import pytest


def test_a_toy_control_a_toy_arm_and_a_toy_variant_are_one_object_and_one_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen in the config, the plan, a run, its verdict, and the pages."""
    from bench.tiny_bench import bert, sentences

    from gradience.artifacts.run import Stopwatch
    from gradience.bench.arms import ranks, registry
    from gradience.bench.arms.arm import Control, Derived
    from gradience.bench.config.load import BenchConfig
    from gradience.bench.plan.preregister import register
    from gradience.bench.run.assemble import assemble
    from gradience.bench.run.seed import SeedRun
    from gradience.bench.verdict.aggregate import aggregate
    from gradience.plan.criteria import ToRank
    from gradience.report.bench_document import aggregate_markdown, bench_markdown

    values = {
        "model": {"name": str(bert(tmp_path / "base")), "type": "seqcls"},
        "task": {"profile": "sentences", "probe_gate": {"min_value": 0}},
        "lora": {"probe_r": 4, "alpha": 8, "target_modules": ["query", "value"]},
        "train": {"lr": 3e-3, "max_steps": 2, "per_device_train_batch_size": 4, "max_length": 16},
        "compression": {"variants": ["narrow"], "arms": ["cut"], "controls": ["unharmed"]},
        "runtime": {"device": "cpu", "threads": 1},
    }
    with pytest.raises(ValueError, match="'unharmed' is none of per_layer_shuffled, random_directions"):
        BenchConfig.model_validate(values)

    narrow = ranks.Choice({}, "two of each module")
    monkeypatch.setitem(
        ranks.VARIANTS, "narrow", lambda probe: narrow._replace(ranks=probe.ranks_by(ToRank(2)))
    )
    cut = Derived("cut", registry.ARMS["truncate"].make)
    monkeypatch.setitem(registry.ARMS, "cut", cut)
    unharmed = Control(
        name="unharmed",
        words="the probe itself: must fail, which it cannot",
        ranks=lambda probe: ranks.Choice(probe.ranks, "all of it"),
        arm=Derived("copy", lambda source, _, target: copytree(source.probe, target)),
        expected="FAIL",
        otherwise="nothing was lost",
    )
    monkeypatch.setitem(registry.CONTROLS, "unharmed", unharmed)

    config, task = BenchConfig.model_validate(values), sentences()
    plan = register(config, "sentences", [])
    assert (plan.tests, plan.controls) == (("narrow.cut",), ("unharmed",))
    bench = assemble(SeedRun(config, task, 42, tmp_path / "run").run(), task, plan, Stopwatch())
    assert [(result.name, result.arm, result.made_by, result.evidence) for result in bench.variants] == [
        ("narrow.cut", "cut", "cut", "two of each module"),
        ("unharmed", "control", "copy", "all of it"),
    ]
    assert bench.variants[0].ranks.largest == 2
    assert bench.notes[-1].endswith("where it does on all seeds, nothing was lost")
    assert "unharmed: the probe itself: must fail, which it cannot" in bench_markdown(bench)
    assert "| unharmed | not as expected |" in bench_markdown(bench)

    page = aggregate_markdown(aggregate([bench]))
    assert "unharmed must fail, and passes on the one seed there is" in page
    assert "controls: unharmed is PASS and must be FAIL" in page
