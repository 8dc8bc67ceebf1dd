"""`gradience shrink`: its screen, its files, its exit codes, its plan."""

import json
import math
import shutil
from pathlib import Path

import adapters_to_compare as data
import numpy as np
import pytest
from raising import raises
from safetensors.numpy import load_file

from gradience import shrink_adapter
from gradience.cli.app import run
from gradience.cli.models import code_of
from gradience.errors import UsageError
from gradience.evaluate.inputs import split
from gradience.evaluate.verb import MISSING, read_sets
from gradience.reports.evaluation import EvaluationSetsReport
from gradience.reports.plots.plot import plot_of
from gradience.reports.shrink import ShrinkForecast, ShrinkReport
from gradience.shrink import verb
from gradience.shrink.settings import ShrinkSettings
from gradience.shrink.verb import choose


@pytest.fixture
def arguments(prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    return ["shrink", "reference", "-b", "base", "--data", "rows.csv", "--device", "cpu", "--ranks", "2,1"]


def test_a_search_prints_what_it_writes_and_says_when_nothing_is_shown(arguments, tmp_path, capsys, command):
    out = tmp_path / "out"
    printed = command(*arguments, "-o", out, "--margin", "90")
    report = ShrinkReport.read(out / "shrink.json")
    assert printed.out == report.to_text()
    assert printed.err.startswith(f"note: {data.LABELS}\n60 examples can rule out a drop of 90 points ")
    for words in (
        "stage 4 of 4: evaluating rank1",
        f"written: {out}/shrink.json, {out}/shrink.md, {out}/adapter\n",
    ):
        assert words in printed.err
    assert "Rank 1 is the smallest candidate shown to stay within the margin: 75.0 %" in " ".join(
        printed.out.split()
    )
    assert report.sentence in (out / "shrink.md").read_text(encoding="utf-8")
    assert (out / "adapter" / "compression_report.md").read_text(encoding="utf-8")
    (out / "plan.json").unlink()
    assert run([*arguments, "-o", str(out), "--margin", "90", "--quiet"]) == 8  # exploratory
    for name, words in (
        ("shrink.md", "Exploratory: rank 1 would be the smallest candidate within the margin"),
        ("adapter/README.md", "exploratory (the plan was changed after the first answers)"),
    ):
        assert words in " ".join((out / name).read_text(encoding="utf-8").split())
    capsys.readouterr()
    assert run([*arguments, "-o", str(out), "--margin", "0.5", "--json", "--quiet"]) in (1, 8)
    printed = capsys.readouterr()
    again = ShrinkReport.model_validate(json.loads(printed.out))
    assert again.smallest is None
    assert again.plan.changes == (MISSING, "the margin was 90.00 points, and is 0.50 points")
    screen = again.to_text()
    assert "plan changed after the first answers: the margin was 90.00 points" in " ".join(screen.split())


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (("shown", "shown"), 0),
        (("shown", "worse"), 0),
        (("inconclusive", "not tested"), 8),
        (("worse", "not tested"), 1),
        (("shown", "not evaluated"), 4),
    ],
)
def test_a_smaller_one_that_holds_gives_0_and_one_that_could_not_be_evaluated_4(statuses, code):
    kept = ShrinkReport.read(data.RESULTS / "minilm_shrink" / "shrink.json")
    candidates = tuple(kept.candidates[0].model_copy(update={"status": status}) for status in statuses)
    smallest = "rank4" if "shown" in statuses else None
    assert code_of(kept.model_copy(update={"candidates": candidates, "smallest": smallest})) == code


def test_a_plan_loads_nothing_and_names_candidates_margins_and_memory(
    arguments, capsys, command, monkeypatch, tmp_path
):
    monkeypatch.setattr("gradience.models.load.load_base", lambda *_, **__: pytest.fail("a model is loaded"))
    assert run([*arguments, "--dry-run", "--json", "-o", str(tmp_path / "out")]) == 0
    plan = ShrinkForecast.model_validate(json.loads(capsys.readouterr().out))
    assert [candidate.rank for candidate in plan.candidates] == [2, 1]
    assert plan.weights_bytes > 0 < plan.batch_bytes
    assert plan.process_bytes > 100e6
    given = {"base_model": "base", "data": "rows.csv", "device": "cpu", "ranks": [2, 1]}
    shown = shrink_adapter("reference", tmp_path / "out", **given, dry_run=True)
    assert shown.plan == plan.plan
    printed = command(*arguments, "--dry-run").out
    for words in (
        "Candidates, tested from the largest down",
        "60 examples are too few to rule out a drop of 2.5 points",
        "Python and libraries",
    ):
        assert words in printed
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- `shrink --over strength`


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = data.classifiers(tmp_path_factory.mktemp("classifiers"))
    header, *rows = (root / "rows.csv").read_text().splitlines()
    (root / "guard.csv").write_text(
        "\n".join([header, *(f"{row.split(',')[0]} again,{row.split(',')[1]}" for row in rows)])
    )
    return root


def options(inputs: Path, output: Path) -> dict:
    given = {"base_model": str(inputs / "base"), "data": str(inputs / "rows.csv"), "device": "cpu"}
    guards = {"again": str(inputs / "guard.csv")}
    return {**given, "guards": guards, "over": "strength", "strengths": (0.8, 0.25), "output": output}


@pytest.fixture(scope="module")
def searched(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvaluationSetsReport]:
    output = tmp_path_factory.mktemp("searched") / "out"
    report = shrink_adapter(
        inputs / "reference", **options(inputs, output), ranks=(4, 2), margin={"": 60, "again": 60}
    )
    assert report == EvaluationSetsReport.read(output / "test" / "evaluation_sets.json")
    return output, EvaluationSetsReport.read(output / "dev" / "evaluation_sets.json")


