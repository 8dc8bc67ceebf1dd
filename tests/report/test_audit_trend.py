"""Several adapters in one table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from audit_sample import power_law, report, row
from golden import assert_golden
from rich.cells import cell_len

from gradience.adapters.locate import natural_key
from gradience.reports.audit_series import (
    NumberedStep,
    RefusedAdapter,
    common_folder,
    difference,
    short_names,
    step_of,
    trend_text,
    why_no_series,
)
from gradience.reports.base.finding import Finding

GOLDEN = Path(__file__).parent / "golden"
KINDS = ("self_attn.q_proj", "self_attn.v_proj")


def checkpoint(step, exponent, size, *, status="ok", findings=(), modules=4, **more):
    """An adapter of eight modules; larger exponents give sharper spectra."""
    rows = [
        row(
            f"model.layers.{i}.{kind}",
            power_law(16, exponent + 0.1 * i, size) if status == "ok" else None,
            r=16,
            shape=(64, 48),
            layer=f"model.layers.{i}",
            index=i,
            status=status,
        )
        for i in range(modules)
        for kind in KINDS
    ]
    digest = f"{step:064x}"
    adapter = {"sha256": digest} | more.pop("adapter", {})
    return report(rows, path=f"run/checkpoint-{step}", findings=findings, adapter=adapter, **more)


def run():
    odd = Finding(
        code="saturated", severity="warning", message="2 of 8 modules with nearly all of the rank in use"
    )
    return [checkpoint(200, 0.4, 0.1, findings=[odd]), checkpoint(400, 0.6, 0.3), checkpoint(1000, 0.8, 0.5)]


def test_the_adapters_that_force_the_servers_rank_are_named():
    def served(**ranks):
        reports = [
            report(
                [row("model.layers.0.q", power_law(rank, 1.0, 1.0), r=rank, shape=(1024, 1024))], path=name
            )
            for name, rank in ranks.items()
        ]
        return " ".join(trend_text(reports, width=80).split())

    assert "vLLM max_lora_rank 64 because of b, d; the others need 16" in served(a=8, b=64, c=16, d=48)
    assert "max_lora_rank" not in served(a=5, b=8), "both need 8"
    many = served(**{f"big{n}": 600 for n in range(7)}, small=1)
    assert (
        "max_lora_rank over 512 because of big0, big1, big2, big3, big4 and 2 more; the others need 1" in many
    )


def test_golden_table():
    assert_golden(GOLDEN / "trend.txt", trend_text(run(), width=80, layers=True))


def test_golden_table_with_trouble():
    wrong = Finding(code="init-not-update", severity="error", message="initialized with pissa")
    reports = [
        *run(),
        checkpoint(1100, 0, 0, status="untrained"),
        checkpoint(1200, 0.8, 0.5, adapter={"sha256": f"{1000:064x}"}),
        checkpoint(1300, 0.7, 0.5, findings=[wrong], suggest=False, modules=3),
    ]
    assert_golden(GOLDEN / "trend-trouble.txt", trend_text(reports, width=80))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_it_fits_its_width(width):
    reports = [checkpoint(10**20 + i, 0.5, 0.1) for i in range(3)]
    assert max(map(cell_len, trend_text(reports, width=width, layers=True).splitlines())) <= width


def test_checkpoints_sort_by_number():
    names = ["run/checkpoint-1000", "run/checkpoint-200", "run/checkpoint-1000/b", "a", "run10/x", "run9/x"]
    assert sorted(names, key=natural_key) == [
        "a", "run9/x", "run10/x", "run/checkpoint-200", "run/checkpoint-1000", "run/checkpoint-1000/b",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "digits", "shown"),
    [
        (5.5, 5.0, 4, "−0.5"),
        (2.0, 4.0, 4, "+2"),
        (10.0, 20.0, 4, "+10"),
        (3.0, 3.0, 4, "0"),
        (2.9312, 3.1049, 3, "+0.17"),
        (2.93, 2.9304, 3, "0"),
        (100.0, 90.0, 1, "−10"),
        (None, 1.0, 3, ""),
    ],
)
def test_difference(before, after, digits, shown):
    assert difference(before, after, digits) == shown


@pytest.mark.parametrize(
    ("paths", "folder", "names"),
    [
        (["run/c-1", "run/c-2"], "run", ["c-1", "c-2"]),
        (["/a/x/one", "/a/y/two"], "/a", ["x/one", "y/two"]),
        (["one", "two"], "", ["one", "two"]),
        (["/a/one", "two"], "", ["/a/one", "two"]),
    ],
)
def test_names_are_short(paths, folder, names):
    assert common_folder(paths) == folder
    assert short_names(paths) == names


def test_a_threshold_of_its_own_is_used_throughout():
    rows = [row("a.0.q", power_law(8, 0.5), r=8, shape=(9, 9), layer="a.0", index=0, tau=0.5)]
    text = trend_text([report(rows, tau=0.5), report(rows, tau=0.5)])
    assert rows[0].energy_rank_tau != rows[0].energy_rank_90
    assert "k@50" in text
    assert f"  {rows[0].energy_rank_tau} " in text.splitlines()[6]


# ---------------------------------------------------------------- a series, or adapters beside each other


def test_the_order_is_the_one_given_and_the_change_runs_by_step():
    one, two, three = run()
    text = trend_text([three, one, two])
    assert re.findall(r"^  (checkpoint-\d+)", text, flags=re.MULTILINE) == [
        "checkpoint-1000", "checkpoint-200", "checkpoint-400",
    ]  # fmt: skip
    change = re.search(r"^  step 200 to 1000 .*", text, flags=re.MULTILINE)
    assert "−5.5" in change[0]
    assert "+" not in change[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"path": "run/final"}, "their names have no step numbers of one run"),
        ({"path": "other/checkpoint-400"}, "their names have no step numbers of one run"),
        ({"path": "run/checkpoint-200"}, "a step number is repeated"),
        ({"base_model": None}, "the base model is not named"),
        ({"base_model": "another"}, "different base models"),
    ],
)
def test_what_is_no_series(changes, reason):
    first, second, _ = run()
    second = second.model_copy(update={"adapter": second.adapter.model_copy(update=changes)})
    assert why_no_series([first, second]) == reason
    text = trend_text([first, second])
    assert reason in text
    assert " same k" not in text
    assert not re.search(r"^  step ", text, flags=re.MULTILINE)


def test_other_modules_are_no_series():
    assert why_no_series([checkpoint(1, 0.5, 0.1), checkpoint(2, 0.5, 0.1, modules=3)]) == "different modules"


def test_refused_ones_stand_in_their_place_and_are_counted():
    one, two, _ = run()
    lines = trend_text(
        [one, RefusedAdapter("run/checkpoint-300", "lfs-pointer"), two], layers=True
    ).splitlines()
    assert lines[0] == "3 adapters in run, 1 refused"
    rows = [line for line in lines if line.startswith("  checkpoint-")]
    assert [line.split()[0] for line in rows] == ["checkpoint-200", "checkpoint-300", "checkpoint-400"]
    assert rows[1].endswith("refused: lfs-pointer")
    (head,) = [line for line in lines if line.startswith("  module ")]
    assert head.split()[2:] == ["#1", "#3"]


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("run/checkpoint-200", NumberedStep("run/checkpoint-#", 200)),
        ("run/checkpoint-200/", NumberedStep("run/checkpoint-#", 200)),
        ("epoch_3/adapter", NumberedStep("epoch_#/adapter", 3)),
        ("run/checkpoint-7/step-0012.safetensors", NumberedStep("run/checkpoint-7/step-#.safetensors", 12)),
        ("seed42", None),
        ("rank-8", None),
    ],
)
def test_steps_in_names(path, step):
    assert step_of(path) == step
