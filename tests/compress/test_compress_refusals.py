"""What is refused, with the reason and the next step; nothing is written then."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from compressing import compress
from factor_samples import random_factors, tensor, write
from factory import PREFIX, Stored
from raising import raises

from gradience import audit_adapter, compress_adapter
from gradience.adapters.formats import open_adapter
from gradience.cli.demo import example_adapter
from gradience.compress.adapter import write_compressed
from gradience.errors import GradienceError, InputError, UsageError
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import ToRank

FACTORS = random_factors(0, (4, 10, 12), (4, 9, 9))
FIRST = next(iter(FACTORS))


def refused(folder: Path, tmp_path: Path, **options) -> GradienceError:
    before = set(tmp_path.iterdir())
    with pytest.raises(GradienceError) as refusal:
        compress(folder, tmp_path / "out", **options)
    assert set(tmp_path.iterdir()) == before
    error = refusal.value
    assert str(folder) in str(error)
    assert error.hint
    return error


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        *[
            ({"init_lora_weights": init}, "init-not-update")
            for init in ("pissa", "pissa_niter_16", "olora", "corda", "lora_ga", "loftq")
        ],
        ({"use_qalora": True}, "variant-not-update"),
        ({"use_bdlora": {"groups": 2}}, "variant-not-update"),
        ({"kasa_config": {"beta": 0.1}}, "variant-not-update"),
        ({"peft_type": "ADALORA"}, "other-method"),
        ({"peft_type": "LOHA"}, "other-method"),
        ({"peft_type": "IA3"}, "other-method"),
        ({"enable_lora": [True, False]}, "unaudited"),
        ({"use_dora": True}, "dora"),
        ({"r": "8"}, "bad-config"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_adapters_whose_update_is_something_else(fields, code, tmp_path):
    error = refused(write(tmp_path / "in", FACTORS, **fields), tmp_path)
    assert isinstance(error, InputError)
    assert error.code == code


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ({f"{PREFIX}strange": Stored("F32", (2,), bytes(8))}, "unaudited"),
        ({f"{PREFIX}model.layers.9.q_proj.lora_A.weight": tensor(np.ones((4, 5)), "F32")}, "unaudited"),
        ({f"{PREFIX}{FIRST}.lora_magnitude_vector": tensor(np.ones(10), "F32")}, "dora"),
        ({f"{PREFIX}{FIRST}.lora_E": tensor(np.ones((4, 1)), "F32")}, "other-method"),
    ],
    ids=["unknown tensor", "half a pair", "magnitude without use_dora", "AdaLoRA's diagonal"],
)
def test_tensors_that_a_smaller_adapter_could_not_keep(extra, code, tmp_path):
    assert refused(write(tmp_path / "in", FACTORS, extra=extra), tmp_path).code == code


def test_a_factor_that_is_no_number(tmp_path):
    broken = {**FACTORS, FIRST: (np.full((4, 12), np.nan), FACTORS[FIRST][1])}
    assert refused(write(tmp_path / "in", broken), tmp_path).code == "non-finite"


def test_the_input_changed_since_it_was_planned(tmp_path):
    folder = write(tmp_path / "in", random_factors(0, (6, 20, 30)))
    plan = plan_compression(audit_adapter(folder), ToRank(2))
    for changed in (
        lambda: write(folder, random_factors(1, (6, 20, 30))),
        lambda: write(folder, random_factors(0, (5, 20, 30))),
        lambda: write(folder, random_factors(0, (6, 20, 30), (6, 20, 30))),
        lambda: write(folder, random_factors(0, (6, 20, 30)), lora_alpha=99),
    ):
        changed()
        with open_adapter(folder) as opened, raises(UsageError, "plan-mismatch"):
            write_compressed(opened, plan, tmp_path / "out")
        assert [entry.name for entry in tmp_path.iterdir()] == ["in"]
    assert json.loads((folder / "adapter_config.json").read_text())["lora_alpha"] == 99


# ---------------------------------------------------------------- copies that PEFT keeps


def test_two_tensors_that_are_one_for_peft(tmp_path):
    extra = {
        f"{PREFIX}{name}": tensor(np.ones((2, 10)), "F32")
        for name in ("score.weight", "score.modules_to_save.default.weight")
    }
    folder = write(tmp_path / "in", FACTORS, extra=extra, modules_to_save=["score"])
    error = refused(folder, tmp_path)
    assert error.code == "same-tensor"
    assert "score.modules_to_save.default.weight" in str(error)


# ---------------------------------------------------------------- storage


def test_factors_that_do_not_fit_are_refused(tmp_path):
    """fp16 ends at 65,504: balanced factors of a large update do not fit, and infinity is no weight."""
    factors = {name: (a * 1e6, b * 1e6) for name, (a, b) in random_factors(0, (4, 10, 12)).items()}
    folder = write(tmp_path / "in", factors, dtype="F32")
    for rank in (2, 4):
        with raises(InputError, "overflow", "do not fit into F16") as refusal:
            compress(folder, tmp_path / "out", ToRank(rank), dtype="F16")
        assert "layers.0.q_proj" in str(refusal.value)
        assert "--dtype BF16" in refusal.value.hint
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]
    compress(folder, tmp_path / "out", ToRank(2), dtype="BF16")


@pytest.mark.parametrize("dtype", ["I8", "F4", "float", ""])
def test_unknown_storage_types(dtype, tmp_path):
    folder = write(tmp_path / "in", random_factors(0, (4, 10, 12)))
    with raises(UsageError, "bad-dtype") as refusal:
        compress(folder, tmp_path / "out", ToRank(2), dtype=dtype)
    assert "BF16" in refusal.value.hint


# ---------------------------------------------------------------- --force


@pytest.fixture
def source(tmp_path):
    return shutil.copytree(example_adapter(), tmp_path / "adapter")


def names(folder):
    return {entry.name for entry in folder.iterdir()}


def test_an_earlier_result_is_replaced_with_the_files_that_it_brought(source, tmp_path):
    (source / "tokenizer.json").write_text("{}")
    compress_adapter(source, rank=4, output=tmp_path / "small")
    assert "tokenizer.json" in names(tmp_path / "small")
    (source / "tokenizer.json").unlink()
    compress_adapter(source, rank=2, output=tmp_path / "small", force=True)
    assert "tokenizer.json" not in names(tmp_path / "small")


@pytest.mark.parametrize("foreign", ["thesis.tex", ".git", "training_args.bin"])
def test_a_file_that_is_not_ours_is_kept_and_named(source, tmp_path, foreign):
    small = tmp_path / "small"
    compress_adapter(source, rank=4, output=small)
    (small / foreign).write_text("mine")
    (source / "training_args.bin").write_bytes(
        b"\x80\x04"
    )  # left out of what is written, so it would be lost as well
    before = {entry.name: entry.read_bytes() for entry in small.iterdir()}
    with raises(UsageError, "not-ours", "--force would delete") as refusal:
        compress_adapter(source, rank=2, output=small, force=True)
    assert foreign in str(refusal.value)
    assert {entry.name: entry.read_bytes() for entry in small.iterdir()} == before
    assert names(tmp_path) == {"adapter", "small"}
