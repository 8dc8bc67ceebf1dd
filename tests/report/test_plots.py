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
from compression_sample import compared, comparison, plan, planned
from compression_sample import mistral as mistral_modules
from page_samples import PAGES
from test_faces import SAMPLES

from gradience import audit_adapter
from gradience.cli.app import run
from gradience.cli.demo import example_adapter
from gradience.errors import MissingExtra, UsageError
from gradience.monitor import monitor_runs
from gradience.report.faces import DOCUMENTS
from gradience.report.inputs import Source
from gradience.report.page.parts import part_of
from gradience.report.plots.audits import evolution_plots
from gradience.report.plots.kinds import KINDS, plot_of, plots_of
from gradience.report.plots.table import table_of
from gradience.reports.base.blocks import spans
from gradience.reports.base.numbers import signed
from gradience.reports.base.prediction import CurvePoint, Prediction
from gradience.reports.bench import Bench
from gradience.reports.bench_aggregate import BenchAggregate
from gradience.reports.evaluation import EvaluationReport
from gradience.reports.shrink import ShrinkReport

RUN = Path(__file__).parents[1] / "monitor" / "runs" / "arithmetic.jsonl"
RUNS = RUN.parent
PAGE = Path(__file__).parents[2] / "docs" / "plots.md"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
REVIEWS = RESULTS / "minilm_reviews" / "bench_aggregate.json"
SHRUNK, EVALUATED = (
    RESULTS / "minilm_shrink" / "shrink.json",
    RESULTS / "minilm_evaluation" / "evaluation.json",
)


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def audit():
    return audit_adapter(example_adapter())


DRAWN = {
    **{name: sample for name, sample in SAMPLES.items() if name in KINDS},
    "AuditReport": lambda: audit_report(mistral_rows(layers=2)),
    "ComparisonReport": lambda: comparison([compared("q", 10), compared("k", 80)]),
    "MonitorReport": lambda: monitor_runs([RUN]),
}


@pytest.mark.parametrize("name", DRAWN)
def test_every_plot_has_a_sentence_a_name_of_its_own_and_a_table(name):
    plots = plots_of(DRAWN[name]())
    assert plots
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
    with pytest.raises(UsageError, match="no plot of this CheckReport"):
        SAMPLES["CheckReport"]().plot()
    with pytest.raises(UsageError, match="no backend 'bokeh'"):
        audit.plot(backend="bokeh")


def test_matplotlib_draws_what_it_is_asked_for(audit, monkeypatch):
    pytest.importorskip("matplotlib")
    (axes,) = audit.plot("energy", backend="matplotlib").axes
    assert axes.get_title() == "Cumulative energy"
    assert len(axes.get_lines()) == audit.n_layers + 1  # and the threshold
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingExtra) as refusal:
        audit.plot("energy", backend="matplotlib")
    assert "[plots]" in refusal.value.hint


# ---------------------------------------------------------------- audit


def test_energy_and_spectrum_are_those_of_the_singular_values(audit):
    energy, spectrum = plot_of(audit, "energy"), plot_of(audit, "spectrum")
    for layer, held, sigma in zip(audit.layers, energy.series, spectrum.series, strict=True):
        squares = np.square(layer.singular_values)
        assert held.name == sigma.name == layer.label
        assert held.y == pytest.approx(squares.cumsum() / squares.sum())
        assert sigma.y == pytest.approx(np.array(layer.singular_values) / max(layer.singular_values))
        reached = next(k for k, share in zip(held.x, held.y, strict=True) if share >= 0.9)
        assert reached == layer.energy_rank_90
    assert energy.references[0].at == audit.tau
    assert "needs 2 of the directions in the median module, and 7" in energy.sentence


def test_of_many_modules_the_kinds_have_their_medians():
    report = audit_report(mistral_rows())
    series = plot_of(report, "spectrum").series
    assert [one.name for one in series][:2] == ["q_proj (32)", "k_proj (32)"]
    ratios = [
        layer.singular_values[9] / layer.singular_values[0]
        for layer in report.layers
        if "q_proj" in layer.name
    ]
    assert series[0].y[9] == pytest.approx(np.median(ratios))


