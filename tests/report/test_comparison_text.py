"""The screen of a comparison: golden files, its size, and what it must say."""

from pathlib import Path

import pytest
from audit_sample import MISTRAL
from compression_sample import alone, compared, comparison
from golden import assert_golden

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
