"""A command opens each adapter that it is given once, and hands the open adapter on."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import tiny_bench
from data_files import write_jsonl

from gradience import (
    audit_adapter,
    calibrate_adapter,
    compress_adapter,
    convert_adapter,
    distill_adapter,
    evaluate_adapters,
    merge_adapters,
    shrink_adapter,
    update_card,
    verify,
)
from gradience.adapters.tensors import TensorFile
from gradience.compare.adapters import compare_adapters

GIVEN = ("reference", "other", "small")


@pytest.fixture
def opens(monkeypatch):
    """Opens of the weights in each folder that is given, and of those that are written."""
    counts, open_file = Counter(), TensorFile.open

    def count(path, *, root=None):
        counts[path.parent.name if path.parent.name in GIVEN else "written"] += 1
        return open_file(path, root=root)

    monkeypatch.setattr(TensorFile, "open", count)
    return counts


@pytest.fixture(scope="module")
def folder(prepared):
    """Two adapters, a smaller one, a shrink, rows and prompts."""
    compress_adapter(prepared / "reference", prepared / "small", rank=2)
    data, base = prepared / "rows.csv", prepared / "base"
    options = {"data": data, "base_model": base, "device": "cpu", "margin": 90}
    shrink_adapter(prepared / "reference", prepared / "shrunk", ranks=[2, 1], **options)
    words = tiny_bench.WORDS[8:13]
    texts = [f"{words[place % 5]} {words[place // 5]} {words[0]}" for place in range(20)]
    write_jsonl(prepared / "prompts.jsonl", ({"text": text} for text in texts))
    return prepared


BASE = {"base_model": "base", "device": "cpu"}
ROWS = {**BASE, "data": "rows.csv", "margin": 90}
GUARD = {"guards": {"general": "rows.csv"}}
BOTH = ["reference", "other"]
VERBS: dict[str, tuple[Callable[[Any], object], int]] = {
    "audit": (lambda out: audit_adapter("reference"), 0),
    "card": (lambda out: update_card("reference", dry_run=True), 0),
    "compare": (lambda out: compare_adapters(*BOTH), 0),
    "compress": (lambda out: compress_adapter("reference", out, rank=1), 1),
    "convert": (lambda out: convert_adapter("reference", out), 1),
    "verify": (lambda out: verify("small"), 0),
    "verify of a shrink": (lambda out: verify("shrunk"), 3),
    "evaluate": (lambda out: evaluate_adapters(BOTH, output=out, **ROWS), 0),
    "evaluate on two data sets": (lambda out: evaluate_adapters(BOTH, output=out, **ROWS, **GUARD), 0),
    "calibrate": (
        lambda out: calibrate_adapter("reference", f"{out}.safetensors", prompts="prompts.jsonl", **BASE),
        1,
    ),
    "distill": (
        lambda out: distill_adapter(
            "small", out, teacher="reference", prompts="prompts.jsonl", steps=2, **BASE
        ),
        0,
    ),
    "merge": (
        lambda out: merge_adapters(BOTH, out, saved="average", data=dict.fromkeys(BOTH, "rows.csv"), **BASE),
        2,
    ),
    "shrink": (lambda out: shrink_adapter("reference", out, ranks=[2, 1], **ROWS), 5),
    "shrink, planned": (lambda out: shrink_adapter("reference", out, ranks=[2, 1], dry_run=True, **ROWS), 0),
    "shrink with a guard and prompts": (
        lambda out: shrink_adapter("reference", out, ranks=[2], prompts="prompts.jsonl", **ROWS, **GUARD),
        7,
    ),
    "shrink over strength": (
        lambda out: shrink_adapter("reference", out, over="strength", strengths=[0.5], **ROWS, **GUARD),
        2,
    ),
}
"""A command, and the opens of what it writes: a copy is read back, and read again before it is evaluated."""


@pytest.mark.parametrize("verb", VERBS)
def test_a_command_opens_each_adapter_once(verb, folder, tmp_path, monkeypatch, opens):
    monkeypatch.chdir(folder)
    run, written = VERBS[verb]
    run(tmp_path / "out")
    assert opens.pop("written", 0) == written
    assert set(opens.values()) == {1}
