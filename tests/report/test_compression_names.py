"""Names from strangers in the faces of compress and compare: nothing steers a terminal, nothing becomes markup."""

from __future__ import annotations

import json
import re

import pytest
from compression_sample import RUN, alone, compared, comparison, plan, planned, report, verdict, written
from rich.cells import cell_len
from test_names import NAMES, parsed, steering

from gradience.artifacts.comparison import ComparisonReport, Replicates
from gradience.artifacts.compression import CompressionPlan, CompressionReport
from gradience.report.comparison import comparison_text
from gradience.report.compression import compression_text
from gradience.report.faces import to_html, to_markdown
from gradience.report.names import display_name

SHAPE = (32, 16)


def hostile_plan(name):
    rows = [
        planned(name, 8, 4, SHAPE, fixed=name),
        planned(f"{name}.b", 8, 0, SHAPE),
        planned(f"m.layers.0.{name}", 8, 2, SHAPE),
    ]
    return plan(rows, adapter_path=name, criterion=name)


def hostile_report(name):
    rows = [
        written(name, 8, 4, SHAPE, stored=6),
        written(f"{name}.b", 8, 0, SHAPE),
        written(f"m.layers.0.{name}", 8, 2, SHAPE, output_error=0.1),
    ]
    return report(
        rows,
        source_path=name,
        output_path=name,
        criterion=name,
        carried_files=(name,),
        left_out_files=(name,),
        stripped=(name,),
        config_changes={name: f"{name} -> {name}", "target_modules": f"{json.dumps([name])} -> null"},
        runtimes=(verdict("A", "1", "refuses", name), verdict("B", "2", "loads", name)),
        warnings=(name,),
        run=RUN.model_copy(update={"command": name}),
    )


def hostile_comparison(name):
    rows = [compared(name, 10), compared(f"m.layers.0.{name}", 20), alone(f"{name}.a", "only-a")]
    answer = Replicates(verdict="same-start", cosine_lora_A_median=0.9, cosine_lora_B_median=0.1, reason=name)
    return comparison(rows, path_a=name, path_b=name, replicates=answer, notes=(name,))


def screens(name, *, width=80, color=False):
    """Every text that names go to."""
    a_plan, a_report, a_comparison = hostile_plan(name), hostile_report(name), hostile_comparison(name)
    return [
        compression_text(a_plan, width=width, color=color),
        compression_text(a_report, width=width, color=color),
        compression_text(a_plan, width=width, color=color, layers=True),
        compression_text(a_report, width=width, color=color, layers=True),
        comparison_text(a_comparison, width=width, color=color, layers=True),
    ]


@NAMES
def test_text_has_no_control_character_and_no_forged_line(name):
    for text, plain in zip(screens(name), screens("plain"), strict=True):
        assert not steering(text, "\n")
        assert max(map(cell_len, text.splitlines())) <= 80
        headings = [line for line in plain.splitlines() if "?" in line and not line.startswith(" ")]
        questions = [re.sub(r"\?.*", "?", line) for line in headings]
        shown = [re.sub(r"\?.*", "?", line) for line in text.splitlines()]
        assert [line for line in shown if line in questions] == questions
        assert not any(line.startswith("error:") for line in text.splitlines())


@NAMES
def test_names_are_safe_where_they_are_not_cut(name):
    a_plan, a_report, a_comparison = hostile_plan(name), hostile_report(name), hostile_comparison(name)
    for text in (
        compression_text(a_plan, layers=True),
        compression_text(a_report, layers=True),
        comparison_text(a_comparison, layers=True),
    ):
        assert not steering(text, "\n")
    modules = (
        compression_text(a_report, layers=True).partition("\nEvery module\n")[2].partition("\n  Next:")[0]
    )
    assert len(modules.splitlines()) == 1 + 3


@NAMES
def test_colour_adds_nothing_but_colour(name):
    coloured = [re.sub(r"\x1b\[[0-9;]*m", "", text) for text in screens(name, color=True)]
    assert coloured == screens(name)


@NAMES
def test_markdown_has_no_markup_of_the_stranger(name):
    text, plain = to_markdown(hostile_report(name)), to_markdown(hostile_report("plain"))
    assert not steering(text, "\n")
    outside = re.sub(r"`[\w.\-/ …]+`", "", text)
    assert not re.search(r"[<>]|\]\(|!\[|https?://|www\.|~~|\$|`", outside)
    assert "@" not in outside
    assert text.count("**") == plain.count("**")
    headings = [[line for line in side.splitlines() if line.startswith("#")][1:] for side in (text, plain)]
    assert headings[0] == headings[1]
    cells = [
        [line.count("|") for line in side.splitlines() if line.startswith("|")] for side in (text, plain)
    ]
    assert cells[0] == cells[1]


@pytest.mark.parametrize("make", [hostile_plan, hostile_report, hostile_comparison])
@NAMES
def test_html_has_our_tags_only(make, name):
    html = to_html(make(name))
    assert not steering(html)
    shown, plain = parsed(html), parsed(to_html(make("plain")))
    assert shown.tags == plain.tags
    assert display_name(name) in shown.text


@pytest.mark.parametrize(
    ("make", "model"),
    [
        (hostile_plan, CompressionPlan),
        (hostile_report, CompressionReport),
        (hostile_comparison, ComparisonReport),
    ],
    ids=["plan", "report", "comparison"],
)
@NAMES
def test_json_keeps_the_name_and_steers_nothing(make, model, name):
    artifact = make(name)
    for text in (artifact.to_json(), artifact.to_json(None)):
        assert not steering(text, "\n")
        assert json.loads(text)["modules"][0]["name"] == name
        assert model.model_validate_json(text) == artifact


def test_names_that_are_cut_stay_different():
    tail = "very_long_name_of_a_submodule." * 3 + "layers.0.q_proj"
    a_plan = plan([planned(f"{side}.{tail}", 8, 4, SHAPE) for side in ("encoder", "decoder")])
    assert len(tail) > 80
    modules = compression_text(a_plan, width=80, layers=True).partition("\nEvery module\n")[2]
    for text in (compression_text(a_plan, width=80), modules):
        names = [
            line.split()[0] for line in text.splitlines() if "q_proj  8 → 4" in line or "q_proj 8 → 4" in line
        ]
        assert len(names) == len(set(names)) == 2
