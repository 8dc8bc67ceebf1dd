"""The screen of a comparison: golden files, its size, and what it must say."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit_sample import MISTRAL
from compression_sample import alone, compared, comparison
from golden import assert_golden

from gradience.reports.comparison import Replicates

GOLDEN = Path(__file__).parent / "golden"


def seeds():
    """Two seeds of a 7B adapter: independent."""
    return comparison(compared(f"model.layers.{i}.{kind}", 60 + i % 7) for i in range(32) for kind in MISTRAL)


def attention():
    """Three modules of other ranks on both sides."""
    return [
        compared(f"h.{i}.attn.c_attn", 2.0 * i, r_b=2 + i, cosine_lora_A=None, cosine_lora_B=None)
        for i in range(3)
    ]


def replicates(verdict, reason):
    return Replicates(verdict=verdict, cosine_lora_A_median=None, cosine_lora_B_median=None, reason=reason)


def smaller():
    """An adapter and a smaller one made from it and trained on, which left modules out."""
    rows = [*attention(), *(alone(f"h.{i}.mlp.c_fc", "only-a") for i in range(5))]
    near = replicates("near-copies", "the updates themselves point the same way")
    return comparison(rows, replicates=near, path_b="./smaller")


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
    nothing = dict.fromkeys((*figures, "cosine_lora_A", "cosine_lora_B", "compared_dimensions"))
    rows = [
        compared("mlp.experts.down_proj", 0, expert=3, norm_a=0.0, norm_b=0.0, **nothing),
        alone("lm_head", "only-b", 4),
        alone("embed", "shapes-differ", 16),
    ]
    cannot = replicates("not-comparable", "no module has trained factors of the same shapes in both adapters")
    note = "A is a DoRA adapter: s·B·A is compared, the magnitudes are not"
    return comparison(rows, replicates=cannot, notes=(note,))


def truncated():
    """An adapter and its own compression: nobody asks whether they are independent runs."""
    part = replicates(
        "truncation", "B is A truncated: each update is A's, cut to its leading singular directions"
    )
    return comparison(attention(), replicates=part, path_b="./smaller")


CASES = {
    "compared-truncated": truncated,
    "compared-seeds": seeds,
    "compared-smaller": smaller,
    "compared-unlike": unlike,
}
EACH = pytest.mark.parametrize("name", list(CASES))


@EACH
def test_golden_screen(name):
    assert_golden(GOLDEN / f"{name}.txt", CASES[name]().to_text(width=80, layers=name != "compared-seeds"))


def test_the_modules_furthest_apart_come_first():
    lines = seeds().to_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("  largest difference"))
    shown = [float(line.split()[2]) / 100 for line in lines[start + 1 : start + 6]]
    everything = sorted((round(module.relative_difference, 2) for module in seeds().modules), reverse=True)
    assert shown == everything[:5]
