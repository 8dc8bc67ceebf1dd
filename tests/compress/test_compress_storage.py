"""Scales are kept, and what a storage type loses is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
from compressing import ENCODINGS, compress
from factor_samples import random_factors, updates, write

from gradience.errors import InputError, UsageError
from gradience.plan.criteria import ToRank

# ---------------------------------------------------------------- scales


@pytest.mark.parametrize("alpha", [1, 3, 0.5, 16, 2.5, -4, 1e-3, 100_000, 7.3])
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_scales_are_kept(alpha, rslora, encoding, tmp_path):
    factors = random_factors(0, (6, 10, 12), (3, 8, 9))
    folder = write(tmp_path / "in", factors, dtype="F64", lora_alpha=alpha, use_rslora=rslora)
    report = compress(folder, tmp_path / "out", ToRank(64), encoding=encoding)
    before, after = updates(folder), updates(tmp_path / "out")
    for row in report.modules:
        rank = factors[row.name][0].shape[0]
        assert row.scale == pytest.approx(alpha / (rank**0.5 if rslora else rank), rel=1e-11)
        difference = np.linalg.norm(before[row.name] - after[row.name])
        assert difference <= 1e-12 * np.linalg.norm(before[row.name])
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert not config["use_rslora"]


# ---------------------------------------------------------------- storage


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "BF16", "F16"])
def test_coarse_types_report_what_they_lose(dtype, tmp_path):
    factors = random_factors(1, (6, 30, 20), decay=0.8)
    folder = write(tmp_path / "in", factors, dtype=dtype)
    report = compress(folder, tmp_path / "out", ToRank(3))
    (module,) = updates(folder)
    before, after = updates(folder)[module], updates(tmp_path / "out")[module]
    error = np.linalg.norm(before - after) / np.linalg.norm(before)
    assert report.measured_error == pytest.approx(error, rel=1e-9)
    assert report.measured_error > report.predicted_error
    assert report.warnings == ()


def test_factors_that_do_not_fit_are_refused(tmp_path):
    """fp16 ends at 65,504: balanced factors of a large update do not fit, and infinity is no weight."""
    factors = {name: (a * 1e6, b * 1e6) for name, (a, b) in random_factors(0, (4, 10, 12)).items()}
    folder = write(tmp_path / "in", factors, dtype="F32")
    for rank in (2, 4):
        with pytest.raises(InputError, match="do not fit into F16") as refusal:
            compress(folder, tmp_path / "out", ToRank(rank), dtype="F16")
        assert refusal.value.code == "overflow"
        assert "layers.0.q_proj" in str(refusal.value)
        assert "--dtype BF16" in refusal.value.hint
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]
    compress(folder, tmp_path / "out", ToRank(2), dtype="BF16")


@pytest.mark.parametrize("dtype", ["I8", "F4", "float", ""])
def test_unknown_storage_types(dtype, tmp_path):
    folder = write(tmp_path / "in", random_factors(0, (4, 10, 12)))
    with pytest.raises(UsageError) as refusal:
        compress(folder, tmp_path / "out", ToRank(2), dtype=dtype)
    assert refusal.value.code == "bad-dtype"
    assert "BF16" in refusal.value.hint
