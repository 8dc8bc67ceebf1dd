"""Plots hold the figures of their reports: each is compared with what the report, or a count by hand, says."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from audit_sample import mistral_rows, power_law, row
from audit_sample import report as audit_report
from compression_sample import compared, comparison
from page_samples import PAGES
from test_faces import SAMPLES

from gradience import audit_adapter
from gradience.cli.app import run
from gradience.cli.demo import example_adapter
from gradience.errors import MissingExtra, UsageError
from gradience.monitor import monitor_runs
from gradience.reports.base.numbers import signed
from gradience.reports.bench import Bench, BenchAggregate
from gradience.reports.evaluation import EvaluationReport
from gradience.reports.plots.audits import evolution_plots
from gradience.reports.plots.kinds import plot_of, plots_of
from gradience.reports.plots.table import table_of
from gradience.reports.registry import reports
from gradience.reports.shrink import ShrinkReport

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
def test_every_plot_has_a_sentence_a_name_of_its_own_and_a_table(name):
    for source in PAGES[name]():
        plots = plots_of(source.report)
        assert len({plot.name for plot in plots.values()}) == len(plots)
        for plot in plots.values():
            assert re.fullmatch(r"[a-z0-9-]+", plot.name)
            assert re.search(r"\d.*\.$", plot.sentence, flags=re.DOTALL)
            assert table_of(plot).rows


def test_a_kind_that_there_is_not_is_named_with_those_that_there_are(audit):
    with pytest.raises(UsageError, match=r"no plot of the kind 'enegry' of this AuditReport") as misspelt:
        audit.plot("enegry", backend="matplotlib")
    assert "energy" in misspelt.value.hint
    with pytest.raises(UsageError, match="'kl'") as absent:  # the audit has no calibration
        plot_of(audit, "kl")
    assert "heatmap, energy" in absent.value.hint
    with pytest.raises(UsageError, match="no backend 'bokeh'"):
        audit.plot(backend="bokeh")


def test_every_report_has_a_plot_or_says_that_it_has_none():
    """A picture of some would say nothing that a sentence does not: docs/plots.md names them."""
    without = set(reports()) - set(KINDS)
    assert len(without) == 8
    assert all(f"`{name}`" in PAGE.read_text(encoding="utf-8") for name in without)
    with pytest.raises(UsageError, match="no plot of this CheckReport") as caught:
        SAMPLES["CheckReport"]().plot()
    assert "print" in caught.value.hint


def test_matplotlib_draws_what_it_is_asked_for(audit, monkeypatch):
    pytest.importorskip("matplotlib")
    (axes,) = audit.plot("energy", backend="matplotlib").axes
    assert axes.get_title() == "Cumulative energy"
    assert len(axes.get_lines()) == audit.n_layers + 1  # and the threshold
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtra) as refusal:
        audit.plot("energy", backend="matplotlib")
    assert "[plots]" in refusal.value.hint


# ---------------------------------------------------------------- audits and runs


def test_energy_and_spectrum_are_those_of_the_singular_values(audit):
    energy, spectrum = plot_of(audit, "energy"), plot_of(audit, "spectrum")
    for layer, held, sigma in zip(audit.layers, energy.series, spectrum.series, strict=True):
        squares = np.square(layer.singular_values)
        assert held.name == sigma.name == layer.label
        assert held.y == pytest.approx(squares.cumsum() / squares.sum())
        assert sigma.y == pytest.approx(np.array(layer.singular_values) / max(layer.singular_values))
    assert energy.references[0].at == audit.tau
    assert "needs 2 directions in the median module and 7 at most" in energy.sentence


def test_of_many_modules_the_kinds_have_their_medians():
    report = audit_report(mistral_rows())
    line, other, *_ = plot_of(report, "spectrum").series
    assert [line.name, other.name] == ["q_proj (32)", "k_proj (32)"]
    modules = [layer.singular_values for layer in report.layers if "q_proj" in layer.name]
    assert line.y[9] == pytest.approx(np.median([values[9] / values[0] for values in modules]))


def test_the_map_has_each_module_where_it_belongs(audit):
    plot = plot_of(audit)
    cells = {
        (kind, layer): value
        for kind, values in zip(plot.y.categories, plot.series[0].values, strict=True)
        for layer, value in zip(plot.x.categories, values, strict=True)
        if value is not None
    }
    assert len(cells) == audit.n_layers
    for layer in audit.layers:
        (kind,) = [kind for kind in plot.y.categories if layer.name.endswith(kind)]
        assert cells[kind, str(layer.layer_index)] == layer.energy_rank_90 / 8


def test_use_counts_the_modules_of_large_ranks_in_bins(audit):
    plot = plot_of(audit, "use")
    ranks = Counter(layer.energy_rank_90 for layer in audit.layers)
    assert named(plot, plot.series[0].values) == {str(k): ranks[k] for k in range(1, 9)}
    assert [line.at for line in plot.references] == [
        7,
        1,
        4,
    ]  # of r, the median and the 90th percentile: from 0
    large = plot_of(audit_report(mistral_rows(layers=2, r=256)), "use")
    assert large.x.categories[1] == "5 – 8"
    assert sum(large.series[0].values) == 14
    assert (
        large.references[0].at == 63.375
    )  # 256 of bins of 4 directions, counted from the middle of the first


def test_checkpoints_are_in_the_order_of_their_steps():
    def checkpoint(step, exponent):
        rows = [
            row(f"model.layers.{i}.self_attn.q_proj", power_law(8, exponent + i), r=8, shape=(64, 64),
                layer=f"model.layers.{i}", index=i)
            for i in range(2)
        ]  # fmt: skip
        return audit_report(rows, path=f"run/checkpoint-{step}")

    reports = [checkpoint(100, 0.5), checkpoint(200, 1.0)]
    use, by_layer = evolution_plots(reports)
    assert list(use.series[0].x) == [100, 200]
    assert use.series[0].y == [report.energy_rank_90_p50 for report in reports]
    assert [line.name for line in by_layer.series] == ["model.layers.0", "model.layers.1"]
    assert by_layer.series[0].y[1] == pytest.approx(sum(i**-2.0 for i in range(1, 9)))


def test_several_runs_are_drawn_beside_each_other():
    runs = [RUN, RUNS / "good.jsonl"]
    report = monitor_runs(runs)
    loss, rank = ({line.name: line for line in plot_of(report, kind).series} for kind in ("loss", "rank"))
    for run_report, path in zip(report.runs, runs, strict=True):
        assert loss[f"{path.name}: training loss"].y == [point.mean for point in run_report.loss.points]
        for name, split in run_report.evaluations.items():
            assert loss[f"{path.name}: {name} loss"].y == [point.mean for point in split.loss.points]
        measured = run_report.rank_use is not None and bool(run_report.rank_use.points)
        assert any(name.startswith(f"{path.name}: k@90") for name in rank) == measured
    assert plot_of(monitor_runs([RUN]), "loss").series[0].name == "training loss"
    names = [line.name for line in plot_of(monitor_runs([RUN, RUN]), "loss").series]
    assert len(set(names)) == len(names)


def test_of_many_runs_each_has_its_color_and_those_with_errors_are_dashed():
    report = monitor_runs(sorted(RUNS.glob("*.jsonl")))
    loss, reward = plot_of(report, "loss"), plot_of(report, "reward")
    rewarded = [run for run in report.runs if run.rewards is not None and run.rewards.reward.points]
    others = [run for run in report.runs if run not in rewarded and run.loss.points]
    for plot, runs in ((loss, others), (reward, rewarded)):
        assert [line.name for line in plot.series] == [run.file for run in runs]
        worst = [{alert.severity for alert in run.alerts} for run in runs]
        assert [line.dashed for line in plot.series] == ["error" in severities for severities in worst]
        assert {line.tone for line in plot.series} == {""}  # each run has its own color
        assert plot.references == []
    assert (loss.y.scale, reward.y.scale) == ("log", "linear")  # a loss explodes
    better = sum(
        run.loss.last is not None and run.loss.last < run.loss.first for run in others
    )  # NaN is no gain
    assert f"{better} of {len(others)} runs end with a lower training loss" in loss.sentence
    with pytest.raises(UsageError, match="stable-rank-by-layer"):
        plot_of(report, "stable-rank-by-layer")


def test_alerts_of_one_step_are_one_event():
    run = monitor_runs([RUNS / "diverging.jsonl"])
    alerts = [alert for alert in run.runs[0].alerts if alert.evidence and alert.evidence[0].step is not None]
    labels = [event.label for event in plot_of(run, "loss").references]
    assert sorted(", ".join(labels).split(", ")) == sorted(alert.code for alert in alerts)
    assert len(labels) == len({alert.evidence[0].step for alert in alerts})


def test_the_stable_rank_of_a_layer_is_the_median_of_its_modules_in_the_log():
    records = [json.loads(line) for line in RUN.read_text(encoding="utf-8").splitlines()]
    names = next(record for record in records if record.get("kind") == "lora_modules")["metrics"]["names"]
    last = [record for record in records if record.get("kind") == "lora_spectra"][-1]
    ranks = [
        rank
        for name, rank in zip(names, last["metrics"]["stable_rank"], strict=True)
        if ".layers.11." in name
    ]
    plot = plot_of(monitor_runs([RUN]), "stable-rank-by-layer")
    line = next(line for line in plot.series if line.name.endswith("layers.11"))
    assert (line.x[-1], line.y[-1]) == (last["step"], pytest.approx(np.median(ranks)))


# ---------------------------------------------------------------- comparisons


def test_the_forest_has_the_counts_and_intervals_of_an_evaluation():
    report = EvaluationReport.read(RESULTS / "minilm_evaluation" / "evaluation.json")
    forest, pairs = plot_of(report), plot_of(report, "pairs")
    rows = named(forest, forest.series[0].rows)
    lost, gained = (named(pairs, bars.values) for bars in pairs.series)
    for adapter in report.adapters[1:]:
        label = "base model" if adapter.role == "base" else adapter.name
        table = adapter.pairs
        assert (lost[label], gained[label]) == (table.n10, table.n01)
        if adapter.role == "base":  # it would press the others together
            assert label not in rows
            assert f"Off scale: base model ({signed(100 * table.delta)})." in forest.sentence
            continue
        drawn = rows[label]
        assert drawn.inner == pytest.approx((100 * adapter.bounds.low, 100 * adapter.bounds.high))
        assert drawn.value == pytest.approx(100 * (table.n01 - table.n10) / report.examples)
        assert (drawn.low, drawn.high) == pytest.approx((100 * table.low, 100 * table.high))
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


def test_a_kept_run_has_its_ladder_and_what_the_policy_does():
    report = BenchAggregate.read(RESULTS / "minilm_reviews" / "bench_aggregate.json")
    ladder, chances = plot_of(report, "ladder"), plot_of(report, "operating")
    lows = [None if step.low is None else 100 * step.low for step in report.ladder.steps]
    assert [row.low for row in ladder.series[0].rows] == pytest.approx(lows)
    assert all(row.high is None for row in ladder.series[0].rows)
    policies = {row.name: row.evidence.policy for row in report.variants if row.evidence.policy is not None}
    equal = {name: policy.pass_if_equal for name, policy in policies.items()}
    assert named(chances, chances.series[0].values) == equal
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
    pairs = plot_of(report, "pairs")
    cells = next(variant for variant in report.variants if variant.name == "ladder.r4").seeds
    lost = sum(cell.only_probe_correct for cell in cells) / 3
    assert named(pairs, pairs.series[0].values)["ladder.r4"] == lost


def test_of_two_logs_the_bounds_that_decide_are_drawn():
    report = SAMPLES["EvidenceReport"]()
    (row,) = plot_of(report, "forest").series[0].rows
    assert row.inner == pytest.approx((100 * report.bounds.low, 100 * report.bounds.high))
    safe = report.bounds.low > -report.margin
    assert plot_of(report, "forest").sentence.startswith(f"{int(safe)} of 1 adapter is within the margin")


@pytest.mark.parametrize(
    ("kind", "path", "start"),
    [
        (Bench, "smollm2_gsm8k_smoke/bench.json", "No candidate is supported. The smallest, "),
        (Bench, "smollm2_arithmetic/seed_42/bench.json", "The smallest candidate that passes, ladder.r4, "),
        (
            ShrinkReport,
            "minilm_shrink_calibrated/shrink.json",
            "The smallest candidate that is supported, calibrated1, ",
        ),
    ],
    ids=["a smoke run", "one seed", "two of one size"],
)
def test_the_smallest_is_named(kind, path, start):
    assert plot_of(kind.read(RESULTS / path), "pareto").sentence.startswith(start)


# ---------------------------------------------------------------- what is smaller, or planned


def test_a_compression_has_its_curve_and_stands_on_it_without_the_zeros_of_its_padding():
    written, planned = (PAGES[f"calibrated {name}"]()[0].report for name in ("compression", "plan"))
    without = sum(
        row.new_params * row.new_rank // row.stored_rank for row in written.modules if row.stored_rank
    )
    assert without < written.new_params
    for report, params in ((written, without), (planned, planned.new_params)):
        calibrated, svd, chosen = plot_of(report, "kl").series
        assert list(calibrated.x) == [point.params for point in report.curve]
        assert svd.y == pytest.approx([point.svd_kl_per_token for point in report.curve])
        assert (list(chosen.x), list(chosen.y)) == ([params], [report.prediction.kl_per_token])


def test_sizes_of_kinds_add_up_to_those_of_the_compression():
    report = SAMPLES["CompressionReport"]()
    for kind, field in (("parameters", "params"), ("bytes", "bytes")):
        before, after = plot_of(report, kind).series
        assert sum(before.values) == sum(getattr(row, f"old_{field}") for row in report.modules)
        assert sum(after.values) == sum(getattr(row, f"new_{field}") for row in report.modules)
    plot = plot_of(report, "map")
    module = next(row for row in report.modules if row.name.endswith("layers.1.mlp.up_proj"))
    cells = named(plot, plot.series[0].values)["up_proj"]
    assert cells[plot.x.categories.index("1")] == module.measured_error
    assert f"rank {module.old_rank} → {module.new_rank}" in str(plot.series[0].hover)


def test_the_modules_of_a_comparison_stand_in_the_order_of_their_difference():
    report = comparison([compared("q", 10), compared("k", 80)])
    plot = plot_of(report)
    differences = {row.name: row.relative_difference for row in report.modules}
    assert list(plot.series[0].values) == sorted(differences.values(), reverse=True)
    assert [name.rpartition(".")[2] for name in plot.y.categories] == ["k", "q"]


def test_a_fleet_shows_memory_and_error_at_each_step():
    report = SAMPLES["FleetReport"]()
    (base,) = report.bases
    slots, steps = plot_of(report, "slots"), plot_of(report, "steps")
    sizes = {str(step.max_lora_rank): step.slot_bytes for step in base.steps}
    assert named(slots, slots.series[0].values) == sizes | {str(base.max_lora_rank): base.slot_bytes}
    largest = steps.series[0]
    errors = {steps.x.categories[at]: value for at, value in zip(largest.x, largest.y, strict=True)}
    assert errors == {str(step.max_lora_rank): step.lost_energy_max**0.5 for step in base.steps}


def test_a_plan_shows_the_parts_of_its_memory_and_its_margins():
    plan = PAGES["planned run"]()[0].report
    parts = [
        plan.cost.weights_bytes,
        plan.cost.trained_bytes,
        plan.cost.activation_bytes,
        plan.cost.process_bytes,
    ]
    assert list(plot_of(plan, "memory").series[0].values) == parts
    margins = plot_of(PAGES["EvaluationForecast"]()[0].report, "margins").series[0]
    assert list(margins.y) == sorted(margins.y)


# ---------------------------------------------------------------- the command


def drawn(capsys, *words: str) -> list[dict]:
    pytest.importorskip("matplotlib")
    assert run(["plot", *map(str, words), "-o", "x.svg", "--json", "--force"]) == 0
    return json.loads(capsys.readouterr().out)["plots"]


def test_the_command_writes_an_svg_and_says_what_is_seen(capsys):
    pytest.importorskip("matplotlib")
    command = ["plot", "energy", str(example_adapter()), "-o", "energy.svg"]
    assert run(command) == 0
    shown = capsys.readouterr()
    assert "needs 2 directions in the median module" in shown.out
    assert shown.out in PAGE.read_text(encoding="utf-8")
    nodes = ElementTree.parse("energy.svg").iter("{http://www.w3.org/2000/svg}text")
    assert {"Cumulative energy", "energy kept", "k@90"} <= {
        "".join(node.itertext()).strip() for node in nodes
    }
    assert run(command) == 2
    assert "--force" in capsys.readouterr().err
    before = Path("energy.svg").read_bytes()
    assert run([*command, "--force"]) == 0
    assert Path("energy.svg").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["energy", example_adapter(), "-o", "energy.doc"], 2, "unknown file type"),
        (
            ["energy", example_adapter(), "-o", "x.svg", "--width", "325"],
            2,
            "must be between 3 and 40 inches",
        ),
        (["evolution", example_adapter(), "-o", "x.svg"], 2, "two or more audits"),
        (["forest", example_adapter(), "-o", "x.svg"], 2, "no plot of the kind 'forest'"),
        (["reward", RUN, RUNS / "diverging.jsonl", "-o", "x.svg"], 2, "no plot of the kind 'reward'"),
        (
            ["energy", example_adapter() / "adapter_config.json", "-o", "x.svg"],
            3,
            "cannot report on this kind",
        ),
        (["energy", example_adapter() / "README.md", "-o", "x.svg"], 3, "Invalid JSON"),
    ],
    ids=[
        "kind of file",
        "width",
        "one checkpoint",
        "another's plot",
        "none of several",
        "no schema",
        "no JSON",
    ],
)
def test_what_cannot_be_drawn_is_said(arguments, code, says, tmp_path, capsys):
    assert run(["plot", *map(str, arguments)]) == code
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_has_no_such_plot_is_left_out_by_name(capsys):
    pytest.importorskip("matplotlib")
    files = [RUNS / f"{name}.jsonl" for name in ("good", "grpo", "diverging")]
    assert run(["plot", "loss", *map(str, files), "-o", "x.svg"]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 2
    assert f"left out: {RUNS / 'grpo.jsonl'}: no plot of the kind 'loss'" in shown.err


def test_inputs_of_one_name_are_told_apart(capsys):
    folders = [RESULTS / name for name in ("minilm_shrink", "smollm2_shrink")]
    for folder in folders:
        shutil.copytree(folder, Path("here") / folder.name)
    for parent in (RESULTS, Path("here")):
        titles = [plot["title"] for plot in drawn(capsys, "forest", *parent.glob("*l*2_shrink/shrink.json"),
                                                  parent / "minilm_shrink" / "shrink.json")]  # fmt: skip
        assert [title.partition(":")[0] for title in titles] == [
            f"{folder.name}/shrink.json" for folder in reversed(folders)
        ]


def test_a_figure_is_as_wide_as_the_column_of_a_paper(capsys):
    drawn(capsys, "forest", SHRUNK, "--width", "3.25", "--no-titles")
    image = Path("x.svg").read_text(encoding="utf-8")
    assert 'width="234pt"' in image
    assert "accuracy, with Tango" not in image.partition("</metadata>")[2]
    drawn(capsys, "forest", SHRUNK)
    assert "accuracy, with Tango" in Path("x.svg").read_text(encoding="utf-8").partition("</metadata>")[2]


def test_the_folder_of_a_training_is_its_log(tmp_path, capsys):
    (tmp_path / "run" / "checkpoint-5").mkdir(parents=True)
    shutil.copy(RUNS / "good.jsonl", tmp_path / "run" / "run.jsonl")
    assert {"loss", "rank"} <= {plot["name"] for plot in drawn(capsys, "evolution", tmp_path / "run")}