def test_the_map_has_each_module_where_it_belongs(audit):
    plot = plot_of(audit)
    (image,) = plot.series
    cells = {
        (plot.y.categories[i], plot.x.categories[j]): value
        for i, values in enumerate(image.values)
        for j, value in enumerate(values)
        if value is not None
    }
    expected = {
        (layer.name.rpartition("layer.")[2].partition(".")[2], str(layer.layer_index)): layer.energy_rank_90
        / 8
        for layer in audit.layers
    }
    assert {
        (kind.rpartition(".")[2], at): value for (kind, at), value in cells.items() if "dense" not in kind
    } == {
        (kind.rpartition(".")[2], at): value for (kind, at), value in expected.items() if "dense" not in kind
    }
    assert sorted(cells.values()) == sorted(expected.values())


def test_use_counts_the_modules(audit):
    plot = plot_of(audit, "use")
    (bars,) = plot.series
    ranks = Counter(layer.energy_rank_90 for layer in audit.layers)
    assert list(bars.values) == [ranks[k] for k in range(1, 9)]
    assert plot.x.categories[2] == "3"
    assert [line.at for line in plot.references] == [
        7,
        1,
        4,
    ]  # of r, the median and the 90th percentile: from 0


def test_use_of_large_ranks_is_counted_in_bins():
    plot = plot_of(audit_report(mistral_rows(layers=2, r=256)), "use")
    assert plot.x.categories[1] == "5 – 8"
    assert sum(plot.series[0].values) == 14
    assert (
        plot.references[0].at == 63.375
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
    runs = [RUN, RUN.parent / "good.jsonl"]
    report = monitor_runs(runs)
    loss, rank = plot_of(report, "loss"), plot_of(report, "rank")
    for run_report, path in zip(report.runs, runs, strict=True):
        (line,) = [one for one in loss.series if one.name == f"{path.name}: training loss"]
        assert line.y == [point.mean for point in run_report.loss.points]
        for name, split in run_report.evaluations.items():
            (line,) = [one for one in loss.series if one.name == f"{path.name}: {name} loss"]
            assert line.y == [point.mean for point in split.loss.points]
        measured = run_report.rank_use is not None and bool(run_report.rank_use.points)
        assert any(one.name.startswith(f"{path.name}: k@90") for one in rank.series) == measured
    single = plot_of(monitor_runs([RUN]), "loss")
    assert single.series[0].name == "training loss"
    assert len(loss.series) > len(single.series)


def test_of_many_runs_each_has_a_line_and_those_with_alerts_stand_out():
    report = monitor_runs(sorted(RUN.parent.glob("*.jsonl")))
    loss, reward = plot_of(report, "loss"), plot_of(report, "reward")
    rewarded = [run for run in report.runs if run.rewards is not None and run.rewards.reward.points]
    others = [run for run in report.runs if run not in rewarded and run.loss.points]
    for plot, runs in ((loss, others), (reward, rewarded)):
        assert [one.name for one in plot.series] == [run.file for run in runs]
        worst = [{alert.severity for alert in run.alerts} for run in runs]
        assert [one.dashed for one in plot.series] == ["error" in severities for severities in worst]
        warned = ["warning" in severities and "error" not in severities for severities in worst]
        assert [one.tone == "warn" for one in plot.series] == warned
        assert plot.references == []
    assert loss.y.scale == "log"  # one of them explodes
    assert reward.y.scale == "linear"
    better = sum(run.loss.last < run.loss.first for run in others)
    assert f"Of {len(others)} runs {better} end with a lower training loss" in loss.sentence
    with pytest.raises(UsageError, match="stable-rank-by-layer"):
        plot_of(report, "stable-rank-by-layer")


def test_alerts_of_one_step_are_one_event():
    run = monitor_runs([RUN.parent / "diverging.jsonl"])
    alerts = [one for one in run.runs[0].alerts if one.evidence and one.evidence[0].step is not None]
    said = [event.label for event in plot_of(run, "loss").references]
    assert sorted(", ".join(said).split(", ")) == sorted(alert.code for alert in alerts)
    assert len(said) == len({alert.evidence[0].step for alert in alerts})


def test_runs_of_one_file_are_told_apart():
    names = [one.name for one in plot_of(monitor_runs([RUN, RUN]), "loss").series]
    assert len(set(names)) == len(names)


def test_the_stable_rank_of_a_layer_is_the_median_of_its_modules_in_the_log():
    records = [json.loads(line) for line in RUN.read_text(encoding="utf-8").splitlines()]
    names = next(each for each in records if each.get("kind") == "lora_modules")["metrics"]["names"]
    last = [each for each in records if each.get("kind") == "lora_spectra"][-1]
    of_layer = [
        value
        for name, value in zip(names, last["metrics"]["stable_rank"], strict=True)
        if ".layers.11." in name
    ]
    plot = plot_of(monitor_runs([RUN]), "stable-rank-by-layer")
    line = next(line for line in plot.series if line.name.endswith("layers.11"))
    assert (line.x[-1], line.y[-1]) == (last["step"], pytest.approx(np.median(of_layer)))
    twice = plot_of(monitor_runs([RUN, RUN]), "stable-rank-by-layer")
    assert [one.y for one in twice.series] == [one.y for one in plot.series] * 2
    assert len({one.name for one in twice.series}) == 2 * len(plot.series)


# ---------------------------------------------------------------- comparisons


def test_the_forest_has_the_counts_and_intervals_of_an_evaluation():
    report = EvaluationReport.read(EVALUATED)
    forest, pairs = plot_of(report), plot_of(report, "pairs")
    rows = dict(zip(forest.y.categories, forest.series[0].rows, strict=True))
    lost, gained = (dict(zip(pairs.y.categories, bars.values, strict=True)) for bars in pairs.series)
    for adapter in report.adapters[1:]:
        label = "base alone" if adapter.role == "base" else adapter.name
        table = adapter.pairs
        assert (lost[label], gained[label]) == (table.n10, table.n01)
        if adapter.role == "base":  # it would press the others together
            assert label not in rows
            assert f"Too far away to be drawn: base alone ({signed(100 * table.delta)})." in forest.sentence
            continue
        assert rows[label].inner == pytest.approx((100 * adapter.bounds.low, 100 * adapter.bounds.high))
        assert rows[label].value == pytest.approx(100 * (table.n01 - table.n10) / report.examples)
        assert (rows[label].low, rows[label].high) == pytest.approx((100 * table.low, 100 * table.high))
    assert [line.at for line in forest.references] == [0, -100 * float(report.margin)]


def test_the_pareto_plot_has_the_sizes_of_the_candidates():
    report = ShrinkReport.read(SHRUNK)
    series = plot_of(report, "pareto").series
    drawn = {
        label: (x, y)
        for points in series
        for label, x, y in zip(points.labels, points.x, points.y, strict=True)
    }
    for candidate in report.candidates:
        kept = candidate.result.lora_params / report.reference.lora_params
        assert drawn[candidate.name] == pytest.approx((kept, 100 * candidate.result.pairs.delta))


def test_a_kept_run_has_its_ladder_and_what_the_policy_does():
    report = BenchAggregate.read(REVIEWS)
    ladder, chances = plot_of(report, "ladder"), plot_of(report, "operating")
    lows = [each.low for each in ladder.series[0].rows]
    assert lows == pytest.approx(
        [None if step.low is None else 100 * step.low for step in report.ladder.steps]
    )
    assert all(each.high is None for each in ladder.series[0].rows)
    equal = dict(zip(chances.y.categories, chances.series[0].values, strict=True))
    assert equal == {
        variant.name: variant.evidence.policy.pass_if_equal
        for variant in report.variants
        if variant.evidence.policy is not None
    }
    forest = plot_of(report, "forest")
    drawn = {
        name: (row.low, row.high)
        for name, row in zip(forest.y.categories, forest.series[0].rows, strict=True)
    }
    pooled = {variant.name: variant.evidence.pooled for variant in report.variants if variant.evidence.pooled}
    assert set(pooled) - set(drawn) == {"random_directions", "head_only"}
    for name in drawn:
        evidence = pooled[name]
        assert drawn[name] == pytest.approx((100 * evidence.new_run.low, 100 * evidence.new_run.high))


def test_the_curve_of_predicted_kl_is_that_of_the_plan():
    points = tuple(
        CurvePoint(rank=k, params=1000 * k, calibrated_kl=0.1 / k, svd_kl=0.2 / k) for k in (4, 2, 1)
    )
    prediction = Prediction(
        kl=0.04, standard_error=0.01, rows=8, scored_tokens=80, excluded_modules=0, ratios={}
    )
    smaller = plan([planned(*one) for one in mistral_modules()], curve=points, prediction=prediction)
    plot = plot_of(smaller, "kl")
    assert list(plot.series[0].x) == [1000, 2000, 4000]
    assert plot.series[1].y == pytest.approx([0.2, 0.1, 0.05])
    assert (plot.series[2].x, plot.series[2].y) == ([smaller.new_params], [0.04])


def test_of_two_logs_the_bounds_that_decide_are_drawn():
    report = SAMPLES["EvidenceReport"]()
    (series,) = plot_of(report, "forest").series
    (row,) = series.rows
    assert row.inner == pytest.approx((100 * report.bounds.low, 100 * report.bounds.high))
    safe = report.bounds.low > -report.margin
    assert plot_of(report, "forest").sentence.startswith(f"{int(safe)} of 1 adapter lies on the safe side")


# ---------------------------------------------------------------- what is smaller, or planned


def test_a_written_compression_has_its_curve_and_stands_on_it_without_the_zeros_of_its_padding():
    points = tuple(CurvePoint(rank=k, params=1000 * k, calibrated_kl=0.1 / k, svd_kl=0.2 / k) for k in (2, 1))
    prediction = Prediction(
        kl=0.04, standard_error=0.01, rows=8, scored_tokens=80, excluded_modules=0, ratios={}
    )
    report = SAMPLES["CompressionReport"]().model_copy(update={"curve": points, "prediction": prediction})
    chosen = plot_of(report, "kl").series[2]
    without = sum(
        row.new_params * row.new_rank // row.stored_rank for row in report.modules if row.stored_rank
    )
    assert without < report.new_params
    assert (list(chosen.x), list(chosen.y)) == ([without], [0.04])


def test_sizes_of_kinds_add_up_to_those_of_the_compression():
    report = SAMPLES["CompressionReport"]()
    for kind, field in (("parameters", "params"), ("bytes", "bytes")):
        before, after = plot_of(report, kind).series
        assert sum(before.values) == sum(getattr(row, f"old_{field}") for row in report.modules)
        assert sum(after.values) == sum(getattr(row, f"new_{field}") for row in report.modules)
    plot = plot_of(report, "kept")
    (image,) = plot.series
    cells = {
        (module, layer): value
        for module, values in zip(plot.y.categories, image.values, strict=True)
        for layer, value in zip(plot.x.categories, values, strict=True)
    }
    row = next(row for row in report.modules if row.name.endswith("layers.1.mlp.up_proj"))
    assert cells["up_proj", "1"] == row.kept_energy
    assert f"rank {row.old_rank} → {row.new_rank}" in str(image.hover)


def test_a_fleet_shows_what_each_step_takes_and_loses():
    report = SAMPLES["FleetReport"]()
    (base,) = report.bases
    slots = plot_of(report, "slots")
    (bars,) = slots.series
    sizes = dict(zip(slots.x.categories, bars.values, strict=True))
    assert sizes == {str(step.max_lora_rank): step.slot_bytes for step in base.steps} | {
        str(base.max_lora_rank): base.slot_bytes
    }
    steps = plot_of(report, "steps")
    lost = {
        steps.x.categories[at]: value for at, value in zip(steps.series[0].x, steps.series[0].y, strict=True)
    }
    assert lost == {str(step.max_lora_rank): step.lost_energy_max for step in base.steps}


def test_a_plan_shows_the_parts_of_its_memory():
    plan_ = PAGES["planned run"]()[0].report
    cost, memory = plan_.cost, plot_of(plan_, "memory")
    parts = [cost.weights_bytes, cost.trained_bytes, cost.activation_bytes, cost.process_bytes]
    assert list(memory.series[0].values) == parts
    margins = plot_of(PAGES["EvaluationForecast"]()[0].report, "margins").series[0]
    assert list(margins.y) == sorted(margins.y)


def test_every_report_has_a_plot_or_says_that_it_has_none():
    """A picture of some would say nothing that a sentence does not: docs/plots.md names them."""
    without = set(DOCUMENTS) - set(KINDS)
    assert len(without) == 4
    with pytest.raises(UsageError, match="no plot of this CheckReport") as caught:
        SAMPLES["CheckReport"]().plot()
    assert "print" in caught.value.hint
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in without)


