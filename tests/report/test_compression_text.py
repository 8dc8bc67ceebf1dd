"""The screens and the Markdown of a plan and of a compression: golden files, their size, and what they must say."""

from __future__ import annotations

from pathlib import Path

import compression_sample as sample
import pytest
from compression_sample import mistral, plan, planned, report, verdict, written
from golden import assert_golden

from gradience.reports.compression import LISTED_MODULES, predicted, saved

GOLDEN = Path(__file__).parent / "golden"


def uniform_plan():
    return plan([planned(*row) for row in mistral()])


def budget_plan():
    """Ranks that differ, a module that keeps its rank, one that is left out, one that was never trained."""
    rows = [planned(*row) for row in mistral(2, new=None)]
    rows.append(planned("model.conv", 8, 8, (32, 24), fixed="block-diagonal B of a grouped convolution"))
    rows += [planned(f"model.layers.{i}.extra.proj", 8, 0, (32, 32), 0.4) for i in range(5)]
    rows.append(planned("lm_head", 4, 1, (100, 16), None))
    return plan(rows, criterion="0.5 of the parameters saved, allocated by energy per parameter")


def unknown_scale():
    return plan([planned(*row, scale=None, norm=None) for row in mistral(1, new=64)], criterion="rank 64")


def uniform_report():
    return report([written(*row) for row in mistral()])


def padded_report():
    """All that is unusual when LoRA is written."""
    rows = [
        written(*row, stored=24, folded=1.0 + 0.5 * (i % 2)) for i, row in enumerate(mistral(2, new=None))
    ]
    rows += [written(f"model.layers.{i}.extra.proj", 8, 0, (32, 32), 0.4) for i in range(5)]
    rows.append(written("lm_head", 4, 4, (100, 16), None, dtype="F32"))
    return report(
        rows,
        criterion="0.5 of the parameters saved, allocated by energy per parameter",
        encoding="padded",
        encoding_reason="requested; scales differ, so the ratio is folded into B",
        carried_tensors=3,
        carried_files=("README.md", "tokenizer.json"),
        left_out_files=("optimizer.pt", "rng_state.pth", "scheduler.pt", "logs/"),
        left_out_tensors=("base_model.model.lm_head.base_layer.weight",),
        warnings=("the README describes the adapter as it was",),
        config_changes={
            "r": "64 -> 24",
            "rank_pattern": '{"q_proj": 32} -> {}',
            "target_modules": '["q_proj", "v_proj", "o_proj"] -> 14 entries',
            "layers_pattern": '"' + "x" * 50 + "... -> null",
        },
    )


def dora_report():
    rows = [
        written(
            f"model.layers.{i}.self_attn.{kind}",
            6,
            3,
            (16, 16),
            0.8,
            dtype="F32",
            output_error=0.1 + 0.01 * i,
        )
        for i in range(3)
        for kind in ("q_proj", "v_proj")
    ]
    return report(rows, config_changes={}, carried_files=(), runtimes=(verdict("X", "1", "refuses", "DoRA"),))


def nothing_report():
    """The rank that was asked for is no smaller: everything is a copy, nothing else was there."""
    rows = [written(*row) for row in mistral(1, new=64)]
    return report(
        rows, criterion="rank 64", config_changes={}, carried_files=(), runtimes=sample.RUNTIMES[:2]
    )


PLANS = {"plan-7b": uniform_plan, "plan-budget": budget_plan, "plan-unknown-scale": unknown_scale}
REPORTS = {
    "compressed-7b": uniform_report,
    "compressed-padded": padded_report,
    "compressed-dora": dora_report,
    "compressed-nothing": nothing_report,
}
EACH_PLAN = pytest.mark.parametrize("name", list(PLANS))
EACH_REPORT = pytest.mark.parametrize("name", list(REPORTS))


@EACH_PLAN
def test_golden_plan(name):
    assert_golden(GOLDEN / f"{name}.txt", PLANS[name]().to_text())


@EACH_REPORT
def test_golden_report(name):
    assert_golden(GOLDEN / f"{name}.txt", REPORTS[name]().to_text())
    assert_golden(GOLDEN / f"{name}.md", REPORTS[name]().to_markdown())


@pytest.mark.parametrize("name", ["compressed-padded", "compressed-dora"])
def test_golden_modules(name):
    assert_golden(GOLDEN / f"{name}-layers.txt", REPORTS[name]().to_text(width=80, layers=True))


# ---------------------------------------------------------------- who loads it?


def test_where_nothing_was_run_nothing_is_claimed():
    rows = tuple(verdict(name, "1", "not run", "the architecture is not known") for name in ("A", "B"))
    text = report(uniform_report().modules, architecture=None, runtimes=rows).to_text()
    block = text.partition("Runtime support\n")[2].partition("\n\n")[0]
    assert block.splitlines() == ["  Not tested:", "  ? A 1, B 1: the architecture is not known"]


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize(
    ("error", "shown"),
    [(0.0, "0 %"), (3e-9, "under 0.032 %"), (4e-4, "0.040 %"), (0.1234, "12.3 %"), (None, "–")],
)
def test_a_predicted_error_is_no_smaller_than_it_can_be_known(error, shown):
    assert predicted(error) == shown


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [(8, 4, "50.0 % saved"), (8, 9, "12.5 % more"), (8, 8, "unchanged"), (100_000, 1, "over 99.9 % saved")],
)
def test_saved(before, after, words):
    assert saved(before, after) == words


def test_many_kinds_of_modules_are_counted_not_listed():
    artifact = report([written(f"model.layers.0.block_{i}.proj", 8, 2, (16, 16 + i)) for i in range(30)])
    text = artifact.to_text()
    assert "… 18 more kinds of modules: --layers" in text
    assert "block_29" in text
    assert "block_3.proj" not in text
    assert artifact.to_markdown().count("| `block_") == 30


def test_markdown_lists_every_module_until_there_are_too_many():
    few = uniform_report().to_markdown()
    assert few.partition("## All modules")[2].count("\n| `model.layers.") == 224
    many = report([written(f"model.layers.0.e.{i}", 4, 2, (8, 8)) for i in range(LISTED_MODULES + 5)])
    text = many.to_markdown()
    assert text.count("\n| `model.layers.0.e.") == LISTED_MODULES
    assert "… 5 more modules in the JSON" in text
