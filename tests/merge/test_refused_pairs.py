"""Adapters that do not belong together, and options that contradict each other: one message and one exit code each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from merging import write_updates

import gradience
from gradience.cli.app import run

UPDATES = {"layers.0.q": np.ones((6, 4)), "layers.1.q": np.eye(6, 4)}
OTHERS = {name: 2 * update for name, update in UPDATES.items()}


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    return (
        write_updates(tmp_path / "A", UPDATES, base_model_name_or_path="org/base"),
        write_updates(tmp_path / "B", OTHERS, base_model_name_or_path="org/base"),
    )


def edit(folder: Path, **fields: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def again(folder: Path, updates: dict[str, np.ndarray], **fields: object) -> None:
    shutil.rmtree(folder)
    write_updates(folder, updates, **({"base_model_name_or_path": "org/base"} | fields))


def other_base(a, b):
    edit(b, base_model_name_or_path="org/other")


def other_revision(a, b):
    edit(a, revision="v1")
    edit(b, revision="v2")


def other_task(a, b):
    edit(a, task_type="CAUSAL_LM")
    edit(b, task_type="SEQ_CLS")


def other_shapes(a, b):
    again(b, {"layers.0.q": np.ones((7, 4))})


def not_a_number(a, b):
    again(b, {**OTHERS, "layers.1.q": np.full((6, 4), np.nan)})


def infinity(a, b):
    again(b, {**OTHERS, "layers.1.q": np.full((6, 4), np.inf)})


def same_weights(a, b):
    again(b, UPDATES)


def changed_base(a, b):
    edit(b, init_lora_weights="pissa")


def invocation_tokens(a, b):
    edit(b, alora_invocation_tokens=[3, 4])


def dora_without_base(a, b):
    edit(b, use_dora=True)


def no_config(a, b):
    (b / "adapter_config.json").unlink()


def no_adapter(a, b):
    shutil.rmtree(b)


BROKEN = [
    (other_base, "other-base", 3, "different base models (org/base, org/other)"),
    (other_revision, "other-base", 3, "different revisions of org/base (v1, v2)"),
    (other_task, "other-config", 3, "task_type is CAUSAL_LM in the first and SEQ_CLS"),
    (other_shapes, "shapes-differ", 3, "layers.0.q is 6 x 4 (linear) in"),
    (not_a_number, "non-finite", 3, "B/adapter_model.safetensors: layers.1.q contains NaN or infinity"),
    (infinity, "non-finite", 3, "B/adapter_model.safetensors: layers.1.q contains NaN or infinity"),
    (same_weights, "same-adapter", 2, "hold the same weights"),
    (changed_base, "not-in-format", 3, "init_lora_weights is 'pissa'"),
    (invocation_tokens, "not-in-format", 3, "alora_invocation_tokens in its config"),
    (no_config, "no-config", 3, "no adapter_config.json beside the weights"),
    (no_adapter, "not-found", 3, "B"),
]


@pytest.mark.parametrize("method", ["linear", "svd", "ties", "dare", "knots"])
@pytest.mark.parametrize(
    ("break_", "code", "exit_code", "says"), BROKEN, ids=[row[0].__name__ for row in BROKEN]
)
def test_pairs_that_cannot_be_merged(break_, code, exit_code, says, method, pair, tmp_path, capsys):
    break_(*pair)
    with pytest.raises(gradience.GradienceError) as caught:
        gradience.merge_adapters(pair, tmp_path / "out", method=method)
    assert (caught.value.code, caught.value.exit_code) == (code, exit_code)
    assert says in str(caught.value)
    assert caught.value.hint
    assert not (tmp_path / "out").exists()
    if method == "svd":
        arguments = ["merge", *map(str, pair), "--method", method, "-o", str(tmp_path / "out")]
        assert run(arguments) == exit_code
        assert "Traceback" not in capsys.readouterr().err


OPTIONS = [
    ({"weights": [1]}, "bad-weights"),
    ({"weights": [1, 0]}, "bad-weights"),
    ({"weights": [1, float("nan")]}, "bad-weights"),
    ({"method": "ties", "density": 0}, "wrong-type"),
    ({"method": "ties", "density": 1.5}, "wrong-type"),
    ({"rank": 3}, "linear-rank"),
    ({"method": "svd", "max_kl_per_token": 0.1}, "max-kl"),
    ({"search": True}, "no-data"),
    ({"dtype": "F128"}, "wrong-type"),
    ({"output": None}, "no-output"),
]


@pytest.mark.parametrize(
    ("options", "code"), OPTIONS, ids=[f"{row[1]}-{place}" for place, row in enumerate(OPTIONS)]
)
def test_options_that_contradict_each_other(options, code, pair, tmp_path):
    with pytest.raises(gradience.UsageError) as caught:
        gradience.merge_adapters(pair, **{"output": tmp_path / "out", **options})
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()


def test_one_adapter_and_one_given_twice(pair, tmp_path):
    for adapters, code in (([pair[0]], "one-parent"), ([pair[0], pair[0]], "same-adapter")):
        with pytest.raises(gradience.UsageError) as caught:
            gradience.merge_adapters(adapters, tmp_path / "out")
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("output", "code"),
    [("out", "output-exists"), ("A", "output-is-input"), ("A/inside", "output-is-input")],
)
def test_outputs_that_are_not_replaced(output, code, pair, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(gradience.UsageError) as caught:
        gradience.merge_adapters(pair, tmp_path / output)
    assert caught.value.code == code
    with pytest.raises(gradience.UsageError) as caught:
        gradience.merge_adapters(pair, tmp_path / "out", force=True)
    assert caught.value.code == "not-ours"
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_force_replaces_a_merged_adapter(pair, tmp_path):
    first = gradience.merge_adapters(pair, tmp_path / "out")
    second = gradience.merge_adapters(pair, tmp_path / "out", method="svd", rank=2, force=True)
    assert gradience.MergeReport.read(tmp_path / "out" / "merge_report.json") == second != first


def test_dora_needs_its_base_and_a_truncated_method(pair, tmp_path):
    edit(pair[1], use_dora=True)
    for method, base, code in (
        ("svd", None, "dora"),
        ("linear", ".", "dora-method"),
        ("knots", ".", "dora-method"),
    ):
        with pytest.raises(gradience.GradienceError) as caught:
            gradience.merge_adapters(pair, tmp_path / "out", method=method, base_model=base)
        assert caught.value.code == code


def test_parents_without_a_common_module_are_merged(pair, tmp_path):
    again(pair[1], {"layers.2.q": np.ones((6, 4))})
    report = gradience.merge_adapters(pair, tmp_path / "out")
    assert [row.parent_ranks for row in report.modules] == [(4, None), (4, None), (None, 4)]


def test_updates_that_cancel_give_zero_and_a_note(pair, tmp_path):
    again(pair[1], {name: -update for name, update in UPDATES.items()})
    report = gradience.merge_adapters(pair, tmp_path / "out", method="svd", rank=2)
    assert any("2 merged modules are 0" in note for note in report.notes)


def test_a_memory_limit_is_kept(pair, tmp_path):
    with pytest.raises(gradience.InputError) as caught:
        gradience.merge_adapters(pair, tmp_path / "out", method="ties", max_memory=1000)
    assert caught.value.code == "memory-limit"
