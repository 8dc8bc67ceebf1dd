"""Numbers at the ends of float64 in factors and scales: a result or a refusal that says which, never a crash or NaN."""

from __future__ import annotations

import json

import numpy as np
import pytest
from factory import adapter, modules, stored

from gradience import audit_adapter, compare_adapters, compress_adapter
from gradience.errors import InputError


def in_f64(factor_A, factor_B):
    """The factors of a small model in F64, A and B multiplied."""
    tensors = {}
    for name, tensor in modules(1).items():
        values = np.frombuffer(tensor.data, np.float32).reshape(tensor.shape).astype(np.float64)
        tensors[name] = stored(values * (factor_A if "lora_A" in name else factor_B))
    return tensors


def strict(report):
    """The report, whose JSON may hold no NaN."""
    json.loads(report.to_json(), parse_constant=pytest.fail)
    return report


@pytest.mark.parametrize(
    ("factor_A", "factor_B"),
    [(1e160, 1e160), (1e-160, 1e-160), (1e-300, 1e-300)],
)
@pytest.mark.filterwarnings("error")
def test_what_float64_cannot_hold_is_refused(tmp_path, factor_A, factor_B):
    folder = adapter(tmp_path / "adapter", in_f64(factor_A, factor_B))
    usual = adapter(tmp_path / "usual", in_f64(1.0, 1.0))
    strict(audit_adapter(folder))
    for refused in (
        lambda: compress_adapter(folder, rank=2, dry_run=True),
        lambda: compress_adapter(folder, rank=2, output=tmp_path / "smaller"),
        lambda: compare_adapters(folder, usual),
        lambda: compare_adapters(usual, folder),
    ):
        with pytest.raises(InputError, match="q_proj") as refusal:
            refused()
        assert refusal.value.code == "overflow"
    assert not (tmp_path / "smaller").exists()
