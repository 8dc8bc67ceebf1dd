"""Every shipped config from its YAML to a verdict, on its own architecture scaled down: nothing of it is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from scaled_down import scaled_down

from gradience.bench.config.load import load_config
from gradience.bench.config.shipped import shipped_configs
from gradience.bench.plan.variants import asked_for
from gradience.cli.app import run
from gradience.reports.bench import Bench, BenchAggregate

CONFIGS = list(shipped_configs())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scaled_down")


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_it_goes_from_the_config_to_a_verdict(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(shipped_configs()[name])
    changes = [*scaled_down(config, folder), f"only_seed={config.due[0]}"]
    if "_seed" in name:  # the plan of the config with all seeds, which is run as it stands
        changes += [
            "compression.retrain=null",
            "compression.arms=[truncate]",
            "compression.controls=[rewrite_control]",
        ]
        config = load_config(shipped_configs()[name], changes)
    code = run(["bench", "run", "--config", name, "--output", str(tmp_path), *changes])
    said = capsys.readouterr()
    (path,) = tmp_path.rglob("bench.json")
    bench = Bench.read(path)
    assert {variant.name: variant.reasons for variant in bench.variants if variant.status == "ERROR"} == {}
    assert code in ((0, 1) if len(config.seeds) == 1 else (4,)), said.err  # 4: the other seeds are missing
    assert [variant.name for variant in bench.variants] == [one.name for one in asked_for(config.compression)]
    assert bench.smoke == config.smoke
    assert (bench.probe.rank, bench.probe.n) == (config.lora.probe_r, 4)
    assert all(variant.name in said.out for variant in bench.variants)


@pytest.mark.conformance
@pytest.mark.parametrize("name", [name for name in CONFIGS if "_seed" not in name])
def test_all_its_seeds_reach_an_aggregate(name: str, folder: Path, tmp_path: Path) -> None:
    """Three trainings of one protocol: nothing that a seed leaves behind may change the next one's."""
    config = load_config(shipped_configs()[name])
    changes = [
        *scaled_down(config, folder),
        f"seeds={list(config.seeds if len(config.seeds) > 1 else (1, 2, 3))}",
    ]
    changes += ["run_type=null"] if config.smoke else []  # smoke runs are never added up
    code = run(["bench", "run", "-c", name, "-o", str(tmp_path), "-q", *changes])
    report = BenchAggregate.read(tmp_path / "bench_aggregate.json")
    assert code in (0, 1, 8)
    assert len(report.seeds) == max(3, len(config.seeds))
    assert all(row.source is not None and row.status != "ERROR" for row in report.seeds)
    assert {variant.name for variant in report.variants} == {
        one.name for one in asked_for(config.compression)
    }
