"""`gradience plot` of several inputs beside each other, and of a training's folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gradience.cli.app import run
from gradience.report.inputs import Source
from gradience.report.page.pieces import part_of
from gradience.report.plots.kinds import plot_of
from gradience.reports.base.blocks import spans
from gradience.reports.bench import Bench
from gradience.reports.bench_aggregate import BenchAggregate

RUNS = Path(__file__).parents[1] / "monitor" / "runs"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)


def drawn(capsys, *words: str) -> list[dict]:
    assert run(["plot", *map(str, words), "-o", "x.svg", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["plots"]


def test_what_has_no_such_plot_is_left_out_by_name(capsys):
    files = [RUNS / f"{name}.jsonl" for name in ("good", "grpo", "diverging")]
    assert run(["plot", "loss", *map(str, files), "-o", "x.svg"]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert f"left out: {RUNS / 'grpo.jsonl'}: no plot of the kind 'loss'" in said.err
    assert run(["plot", "reward", str(files[0]), str(files[2]), "-o", "y.svg"]) == 2
    assert f"error: {files[0]}: no plot of the kind 'reward'" in capsys.readouterr().err
    assert not Path("y.svg").exists()


def test_inputs_of_one_name_are_told_apart(capsys):
    folders = [RESULTS / name for name in ("minilm_shrink", "smollm2_shrink")]
    titles = [one["title"] for one in drawn(capsys, "forest", *(each / "shrink.json" for each in folders))]
    assert [title.partition(":")[0] for title in titles] == [f"{each.name}/shrink.json" for each in folders]
    for each in folders:
        shutil.copytree(each, Path("here") / each.name)
    relative = drawn(
        capsys, "forest", *(Path("here") / each.name / "shrink.json" for each in folders), "--force"
    )
    assert [one["title"] for one in relative] == titles


def test_a_figure_is_as_wide_as_the_column_of_a_paper(capsys):
    words = ["plot", "forest", str(RESULTS / "minilm_shrink" / "shrink.json"), "-o", "x.svg"]
    assert run([*words, "--width", "3.25", "--no-titles"]) == 0
    image = Path("x.svg").read_text(encoding="utf-8")
    assert 'width="234pt"' in image
    assert "answers, with Tango" not in image.partition("</metadata>")[2]
    assert run([*words, "--force"]) == 0
    assert "answers, with Tango" in Path("x.svg").read_text(encoding="utf-8").partition("</metadata>")[2]
    capsys.readouterr()
    assert run([*words, "--force", "--width", "325"]) == 2
    assert capsys.readouterr().err.startswith("error: --width 325: not between 3 and 40 inches\n")


def test_the_folder_of_a_training_is_its_log(tmp_path, capsys):
    (tmp_path / "run" / "checkpoint-5").mkdir(parents=True)
    shutil.copy(RUNS / "good.jsonl", tmp_path / "run" / "run.jsonl")
    assert {"loss", "rank"} <= {one["name"] for one in drawn(capsys, "evolution", tmp_path / "run")}


def test_a_smoke_run_supports_nothing(capsys):
    (pareto,) = drawn(capsys, "pareto", RESULTS / "smollm2_gsm8k_smoke" / "bench.json")
    assert pareto["sentence"].startswith("None is supported; the smallest, ")


def test_of_one_seed_it_is_said_what_passes(capsys):
    (pareto,) = drawn(capsys, "pareto", RESULTS / "smollm2_arithmetic" / "seed_42" / "bench.json")
    assert pareto["sentence"].startswith("The smallest that passes, ladder.r4, ")


def test_a_variant_without_a_bound_for_a_new_run_is_told_apart():
    report = BenchAggregate.read(RESULTS / "smollm2_arithmetic" / "bench_aggregate.json")
    (series,) = plot_of(report, "forest").series
    labels = [row.label for row in series.rows]
    assert "uniform_median (these runs)" in labels
    assert "ladder.r4" in labels
    lost, _ = plot_of(report, "pairs").series
    seed = next(one for one in report.variants if one.name == "ladder.r4").seeds
    assert lost.values[labels.index("ladder.r4")] == sum(cell.only_probe_correct for cell in seed) / 3


def test_the_search_s_own_smallest_is_named_where_two_have_its_size(capsys):
    (pareto,) = drawn(capsys, "pareto", RESULTS / "minilm_shrink_calibrated" / "shrink.json")
    assert pareto["sentence"].startswith("The smallest that is supported, calibrated1, ")


def test_the_title_of_a_smoke_run_claims_nothing():
    report = Bench.read(RESULTS / "smollm2_gsm8k_smoke" / "bench.json")
    title = part_of(Source("bench.json", report)).title
    text = "".join(span.text for span in spans(title))
    assert text.startswith("Bench smoke, no evidence: ")
    assert "PASS" not in text