# ---------------------------------------------------------------- the command


def test_the_command_writes_an_svg_and_says_what_is_seen(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "energy.svg"
    command = ["plot", "energy", str(example_adapter()), "-o", str(path)]
    assert run(command) == 0
    shown = capsys.readouterr()
    assert "needs 2 of the directions in the median module" in shown.out
    assert shown.out in PAGE.read_text(encoding="utf-8")
    texts = {
        "".join(node.itertext()).strip()
        for node in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
    }
    assert {"Cumulative energy", "energy held", "k@90"} <= texts
    before = path.read_bytes()
    assert run(command) == 2
    assert "--force" in capsys.readouterr().err
    assert run([*command, "--force", "--json"]) == 0
    assert path.read_bytes() == before
    assert json.loads(capsys.readouterr().out)["plots"][0]["name"] == "energy"


@pytest.mark.parametrize(
    ("kind", "inputs", "text"),
    [
        ("spectrum", [example_adapter()], "Singular values"),
        ("energy", [example_adapter()], "Cumulative energy"),
        ("heatmap", [example_adapter()], "layer"),
        ("evolution", [RUN], "Use of rank"),
        ("pareto", [SHRUNK], "margin"),
    ],
    ids=["spectrum", "energy", "heatmap", "evolution", "pareto"],
)
def test_each_kind_is_drawn_of_real_input(kind, inputs, text, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "x.svg"
    assert run(["plot", kind, *map(str, inputs), "-o", str(path)]) == 0, capsys.readouterr().err
    assert text in " ".join(ElementTree.parse(path).getroot().itertext())
    assert re.search(r"\d.*\.", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["energy", str(example_adapter()), "-o", "energy.doc"], 2, "not a kind of file"),
        (["evolution", str(example_adapter()), "-o", "x.svg"], 2, "two audits or more"),
        (["forest", str(example_adapter()), "-o", "x.svg"], 2, "no plot of the kind 'forest'"),
        (
            ["energy", str(example_adapter() / "adapter_config.json"), "-o", "x.svg"],
            3,
            "no report is made of this kind of file",
        ),
        (["energy", str(example_adapter() / "README.md"), "-o", "x.svg"], 3, "Invalid JSON"),
    ],
    ids=["kind of file", "one checkpoint", "another's plot", "no schema", "no JSON"],
)
def test_what_cannot_be_drawn_is_said(arguments, code, says, tmp_path, capsys):
    assert run(["plot", *arguments]) == code
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- several inputs beside each other


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


