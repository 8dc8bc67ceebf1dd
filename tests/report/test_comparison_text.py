"""The screen of a comparison: golden files, its size, and what it must say."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit_sample import MISTRAL
from compression_sample import alone, compared, comparison
from golden import assert_golden

from gradience import EvidenceReport
from gradience.reports.base.graded import Bounds
from gradience.reports.base.run import Stopwatch
from gradience.reports.evidence import Flip, LogFacts, Planning
from gradience.statistics.table import PairedTable

GOLDEN = Path(__file__).parent / "golden"


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


CASES = {
    "compared-seeds": seeds,
    "compared-smaller": smaller,
    "compared-unlike": unlike,
}
EACH = pytest.mark.parametrize("name", list(CASES))


@EACH
def test_golden_screen(name):
    assert_golden(GOLDEN / f"{name}.txt", CASES[name]().to_text(width=80, layers=name != "compared-seeds"))


# ---------------------------------------------------------------- Two logs on the screen and as Markdown


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
    assert "A      81.0 %, 162 / 200 (the reference)" in counts
    assert "A correct        150       12" in counts
    assert "B correct" not in scores
    assert "p = below 0.0001" not in scores
    assert "p below 0.0001 against a drop of 0.0500 or more" in scores
    assert "nll · strict-match, lower is better" in scores
