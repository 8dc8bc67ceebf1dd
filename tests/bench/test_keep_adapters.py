"""`runtime.keep_adapters`: what stays on disk, and that a run without its weights can still be told again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from bench_process import without_times, write_inputs
from tiny_bench import Watcher

from gradience.bench.config.load import load_config
from gradience.bench.run.bench import run_bench
from gradience.report.faces import to_markdown
from gradience.reports.bench import Bench


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Bench]]:
    config = write_inputs(tmp_path_factory.mktemp("inputs"))
    output = tmp_path_factory.mktemp("output")

    def run(keep: str) -> tuple[Path, Bench]:
        loaded = load_config(config, [f"runtime.keep_adapters={keep}"])
        (bench,), _ = run_bench(loaded, output / keep, Watcher(), page_of=to_markdown)
        return output / keep, bench

    return run


def adapters(folder: Path) -> set[str]:
    """The variants whose weights are there, in whatever file."""
    return {path.relative_to(folder).parts[0] for path in folder.rglob("adapter_model.safetensors")}


def test_by_default_every_adapter_stays(run: Callable[[str], tuple[Path, Bench]]) -> None:
    folder, bench = run("all")
    evaluated = {variant.name for variant in bench.variants if variant.measures is not None}
    assert len(evaluated) > 3
    assert adapters(folder) == {"probe", *evaluated}


@pytest.mark.parametrize(("keep", "left"), [("probe", {"probe"}), ("none", set())])
def test_what_is_not_kept_goes_and_the_result_stays(
    keep: str, left: set[str], run: Callable[[str], tuple[Path, Bench]]
) -> None:
    folder, bench = run(keep)
    assert bench.status in ("PASS", "FAIL")
    assert adapters(folder) == left
    before = without_times(folder / "bench.json")
    stages = {path: path.stat().st_mtime_ns for path in folder.rglob("manifest.json")}
    run(keep)
    assert without_times(folder / "bench.json") == before
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("manifest.json")} == stages
