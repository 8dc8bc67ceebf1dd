"""`storage_error` covers what rounding to the storage type does, and `borderline` the energy ranks that it changes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gradience import audit_adapter

TYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def write(folder, modules, dtype):
    tensors = {}
    for index, (A, B) in enumerate(modules):
        for letter, factor in (("A", A), ("B", B)):
            name = f"base_model.model.layers.{index}.proj.lora_{letter}.weight"
            tensors[name] = torch.from_numpy(np.ascontiguousarray(factor)).to(dtype)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return audit_adapter(folder)


def trained_like(size):
    """64 modules of different shapes, ranks and decays; `size` is the largest entry, or None for that of training."""
    rng = np.random.default_rng(5)
    for index in range(64):
        m, n = rng.choice([16, 64, 200, 512], 2)
        rank = int(rng.choice([2, 4, 8, 16]))
        A = rng.uniform(-1, 1, (rank, n)) / np.sqrt(n)
        turn = np.linalg.qr(rng.standard_normal((rank, rank)))[0]
        decay = (0.7 ** np.arange(rank), np.arange(1, rank + 1.0) ** -1, np.ones(rank))[index % 3]
        B = 2e-3 * (rng.standard_normal((m, rank)) * decay) @ turn
        yield (A, B) if size is None else (A * size / np.abs(A).max(), B * size / np.abs(B).max())


@pytest.mark.parametrize("size", [None, 1.0, 100.0], ids=["as-trained", "one", "hundred"])
@pytest.mark.parametrize("name", TYPES)
def test_what_rounding_does_is_covered(name, size, tmp_path):
    modules = list(trained_like(size))
    exact = write(tmp_path / "exact", modules, torch.float64).layers
    rounded = write(tmp_path / "rounded", modules, TYPES[name]).layers
    shares = []
    for before, after in zip(exact, rounded, strict=True):
        assert after.dtype == name
        if after.status == "untrained":
            assert name == "F8_E4M3"
            continue
        change = abs(after.stable_rank / before.stable_rank - 1)
        # Undone, the change is relative to the rounded value; near 1 the two differ.
        assert change <= after.storage_error or after.storage_error == 1
        shares.append(change / after.storage_error)
        ranks = [(row.energy_rank_90, row.energy_rank_95, row.energy_rank_99) for row in (before, after)]
        assert ranks[0] == ranks[1] or after.borderline
    # It is no fig leaf either: the worst module comes within a factor of six.
    assert max(shares) > 1 / 6


def test_fp8_says_how_coarse_it_is(tmp_path):
    """Entries around 1e-3 are below what e4m3 can hold."""
    report = write(tmp_path / "small", list(trained_like(None)), torch.float8_e4m3fn)
    (finding,) = [finding for finding in report.findings if finding.code == "coarse-storage"]
    assert "F8_E4M3" in finding.message
    assert "100.0%" in finding.message
    report = write(tmp_path / "large", list(trained_like(100.0)), torch.float8_e4m3fn)
    (finding,) = [finding for finding in report.findings if finding.code == "coarse-storage"]
    assert "100.0%" not in finding.message
