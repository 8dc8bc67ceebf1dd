"""A command opens each adapter that it is given once, and hands the open adapter on."""

from collections import Counter
from pathlib import Path

import pytest
import tiny_bench
from data_files import write_jsonl

from gradience import (
    calibrate_adapter,
    compress_adapter,
    distill_adapter,
    evaluate_adapters,
    merge_adapters,
    shrink_adapter,
    update_card,
    verify,
)
from gradience.adapters.formats import FORMATS


@pytest.fixture
def opens(monkeypatch):
    """Opens of each adapter, by the name of its folder."""
    counts, peft = Counter(), FORMATS["peft"]

    def count(path, *rest):
        opened = peft.open(path, *rest)
        counts[Path(path).name] += 1
        return opened

    monkeypatch.setitem(FORMATS, "peft", peft._replace(open=count))
    return counts


@pytest.fixture(scope="module")
def folder(prepared):
    """Two adapters, a smaller one, rows and prompts."""
    compress_adapter(prepared / "reference", prepared / "small", rank=2)
    words = tiny_bench.WORDS[8:13]
    texts = [f"{words[place % 5]} {words[place // 5]} {words[0]}" for place in range(20)]
    write_jsonl(prepared / "prompts.jsonl", ({"text": text} for text in texts))
    return prepared


VERBS = {
    "compress": lambda out, **_: compress_adapter("reference", out, rank=1),
    "evaluate": lambda out, rows, **base: evaluate_adapters(
        ["reference", "other"], output=out, **rows, **base
    ),
    "evaluate on two data sets": lambda out, rows, **base: evaluate_adapters(
        ["reference", "other"], output=out, guards={"general": "rows.csv"}, **rows, **base
    ),
    "shrink": lambda out, rows, **base: shrink_adapter(
        "reference", out, ranks=[2, 1], margin=90, **rows, **base
    ),
    "shrink with a guard and prompts": lambda out, rows, **base: shrink_adapter(
        "reference",
        out,
        ranks=[2, 1],
        margin=90,
        prompts="prompts.jsonl",
        guards={"general": "rows.csv"},
        **rows,
        **base,
    ),
    "shrink over strength": lambda out, rows, **base: shrink_adapter(
        "reference",
        out,
        over="strength",
        strengths=[0.9, 0.5],
        guards={"general": "rows.csv"},
        **rows,
        **base,
    ),
    "calibrate": lambda out, **base: calibrate_adapter(
        "reference", f"{out}.safetensors", prompts="prompts.jsonl", base_model="base", device="cpu"
    ),
    "distill": lambda out, **base: distill_adapter(
        "small", out, teacher="reference", prompts="prompts.jsonl", steps=2, base_model="base", device="cpu"
    ),
    "merge": lambda out, rows, **base: merge_adapters(
        ["reference", "other"],
        out,
        saved="average",
        data={"reference": "rows.csv", "other": "rows.csv"},
        **base,
    ),
    "card": lambda out, **_: update_card("reference", dry_run=True),
    "verify": lambda out, **_: verify("small"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_each_adapter_is_opened_once(verb, folder, tmp_path, monkeypatch, opens):
    monkeypatch.chdir(folder)
    VERBS[verb](tmp_path / "out", rows={"data": "rows.csv"}, base_model="base", device="cpu")
    given = {name: opens[name] for name in ("reference", "other", "small") if opens[name]}
    assert given
    assert set(given.values()) == {1}
