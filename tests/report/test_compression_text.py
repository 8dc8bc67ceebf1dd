"""The screens and the Markdown of a plan and of a compression: golden files, their size, and what they must say."""

from pathlib import Path

import compression_sample as sample
import pytest
from audit_sample import MISTRAL
from compression_sample import alone, compared, comparison, mistral, plan, planned, report, verdict, written
from golden import assert_golden

from gradience import EvidenceReport
from gradience.reports.base.blocks import SCREEN, View
from gradience.reports.base.graded import Bounds
from gradience.reports.base.report import Stopwatch
from gradience.reports.compression import LISTED_MODULES, predicted, saved
from gradience.reports.evidence import Flip, LogFacts, Planning
from gradience.statistics.table import PairedTable

GOLDEN = Path(__file__).parent / "golden"


def uniform_plan():
    return plan([planned(*row) for row in mistral()])


def budget_plan():
    """Ranks that differ, a module that keeps its rank, one that is left out, one that was never trained."""
    rows = [planned(*row) for row in mistral(2, new=None)]
    rows.append(planned("model.conv", 8, 8, (32, 24), fixed="block-diagonal B of a grouped convolution"))
    rows += [planned(f"model.layers.{i}.extra.proj", 8, 0, (32, 32), 0.4) for i in range(5)]
    rows.append(planned("lm_head", 4, 1, (100, 16), None))
    return plan(rows, criterion="target: 50 % fewer parameters, allocated by energy per parameter")


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
        criterion="target: 50 % fewer parameters, allocated by energy per parameter",
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
        written(f"model.layers.{i}.self_attn.{kind}", 6, 3, (16, 16), 0.8, dtype="F32", output_error=0.1 + 0.01 * i)
        for i in range(3)
        for kind in ("q_proj", "v_proj")
    ]  # fmt: skip
    return report(rows, config_changes={}, carried_files=(), runtimes=(verdict("X", "1", "refuses", "DoRA"),))


def nothing_report():
    """The rank that was asked for is no smaller: everything is a copy, nothing else was there."""
    rows = [written(*row) for row in mistral(1, new=64)]
    return report(
        rows, criterion="rank 64", config_changes={}, carried_files=(), runtimes=sample.RUNTIMES[:2]
    )


SAMPLES = {
    "plan-7b": uniform_plan,
    "plan-budget": budget_plan,
    "plan-unknown-scale": unknown_scale,
    "compressed-7b": uniform_report,
    "compressed-padded": padded_report,
    "compressed-dora": dora_report,
    "compressed-nothing": nothing_report,
}


@pytest.mark.parametrize("name", SAMPLES)
def test_golden_texts(name):
    sample = SAMPLES[name]()
    assert_golden(GOLDEN / f"{name}.txt", sample.to_text())
    if name.startswith("compressed"):
        assert_golden(GOLDEN / f"{name}.md", sample.to_markdown())


@pytest.mark.parametrize("name", ["compressed-padded", "compressed-dora"])
def test_golden_modules(name):
    assert_golden(GOLDEN / f"{name}-layers.txt", SAMPLES[name]().to_text(width=80, view=View(full=True)))


# ---------------------------------------------------------------- who loads it?


def test_where_nothing_was_run_nothing_is_claimed():
    rows = tuple(verdict(name, "1", "not run", "the architecture is not known") for name in ("A", "B"))
    text = report(uniform_report().modules, architecture=None, runtimes=rows).to_text()
    block = text.partition("Runtime support\n")[2].partition("\n\n")[0]
    assert block.splitlines() == ["  ? A 1, B 1 not tested: the architecture is not known"]


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


# ---------------------------------------------------------------- The screen of a comparison


def seeds():
    """Two seeds of a 7B adapter."""
    return comparison(compared(f"model.layers.{i}.{kind}", 60 + i % 7) for i in range(32) for kind in MISTRAL)


def attention():
    """Three modules of other ranks on both sides."""
    return [compared(f"h.{i}.attn.c_attn", 2.0 * i, r_b=2 + i) for i in range(3)]


def smaller():
    """An adapter and a smaller one made from it and trained on, which left modules out."""
    rows = [*attention(), *(alone(f"h.{i}.mlp.c_fc", "only-a") for i in range(5))]
    return comparison(rows, path_b="./smaller")


