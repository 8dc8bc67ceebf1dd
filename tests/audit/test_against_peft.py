"""The audit against PEFT itself: for every kind of module, ΔW from PEFT's own layer and a dense SVD of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model
from peft_kinds import KINDS, LINEAR, config
from peft_models import (
    Mixture,
    Saved,
    fill,
    gpt2,
    llama,
    peft_updates,
    save,
)
from safetensors.torch import save_file

from gradience import audit_adapter, spectra


def check(saved: Saved, **options: Any):
    """Rows equal PEFT's ΔW, and coverage adds up to the file. Returns the report."""
    report = audit_adapter(saved.path, **options)
    check_rows(report, saved.updates)
    coverage = report.coverage
    assert coverage.audited_params + coverage.other_params + coverage.unaudited_params == coverage.params
    assert coverage.unaudited == ()
    return report


def check_rows(report, updates) -> None:
    rows = {(row.name, row.expert): row for row in report.layers}
    assert rows.keys() == updates.keys()
    assert len(rows) == len(report.layers) == report.n_layers
    for key, delta in updates.items():
        row = rows[key]
        dense = np.linalg.svd(delta, compute_uv=False)
        assert row.status == "ok"
        assert row.shape == delta.shape
        count = min(row.r, *delta.shape)
        assert len(row.singular_values) == count
        assert row.singular_values == pytest.approx(dense[:count], rel=1e-9, abs=1e-10 * dense[0])
        assert (dense[count:] <= 1e-12 * dense[0]).all()
        assert row.sigma_max == pytest.approx(np.linalg.norm(delta, 2), rel=1e-10)
        assert row.fro_norm == pytest.approx(np.linalg.norm(delta), rel=1e-10)
        assert row.stable_rank == pytest.approx(np.linalg.norm(delta) ** 2 / dense[0] ** 2, rel=1e-10)
        if row.energy_margin > 1e-9:
            held = np.square(dense).cumsum() / np.square(dense).sum()
            for tau, energy_rank in (
                (0.90, row.energy_rank_90),
                (0.95, row.energy_rank_95),
                (0.99, row.energy_rank_99),
            ):
                assert energy_rank == int((held < tau).sum()) + 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_module(kind, tmp_path):
    make, lora, kinds, others = KINDS[kind]
    saved = save(make(), lora, tmp_path)
    report = check(saved)
    assert {row.kind for row in report.layers} == kinds
    reasons: dict[str, int] = {}
    for note in report.coverage.other:
        reasons[note.reason] = reasons.get(note.reason, 0) + 1
    assert reasons == others
    tensors = saved.tensors
    assert report.coverage.tensors == len(tensors)
    assert report.coverage.params == sum(tensor.size for tensor in tensors.values())
    assert all(row.r == row.declared_r for row in report.layers)
    codes = {finding.code for finding in report.findings}
    assert not codes & {
        "rank-disagrees",
        "config-disagrees",
        "target-unmatched",
        "pattern-unmatched",
        "unaudited",
    }
    if kind.startswith("dora"):
        assert "dora" in codes


def test_three_parameters_of_one_module(tmp_path):
    """Nested wrappers, in the order of the model: w1, v1, w2."""
    targets = ["experts.v1", "experts.w1", "experts.w2"]
    saved = save(Mixture("w1", "v1", "w2"), config(target_modules=[], target_parameters=targets), tmp_path)
    report = check(saved)
    assert "parameter-order" not in {finding.code for finding in report.findings}


def test_an_order_that_cannot_be_known_is_said(tmp_path):
    targets = ["experts.zeta", "experts.alpha"]
    save(Mixture("zeta", "alpha"), config(target_modules=[], target_parameters=targets), tmp_path)
    report = audit_adapter(tmp_path)
    (finding,) = [finding for finding in report.findings if finding.code == "parameter-order"]
    assert "experts.alpha" in finding.message
    assert report.coverage.unaudited == ()


# ---------------------------------------------------------------- ways of saving


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("make", "targets"), [(llama, LINEAR), (gpt2, ["wte", "c_attn"])], ids=["llama", "gpt2"]
)
def test_storage_types(dtype, make, targets, tmp_path):
    saved = save(make(), config(target_modules=targets, fan_in_fan_out=make is gpt2), tmp_path, dtype=dtype)
    report = check(saved)
    name = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.float64: "F64"}[dtype]
    assert report.adapter.dtypes == (name,)


def test_replicated_layers_are_modules_of_their_own(tmp_path):
    saved = save(llama(2), config(target_modules=LINEAR, layer_replication=[[0, 2], [0, 2]]), tmp_path)
    report = check(saved)
    assert {row.layer_index for row in report.layers} == {0, 1, 2, 3}


def test_two_adapters_saved_together(tmp_path):
    model = get_peft_model(llama(), config(target_modules=LINEAR))
    model.add_adapter("second", config(target_modules=["v_proj"], r=3, use_rslora=True))
    torch.manual_seed(1)
    fill(model)
    model.save_pretrained(tmp_path)
    model.double()
    check_rows(audit_adapter(tmp_path / "second"), peft_updates(model, "second"))
    check_rows(audit_adapter(tmp_path, adapter="second"), peft_updates(model, "second"))
    # The default adapter lies in the folder itself, its sibling in a sub-folder.
    updates = {key: delta for key, delta in peft_updates(model).items() if "v_proj" not in key[0]}
    check_rows(audit_adapter(tmp_path), updates)


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "_fsdp_wrapped_module."])
def test_tensors_dumped_from_a_live_model(prefix, tmp_path):
    """`model.state_dict()` keeps the adapter's name in the keys; compile, DDP and FSDP put theirs in front."""
    saved = save(llama(), config(target_modules=LINEAR), tmp_path / "saved")
    state = {name: tensor for name, tensor in saved.model.state_dict().items() if "lora_" in name}
    folder = tmp_path / "dumped"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((saved.path / "adapter_config.json").read_bytes())
    save_file(
        {prefix + name: tensor.contiguous() for name, tensor in state.items()},
        folder / "adapter_model.safetensors",
    )
    report = check(Saved(folder, saved.model, saved.updates))
    assert report.adapter.adapter_name == "default"


# ---------------------------------------------------------------- combinations made by PEFT


# ---------------------------------------------------------------- numbers at the ends


def test_updates_beyond_the_range_of_squares(tmp_path):
    """σ of 1e200: norms are reported, and nothing overflows on the way to shares and totals."""

    def huge(model):
        for name, parameter in model.named_parameters():
            if "lora_A" in name and "layers.0" in name:
                parameter.data.mul_(1e200)

    saved = save(llama(), config(target_modules=LINEAR), tmp_path, dtype=torch.float64, prepare=huge)
    report = audit_adapter(tmp_path)
    rows = {row.name: row for row in report.layers}
    for (name, _), delta in saved.updates.items():
        size = 1e200 if "layers.0" in name else 1.0
        assert rows[name].fro_norm == pytest.approx(np.linalg.norm(delta / size) * size, rel=1e-10)
        assert rows[name].stable_rank == pytest.approx(
            spectra.stable_rank(np.linalg.svd(delta / size, compute_uv=False)), rel=1e-10
        )
    assert [layer.share for layer in report.gain.per_layer] == [1.0, 0.0]
    assert "diverged-norm" in {finding.code for finding in report.findings}