def dense(folder: Path) -> dict[str, np.ndarray]:
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors, scale = load_file(folder / "adapter_model.safetensors"), config["lora_alpha"] / config["r"]
    return {
        name: scale * tensors[name.replace("lora_A", "lora_B")] @ tensor
        for name, tensor in tensors.items()
        if "lora_A" in name
    }


def test_every_strength_and_rank_is_made_and_measured_on_dev_rows(inputs, searched):
    output, dev = searched
    ranks = {name: row.largest_rank for name, row in dev.rows_on("task").items()}
    assert [(row.name, ranks[row.name]) for row in dev.candidates] == [
        ("strength0.8", 4),
        ("strength0.25", 4),
        ("strength0.8-rank2", 2),
        ("strength0.25-rank2", 2),
    ]
    before, after = dense(inputs / "reference"), dense(output / "candidates" / "strength0.25")
    assert all(np.allclose(0.25 * before[name], after[name], atol=1e-7) for name in before)
    assert [planned.guard for planned in dev.plan.sets] == [False, True]
    assert (output / "dev" / "evaluation_sets.md").read_text() == dev.to_markdown()


def test_dev_rows_and_test_rows_share_nothing_and_do_not_depend_on_the_order(inputs, tmp_path):
    settings = ShrinkSettings(inputs / "reference", **options(inputs, tmp_path / "out"))
    halves = list(map(split, read_sets(settings.evaluation)))
    header, *rows = (inputs / "rows.csv").read_text().splitlines()
    (tmp_path / "turned.csv").write_text("\n".join([header, *reversed(rows)]))
    turned = ShrinkSettings(
        inputs / "reference", **{**options(inputs, tmp_path / "out"), "data": str(tmp_path / "turned.csv")}
    )
    for (dev, test), each in zip(halves, read_sets(settings.evaluation), strict=True):
        ids = [{row.id for row in half.examples} for half in (dev, test)]
        assert not ids[0] & ids[1]
        assert ids[0] | ids[1] == {row.id for row in each.examples}
    again = split(read_sets(turned.evaluation)[0])
    assert {row.id for row in again[0].examples} == {row.id for row in halves[0][0].examples}


def test_the_choice_keeps_the_task_and_is_the_best_on_the_guard(searched):
    output, dev = searched
    task, guard = (dev.evaluations[planned.name].adapters for planned in dev.plan.sets)
    levels = {row.name: (row.accuracy, other.accuracy) for row, other in zip(task, guard, strict=True)}
    reference = levels[dev.adapters[0].name]
    good = {
        point.name: levels[point.name][1] - reference[1]
        for point in dev.candidates
        if reference[0] - levels[point.name][0] <= 0.3
    }
    best, chosen = max(good.values(), default=-math.inf), choose(dev)
    assert (chosen is None) == (best <= 0)
    assert chosen is None or good[chosen] == best
    tested = EvaluationSetsReport.read(output / "test" / "evaluation_sets.json")
    assert [row.name for row in tested.candidates] == ([] if chosen is None else [chosen])


def test_a_chosen_strength_is_tested_once_and_written_if_it_is_shown(inputs, searched, tmp_path, monkeypatch):
    output = tmp_path / "out"
    shutil.copytree(searched[0], output)
    for chosen in ("strength0.8", None):
        monkeypatch.setattr(verb, "choose", lambda dev, chosen=chosen: chosen)
        report = shrink_adapter(
            inputs / "reference", **options(inputs, output), ranks=(4, 2), margin={"": 60, "again": 60}
        )
        assert [row.name for row in report.candidates] == ([] if chosen is None else [chosen])
        assert (output / "adapter").exists() == any(row.grade == "B" for row in report.candidates)
        assert [report.adapters[0].role, report.adapters[-1].role] == ["reference", "base"]


def test_the_frontier_has_a_line_for_each_rank(searched):
    _, dev = searched
    plot = plot_of(dev, "frontier")
    lines = {series.name: len(series.x) for series in plot.series}
    assert lines == {"rank 4": 3, "rank 2": 2, "base model": 1}  # the reference is strength 1 of its own rank


def test_what_does_not_go_with_a_search_over_strengths(inputs, tmp_path, capsys, command):
    given = options(inputs, tmp_path / "out")
    with raises(UsageError, "strength-needs-guard"):
        shrink_adapter(inputs / "reference", **{**given, "guards": {}})
    with raises(UsageError, "strength-needs-answers"):
        shrink_adapter(inputs / "reference", **given, prompts=inputs / "rows.csv")
    flags = ["-b", str(inputs / "base"), "--data", str(inputs / "rows.csv"), "--over", "strength"]
    assert run(["shrink", str(inputs / "reference"), *flags, "--strengths", "0.8,-1"]) == 2
    assert "--strengths 0.8,-1" in capsys.readouterr().err
    guard = ["--guard", f"again={inputs / 'guard.csv'}", "--dry-run"]
    assert "strength0.5" in command("shrink", inputs / "reference", *flags, *guard).out


def test_a_share_of_fewer_examples_is_not_shown_beside_the_references():
    kept = ShrinkReport.read(data.RESULTS / "minilm_shrink_looks" / "shrink.json")
    counted = {row.name: row.result.n == kept.reference.n for row in kept.candidates if row.result}
    assert set(counted.values()) == {True, False}
    lines = kept.to_text(width=160).splitlines()
    for name, whole in counted.items():
        (line,) = [line for line in lines if line.startswith(f"  {name} ") and "look" in line]
        assert line.count("%") == 1 + whole, "the share saved, and that of the correct answers"
