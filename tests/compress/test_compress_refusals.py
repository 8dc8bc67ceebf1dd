"""What is refused, with the reason and the next step; nothing is written then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from compressing import compress
from factor_samples import random_factors, tensor, write
from factory import PREFIX, Stored

from gradience import audit_adapter
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


@pytest.mark.parametrize("rank", [-1, 5, 100])
def test_a_plan_that_was_edited(rank, tmp_path):
    folder = write(tmp_path / "in", FACTORS)
    plan = plan_compression(audit_adapter(folder), ToRank(2))
    row = plan.modules[0]
    edited = type(row)(
        **{**{name: getattr(row, name) for name in row.__dataclass_fields__}, "new_rank": rank}
    )
    with pytest.raises(UsageError) as refusal:
        write_compressed(
            folder, plan.model_copy(update={"modules": (edited, *plan.modules[1:])}), tmp_path / "out"
        )
    assert refusal.value.code == "plan-mismatch"


def test_output_exists(tmp_path):
    folder = write(tmp_path / "in", FACTORS)
    plan = plan_compression(audit_adapter(folder), ToRank(2))
    write_compressed(folder, plan, tmp_path / "out")
    before = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    plan = plan_compression(audit_adapter(folder), ToRank(1))
    with pytest.raises(UsageError) as refusal:
        write_compressed(folder, plan, tmp_path / "out")
    assert refusal.value.code == "output-exists"
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == before
    write_compressed(folder, plan, tmp_path / "out", force=True)
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() != before
    with pytest.raises(UsageError) as refusal:
        write_compressed(folder, plan, folder / "small", force=True)
    assert refusal.value.code == "output-is-input"


# ---------------------------------------------------------------- copies that PEFT keeps


@pytest.mark.parametrize(
    "fields",
    [{"modules_to_save": ["q_proj"]}, {"modules_to_save": ["oj"]}],
    ids=["the module", "the end of its name"],
)
def test_factors_on_a_module_that_is_saved_whole(fields, tmp_path):
    """PEFT 0.21: "modules_to_save cannot be applied to modules of type ...lora.layer.Linear"."""
    assert refused(write(tmp_path / "in", FACTORS, **fields), tmp_path).code == "saved-and-adapted"


def test_two_tensors_that_are_one_for_peft(tmp_path):
    extra = {
        f"{PREFIX}{name}": tensor(np.ones((2, 10)), "F32")
        for name in ("score.weight", "score.modules_to_save.default.weight")
    }
    folder = write(tmp_path / "in", FACTORS, extra=extra, modules_to_save=["score"])
    error = refused(folder, tmp_path)
    assert error.code == "same-tensor"
    assert "score.modules_to_save.default.weight" in str(error)


def test_a_module_inside_another_lora_module(tmp_path):
    factors = {FIRST: FACTORS[FIRST], f"{FIRST}.base_layer.inner": FACTORS[FIRST]}
    error = refused(write(tmp_path / "in", factors), tmp_path)
    assert error.code == "nested-lora"
    assert f"{FIRST}.base_layer.inner" in str(error)
