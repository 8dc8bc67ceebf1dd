"""Plots hold the figures of their reports: each is compared with what the report, or a count by hand, says."""

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from page_samples import PAGES
from test_faces import SAMPLES

from gradience import audit_adapter
from gradience.cli.app import run
from gradience.cli.demo import example_adapter
from gradience.errors import MissingExtra, UsageError
from gradience.monitor import monitor_runs
from gradience.reports.bench import Bench, BenchAggregate
from gradience.reports.evaluation import EvaluationReport
from gradience.reports.plots.plot import plot_of, plots_of
from gradience.reports.registry import reports
from gradience.reports.shrink import ShrinkReport
from gradience.words import points

KINDS = {name: report.plots for name, report in reports().items() if report.plots}
RUN = Path(__file__).parents[1] / "monitor" / "runs" / "arithmetic.jsonl"
RUNS = RUN.parent
PAGE = Path(__file__).parents[2] / "docs" / "plots.md"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
SHRUNK = RESULTS / "minilm_shrink" / "shrink.json"


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def audit():
    return audit_adapter(example_adapter())


def named(plot, values):
    """Category of y, or of x without any -> value."""
    return dict(zip(plot.y.categories or plot.x.categories, values, strict=True))


@pytest.mark.parametrize("name", PAGES)
def test_every_plot_has_a_sentence_and_a_name_of_its_own(name):
    for source in PAGES[name]():
        plots = plots_of(source.report)
        assert len({plot.name for plot in plots.values()}) == len(plots)
        for plot in plots.values():
            assert re.fullmatch(r"[a-z0-9-]+", plot.name)
            assert re.search(r"\d.*\.$", plot.sentence, flags=re.DOTALL)


def test_a_kind_that_there_is_not_is_named_with_those_that_there_are(audit):
    with pytest.raises(UsageError, match=r"this audit has no plot 'enegry'") as misspelt:
        audit.plot("enegry")
    assert "energy" in misspelt.value.hint
    with pytest.raises(UsageError, match="'kl'") as absent:
        plot_of(audit, "kl")
    assert "heatmap, energy" in absent.value.hint


def test_every_report_has_a_plot_or_says_that_it_has_none():
    without = set(reports()) - set(KINDS)
    assert "CheckReport" in without
    with pytest.raises(UsageError, match="this check has no plot") as caught:
        SAMPLES["CheckReport"]().plot()
    assert "print" in caught.value.hint


def test_matplotlib_draws_what_it_is_asked_for(audit, monkeypatch):
    pytest.importorskip("matplotlib")
    (axes,) = audit.plot("energy").axes
    assert axes.get_title() == "Cumulative energy"
    assert len(axes.get_lines()) == len({layer.family for layer in audit.layers}) + 1  # and the threshold
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtra) as refusal:
        audit.plot("energy")
    assert "[plots]" in refusal.value.hint


# ---------------------------------------------------------------- audits and runs


def test_energy_and_spectrum_are_those_of_the_singular_values(audit):
    energy, spectrum = plot_of(audit, "energy"), plot_of(audit, "spectrum")
    kinds = {}
    for layer in audit.layers:
        kinds.setdefault(layer.family, []).append(np.array(layer.singular_values))
    for (kind, members), held, sigma in zip(kinds.items(), energy.series, spectrum.series, strict=True):
        assert held.name == sigma.name == f"{kind.removeprefix('attention.self.')} ({len(members)})"
        squares = [np.square(values) for values in members]
        assert held.y == pytest.approx(np.median([each.cumsum() / each.sum() for each in squares], axis=0))
        assert sigma.y == pytest.approx(np.median([values / max(values) for values in members], axis=0))
    assert energy.references[0].at == audit.tau
    assert "needs 2 directions in the median module and 7 at most" in energy.sentence


def test_a_run_has_its_loss_its_evaluations_and_its_use_of_rank():
    report = monitor_runs([RUN])
    (run_report,) = report.runs
    loss, rank = ({line.name: line for line in plot_of(report, kind).series} for kind in ("loss", "rank"))
    assert loss["training loss"].y == [point.mean for point in run_report.loss.points]
    for name, split in run_report.evaluations.items():
        assert loss[f"{name} loss"].y == [point.mean for point in split.loss.points]
    uses = run_report.rank_use.points
    assert rank["median module"].y == [point.energy_rank_90_p50 for point in uses]


def test_of_several_runs_each_has_its_line():
    report = monitor_runs(sorted(RUNS.glob("*.jsonl")))
    loss, others = plot_of(report, "loss"), [run for run in report.runs if run.loss.points]
    assert [line.name for line in loss.series] == [run.file for run in others]
    assert loss.y.scale == "log"  # a loss explodes
    assert "diverging.jsonl 0.703 to 7.21" in loss.sentence