def unlike():
    """Hardly anything to compare: one untrained module in both, others on one side, or of other shapes."""
    figures = (
        "relative_difference",
        "cosine",
        "kept_energy",
        "left_overlap",
        "right_overlap",
        "largest_angle",
    )
    nothing = dict.fromkeys((*figures, "compared_dimensions"))
    rows = [
        compared("mlp.experts.down_proj", 0, expert=3, norm_a=0.0, norm_b=0.0, **nothing),
        alone("lm_head", "only-b", 4),
        alone("embed", "shapes-differ", 16),
    ]
    note = "A is a DoRA adapter: s·B·A is compared, the magnitudes are not"
    return comparison(rows, notes=(note,))


CASES = {"compared-seeds": (seeds, SCREEN), "compared-smaller": (smaller, View(full=True)),
         "compared-unlike": (unlike, View(full=True))}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_golden_screen(name):
    make, view = CASES[name]
    assert_golden(GOLDEN / f"{name}.txt", make().to_text(width=80, view=view))


# ---------------------------------------------------------------- Two logs


def two_logs(**more):
    """150 of 200 examples correct with both, 12 with A alone, 8 with B alone."""
    log = {"sha256": "a" * 64, "format": "lm-eval", "model": "base"}
    flip = {"id": "q1", "score_a": 1, "score_b": 0, "excerpt": "1 + 1 =", "answer_a": "2", "answer_b": "3"}
    table = PairedTable(n11=150, n10=12, n01=8, n00=30)
    facts = {
        "a": LogFacts(path="a.jsonl", mean=0.81, **log),
        "b": LogFacts(path="b.jsonl", mean=0.79, **log),
        "task": "gsm8k",
        "metric": "exact_match",
        "filter": "strict-match",
        "lower_is_better": False,
        "n": 200,
        "delta": -0.02,
        "low": table.low,
        "high": table.high,
        "margin": 0.025,
        "bounds": Bounds(low=-0.0594, high=0.018, p_value=0.41),
        "table": table,
        "planning": Planning(variance=0.1, examples_80=990, margin_80=0.0556),
        "grade": "C",
        "verdict": "These 200 examples do not decide.",
        "n_lost": 12,
        "n_gained": 8,
        "flips": (Flip(change="lost", **flip),),
        "notes": (),
        "run": Stopwatch().run_info(),
    }
    return EvidenceReport(**(facts | more))


SCORES = {"table": None, "metric": "nll", "lower_is_better": True, "delta": 0.004, "low": -0.01, "high": 0.018,
          "margin": 0.05, "bounds": Bounds(low=-0.007, high=0.016, p_value=1e-9), "grade": "B"}  # fmt: skip


def test_what_counts_have_and_scores_have_not():
    counts, scores = two_logs().to_text(), " ".join(two_logs(**SCORES).to_text().split())
    assert "reference    81.0 %, 162 / 200  a.jsonl (lm-eval, base)" in counts
    assert "p ≤ 0.0001 (null hypothesis: a drop of 0.0500 or more)" in scores
    assert "nll, strict-match, lower is better" in scores


def test_the_sample_size_is_shown_if_more_examples_may_help():
    shown = {
        name: " ".join(two_logs(**facts).to_text().split())
        for name, facts in {
            "more": {},
            "drop": {"planning": Planning(variance=0.1, examples_80=190, margin_80=0.02)},
            "beyond": {"delta": -0.025},
            "B": {"grade": "B"},
            "D": {"grade": "D"},
        }.items()
    }
    needs = "sample size equally good adapters need {} examples (80 % power, if 10.0 % differ as here)"
    assert f"{needs.format(990)} Differing" in shown["more"]
    assert f"{needs.format(190)}; with the observed drop, more Differing" in shown["drop"]
    assert f"{needs.format(990)}; the observed drop is at least the margin, so more" in shown["beyond"]
    assert not any("sample size" in shown[grade] for grade in "BD")
    assert [name for name in shown if "p = 0.41" not in shown[name]] == ["D"]


def test_the_next_command_of_a_comparison_has_the_paths_as_typed():
    shown = " ".join(
        seeds().to_text(view=View(brief=True, paths=("/data/seed-42", "/data/seed-123"))).split()
    )
    assert "Next: gradience evaluate /data/seed-42 /data/seed-123 --data" in shown