@pytest.mark.parametrize(
    ("kind", "path", "start"),
    [
        (Bench, "smollm2_gsm8k_smoke/bench.json", "None is supported; the smallest, "),
        (Bench, "smollm2_arithmetic/seed_42/bench.json", "The smallest that passes, ladder.r4, "),
        (
            ShrinkReport,
            "minilm_shrink_calibrated/shrink.json",
            "The smallest that is supported, calibrated1, ",
        ),
    ],
    ids=["a smoke run", "one seed", "two of one size"],
)
def test_the_smallest_is_named(kind, path, start):
    assert plot_of(kind.read(RESULTS / path), "pareto").sentence.startswith(start)


def test_a_variant_without_a_bound_for_a_new_run_is_told_apart():
    report = BenchAggregate.read(RESULTS / "smollm2_arithmetic" / "bench_aggregate.json")
    labels = plot_of(report, "forest").y.categories
    assert "uniform_median (these runs)" in labels
    assert "ladder.r4" in labels
    lost, _ = plot_of(report, "pairs").series
    seed = next(one for one in report.variants if one.name == "ladder.r4").seeds
    assert lost.values[labels.index("ladder.r4")] == sum(cell.only_probe_correct for cell in seed) / 3


def test_the_title_of_a_smoke_run_claims_nothing():
    report = Bench.read(RESULTS / "smollm2_gsm8k_smoke" / "bench.json")
    title = part_of(Source("bench.json", report)).title
    text = "".join(span.text for span in spans(title))
    assert text.startswith("Bench smoke, no evidence: ")
    assert "PASS" not in text