# ---------------------------------------------------------------- comparisons


def test_the_forest_has_the_counts_and_intervals_of_an_evaluation():
    report = EvaluationReport.read(RESULTS / "minilm_evaluation" / "evaluation.json")
    forest = plot_of(report)
    rows = named(forest, forest.series[0].rows)
    for adapter in report.adapters[1:]:
        label = report.base_words if adapter.role == "base" else adapter.name
        table = adapter.pairs
        if adapter.role == "base":  # it would press the others together
            assert label not in rows
            assert f"Off scale: LoRA off, same head ({points(table.delta)})." in forest.sentence
            continue
        drawn = rows[label]
        assert drawn.value == pytest.approx(100 * (table.n01 - table.n10) / report.examples)
        assert (drawn.low, drawn.high) == pytest.approx((100 * adapter.bounds.low, 100 * adapter.bounds.high))
    assert [line.at for line in forest.references] == [0, -100 * float(report.margin)]


def test_the_pareto_plot_has_the_sizes_of_the_candidates():
    report = ShrinkReport.read(SHRUNK)
    drawn = {
        label: (x, y)
        for points in plot_of(report, "pareto").series
        for label, x, y in zip(points.labels, points.x, points.y, strict=True)
    }
    for candidate in report.candidates:
        kept = candidate.result.lora_params / report.reference.lora_params
        assert drawn[candidate.name] == pytest.approx((kept, 100 * candidate.result.pairs.delta))


def test_the_forest_of_a_kept_run_has_its_bounds():
    report = BenchAggregate.read(RESULTS / "minilm_reviews" / "bench_aggregate.json")
    forest = plot_of(report, "forest")
    pooled = {}
    for variant in report.variants:
        shown = variant.evidence.pooled
        if shown is not None:
            pooled[f"{variant.name}{'' if shown.over_trainings else ' (these runs)'}"] = shown
    assert set(pooled) - set(forest.y.categories) == {"random_directions", "head_only"}
    for name, drawn in named(forest, forest.series[0].rows).items():
        bounds = pooled[name].over_trainings or pooled[name].these_runs
        assert (drawn.low, drawn.high) == pytest.approx((100 * bounds.low, 100 * bounds.high))


def test_a_variant_with_a_bound_for_these_runs_only_is_told_apart():
    report = BenchAggregate.read(RESULTS / "smollm2_arithmetic" / "bench_aggregate.json")
    labels = plot_of(report, "forest").y.categories
    assert {"uniform_median (these runs)", "ladder.r4"} <= set(labels)


@pytest.mark.parametrize(
    ("kind", "path", "start"),
    [
        (
            Bench,
            "smollm2_gsm8k_smoke/bench.json",
            "No adapter is shown to stay within the margin. The smallest, ",
        ),
        (
            Bench,
            "smollm2_arithmetic/seed_42/bench.json",
            "The smallest adapter that passes, per_layer.truncate, ",
        ),
        (
            ShrinkReport,
            "minilm_shrink_calibrated/shrink.json",
            "The smallest adapter that is shown to stay within the margin, calibrated1, ",
        ),
    ],
    ids=["a smoke run", "one seed", "two of one size"],
)
def test_the_smallest_is_named(kind, path, start):
    assert plot_of(kind.read(RESULTS / path), "pareto").sentence.startswith(start)


# ---------------------------------------------------------------- the command


def test_the_command_writes_an_svg_and_says_what_is_seen(command):
    pytest.importorskip("matplotlib")
    words = ["plot", "energy", str(example_adapter()), "-o", "energy.svg"]
    shown = command(*words)
    assert "needs 2 directions in the median module" in shown.out
    assert shown.out in PAGE.read_text(encoding="utf-8")
    nodes = ElementTree.parse("energy.svg").iter("{http://www.w3.org/2000/svg}text")
    assert {"Cumulative energy", "energy kept", "90 %"} <= {
        "".join(node.itertext()).strip() for node in nodes
    }
    assert "--force" in command(*words, code=2).err
    before = Path("energy.svg").read_bytes()
    assert run([*words, "--force"]) == 0
    assert Path("energy.svg").read_bytes() == before


def test_the_folder_of_a_training_is_its_log(tmp_path, capsys):
    (tmp_path / "run" / "checkpoint-5").mkdir(parents=True)
    shutil.copy(RUNS / "good.jsonl", tmp_path / "run" / "run.jsonl")
    assert run(["plot", "loss", str(tmp_path / "run"), "-o", "x.svg", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "loss"
