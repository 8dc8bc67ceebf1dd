"""Plots of what is smaller or planned hold the figures of their reports: compressions, fleets, plans, earlier runs."""

from __future__ import annotations

import pytest
from page_samples import PAGES
from test_faces import SAMPLES

from gradience.errors import UsageError
from gradience.report.page.render import to_page
from gradience.report.plots.kinds import plot_of
from gradience.reports.base.prediction import CurvePoint, Prediction


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


def test_a_seed_of_an_earlier_version_shows_its_counts_without_intervals():
    report = PAGES["bench of one seed"]()[0].report
    measured = [row for row in report.variants if row.pairs is not None]
    assert measured
    assert all(row.paired is None for row in measured)
    lost, gained = plot_of(report, "pairs").series
    assert list(lost.values) == [row.pairs.only_probe_correct for row in measured]
    assert list(gained.values) == [row.pairs.only_variant_correct for row in measured]
    with pytest.raises(UsageError, match="no plot of the kind 'forest'"):
        plot_of(report, "forest")


def test_the_plot_of_rewards_stands_in_the_section_about_them():
    page = to_page(PAGES["run of rewards"]())
    assert page.index("Reward <a") < page.index('id="plot-reward"') < page.index("Use of rank <a")
