"""An adapter in other factors: the same update, in the same storage types, and everything else as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file

import gradience
from gradience import audit_adapter, compress_adapter
from gradience.compress.rotate import write_rotated

EXAMPLE = Path(gradience.__file__).parent / "examples" / "minilm-reviews-r8"
WEIGHTS = "adapter_model.safetensors"


@pytest.mark.parametrize(("dtype", "close"), [("F32", 1e-6), ("BF16", 1e-2)])
def test_only_the_factors_differ_and_their_product_does_not(tmp_path, dtype, close):
    source, rotated = tmp_path / "source", tmp_path / "rotated"
    compress_adapter(EXAMPLE, source, rank=4, dtype=dtype)
    write_rotated(source, rotated)
    before, after = load_file(source / WEIGHTS), load_file(rotated / WEIGHTS)
    assert before.keys() == after.keys()
    assert {name: tensor.dtype for name, tensor in before.items()} == {
        name: tensor.dtype for name, tensor in after.items()
    }
    for name, tensor in before.items():
        same = tensor.equal(after[name])
        assert same == ("lora_" not in name)
        if "lora_A" in name:
            b = name.replace("lora_A", "lora_B")
            old, new = (files[b].double() @ files[name].double() for files in (before, after))
            assert (old - new).norm() < close * old.norm()
    np.testing.assert_allclose(
        [layer.sigma_max for layer in audit_adapter(rotated).layers],
        [layer.sigma_max for layer in audit_adapter(source).layers],
        rtol=close,
    )
    assert (source / "adapter_config.json").read_bytes() == (rotated / "adapter_config.json").read_bytes()
    with safe_open(rotated / WEIGHTS, "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_seed_decides_the_factors(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_rotated(EXAMPLE, tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name / WEIGHTS).read_bytes() for name in "abc")
    assert a == b != c
