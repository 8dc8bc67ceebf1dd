"""What can be audited only in part: the rest is measured, what is missing is named, and the exit code is 4."""

from __future__ import annotations

import os

import numpy as np
import pytest
from audited import audit
from factory import PREFIX, WEIGHTS, Stored, adapter, modules, stored, zeros

import gradience.audit.adapter
from gradience.cli.app import run

Q0, V1 = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"
A, B = f"{PREFIX}{Q0}.lora_A.weight", f"{PREFIX}{Q0}.lora_B.weight"


def array(tensor: Stored) -> np.ndarray:
    return np.frombuffer(tensor.data, np.float32).reshape(tensor.shape).copy()


def changed(tensors, name, position, value, dtype=np.float32):
    """`tensors` with one value of one tensor replaced, stored as `dtype`."""
    values = array(tensors[name]).astype(dtype)
    values[position] = value
    return tensors | {name: stored(values)}


# ---------------------------------------------------------------- NaN and infinity


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", [A, B], ids=["A", "B"])
def test_one_value_that_is_no_number(value, dtype, name, tmp_path, capsys):
    outcome = audit(capsys, adapter(tmp_path, changed(modules(), name, (1, 2), value, dtype)))
    assert outcome.code == 4
    assert outcome.statuses == ["nonfinite", "ok", "ok", "ok"]
    count = 64 if name == A else 48
    finding = outcome.finding("non-finite")
    assert finding["severity"] == "error"
    assert finding["message"] == f"{name}: 1 of {count} values are NaN or infinite, the first at [1, 2]"
    assert outcome.report["layers"][0]["stable_rank"] is None
    # A verdict on ranks may not rest on an adapter that is broken.
    assert outcome.report["suggestions"] is None
    assert outcome.report["suggested_r_global_median"] is None
    assert str(tmp_path) in outcome.err
    assert "NaN or infinity" in outcome.err


# ---------------------------------------------------------------- half a pair, or no pair


def without(*names):
    return {name: tensor for name, tensor in modules().items() if name not in names}


INCOMPLETE = {
    "A-without-B": (without(B), [A], "A without B"),
    "B-without-A": (without(A), [B], "B without A"),
    "inner-mismatch": (modules() | {B: zeros(12, 3)}, [A, B], "inner dimensions differ: A is [4, 16], B is [12, 3]"),
    "A-transposed": (modules() | {A: zeros(16, 4)}, [A, B], "inner dimensions differ"),
    "rank-0": (modules() | {A: zeros(0, 16), B: zeros(12, 0)}, [A, B], "rank 0"),
    "zero3-empty": (modules() | {A: zeros(0), B: zeros(0)}, [A, B], "DeepSpeed ZeRO-3"),
    "zero3-half": (modules() | {B: zeros(0)}, [A, B], "stage3_gather_16bit_weights_on_model_save"),
    "flattened": (modules() | {A: zeros(64), B: zeros(48)}, [A, B], "1 dimension"),
    "scalar": (modules() | {A: zeros(), B: zeros()}, [A, B], "0 dimension"),
    "int8": (modules() | {A: Stored("I8", (4, 16), bytes(64))}, [A, B], "stored as I8"),
    "bool": (modules() | {B: Stored("BOOL", (12, 4), bytes(48))}, [A, B], "stored as BOOL"),
    "fp4": (modules() | {A: Stored("F4", (4, 16), bytes(32))}, [A, B], "stored as F4"),
    "twice-by-prefix": (modules() | {A.removeprefix(PREFIX): zeros(4, 16)}, [A, A.removeprefix(PREFIX), B], "several"),
    "linear-and-embedding": (
        modules() | {f"{PREFIX}{Q0}.lora_embedding_A": zeros(4, 9)},
        [A, B, f"{PREFIX}{Q0}.lora_embedding_A"],
        "several tensors claim",
    ),
    "kernel-in-B": (
        modules() | {A: zeros(4, 2, 3, 3), B: zeros(12, 4, 3, 3)},
        [A, B],
        "a B kernel larger than 1",
    ),
    "unknown-tensor": (modules() | {"surprise": zeros(3)}, ["surprise"], "unknown tensor"),
    "factor-with-a-strange-tail": (
        modules() | {f"{PREFIX}{Q0}.lora_C.weight": zeros(3)}, [f"{PREFIX}{Q0}.lora_C.weight"], "unknown tensor"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "missing", "reason"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_what_cannot_be_audited_is_named_and_the_rest_is_measured(tensors, missing, reason, tmp_path, capsys):
    outcome = audit(capsys, adapter(tmp_path, tensors))
    assert outcome.code == 4
    assert sorted(outcome.unaudited) == sorted(missing)
    assert all(reason in text for text in outcome.unaudited.values())
    finding = outcome.finding("unaudited")
    assert finding["severity"] == "error"
    assert reason in finding["message"]
    assert set(outcome.statuses) == {"ok"}
    assert len(outcome.statuses) == (4 if Q0 not in missing[0] or "lora_C" in missing[0] else 3)
    assert "could not be audited" in outcome.err
    assert "--layers and --json" in outcome.err


# ---------------------------------------------------------------- untrained


def untrained(*parts):
    return {
        name: zeros(*tensor.shape) if "lora_B" in name and any(part in name for part in parts) else tensor
        for name, tensor in modules().items()
    }


def test_some_modules_untrained_is_a_finding(tmp_path, capsys):
    outcome = audit(capsys, adapter(tmp_path, untrained("v_proj")))
    assert outcome.code == 0
    assert sorted(outcome.statuses) == ["ok", "ok", "untrained", "untrained"]
    finding = outcome.finding("dead-modules")
    assert finding["message"].startswith("2 of 4 modules never trained")
    assert V1 in finding["message"]
    # They get the smallest rank, and the median does not see them.
    ranks = outcome.report["suggestions"]["per_layer"]["rank_pattern"]
    assert [rank for key, rank in ranks.items() if "v_proj" in key] == [1, 1]


# ---------------------------------------------------------------- while it is read


def test_weights_that_shrink_during_the_audit(tmp_path, capsys, monkeypatch):
    """A download that is replaced, a disk that fills: the read ends early, and no number is made of it."""
    folder = adapter(tmp_path)
    opening = gradience.audit.adapter.open_adapter

    def opened_and_cut(*arguments, **options):
        opened = opening(*arguments, **options)
        os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 1)
        return opened

    monkeypatch.setattr(gradience.audit.adapter, "open_adapter", opened_and_cut)
    assert run(["audit", str(folder)]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{WEIGHTS}: truncated: " in err
    assert "hint: download or copy it again" in err


# ---------------------------------------------------------------- several adapters


def test_the_highest_code_wins_and_the_others_are_still_audited(tmp_path, capsys):
    good = adapter(tmp_path / "a-good")
    untrained_one = adapter(tmp_path / "b-untrained", untrained(""))
    broken = adapter(tmp_path / "c-broken", b"")
    assert run(["audit", str(good), str(untrained_one)]) == 4
    capsys.readouterr()
    assert run(["audit", str(good), str(untrained_one), str(broken), "--json"]) == 4
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert "c-broken/adapter_model.safetensors: the file is empty" in err
    assert run(["audit", str(good), str(broken)]) == 3
