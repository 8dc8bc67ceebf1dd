"""Updates beside the weights of a base: the norms against dense ones, names that map, and what is listed instead."""

import json

import numpy as np
import pytest
from factory import PREFIX, adapter, config, factors, safetensors, stored

from gradience import audit_adapter
from gradience.cli.app import run
from gradience.errors import InputError
from gradience.reports.audit import AuditReport

Q, V = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"


def weights(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def base(folder, tensors):
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    return folder


def compared(folder, tensors, pairs=None, **settings):
    """The block of an adapter beside a base of these tensors; also its audit."""
    at = adapter(folder / "adapter", pairs or factors(Q) | factors(V), config(**settings))
    report = audit_adapter(at, base=base(folder / "base", tensors))
    return report.base, report


def test_norms_are_the_dense_ones(tmp_path):
    w = {Q: weights((12, 16), 1), V: weights((12, 16), 2)}
    block, report = compared(tmp_path, {f"{name}.weight": stored(value) for name, value in w.items()})
    assert [module.name for module in block.modules] == [layer.name for layer in report.layers]
    for module, layer in zip(block.modules, report.layers, strict=True):
        assert module.weight_norm == pytest.approx(np.linalg.norm(w[module.name]), rel=1e-6)
        assert module.weight_sigma_max == pytest.approx(np.linalg.norm(w[module.name], 2), rel=1e-5)
        assert module.spectral == pytest.approx(layer.sigma_max / module.weight_sigma_max)
        assert module.frobenius == pytest.approx(layer.fro_norm / module.weight_norm)
    above = [module.spectral > 0.1 for module in block.modules]
    assert block.above_10_percent == sum(above) / 2
    assert block.frobenius_above_10_percent == sum(module.frobenius > 0.1 for module in block.modules) / 2
    assert block.frobenius_above_30_percent == sum(module.frobenius > 0.3 for module in block.modules) / 2
    assert block.not_compared == ()


@pytest.mark.parametrize(
    ("name", "turn"),
    [
        ("model.layers.0.self_attn.q_proj.weight", False),
        ("layers.0.self_attn.q_proj.weight", False),
        ("language_model.model.layers.0.self_attn.q_proj.weight", False),
        ("model.layers.0.self_attn.q_proj.weight", True),
    ],
    ids=["the same", "without a prefix", "with another", "transposed"],
)
def test_names_and_orientations_map(tmp_path, name, turn):
    value = weights((12, 16))
    tensors = {name: stored(np.ascontiguousarray(value.T) if turn else value)}
    block, _ = compared(tmp_path, tensors, pairs=factors(Q))
    assert block.modules[0].weight_sigma_max == pytest.approx(np.linalg.norm(value, 2), rel=1e-5)


def test_each_expert_has_its_own_weight(tmp_path):
    generator = np.random.default_rng(0)
    pair = {
        f"{PREFIX}m.experts.lora_A.weight": stored(generator.standard_normal((4, 6)).astype(np.float32)),
        f"{PREFIX}m.experts.lora_B.weight": stored(generator.standard_normal((5, 4)).astype(np.float32)),
    }
    value = weights((2, 6, 5))
    settings = {"r": 2, "target_parameters": ["experts.w"], "target_modules": []}
    block, report = compared(tmp_path, {"m.experts.w": stored(value)}, pairs=pair, **settings)
    assert [layer.expert for layer in report.layers] == [0, 1]
    norms = [np.linalg.norm(value[expert], 2) for expert in range(2)]
    assert [module.weight_sigma_max for module in block.modules] == pytest.approx(norms, rel=1e-5)


def test_a_folder_without_weights_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no base weights"):
        audit_adapter(adapter(tmp_path / "adapter"), base=tmp_path / "empty")


def test_the_command_shows_it_and_keeps_it_in_the_json(tmp_path, capsys):
    at = adapter(tmp_path / "adapter", factors(Q) | factors(V))
    folder = base(tmp_path / "base", {f"{Q}.weight": stored(weights((12, 16)))})
    assert run(["audit", str(at), "--base-model", str(folder), "--json"]) == 0
    printed = capsys.readouterr().out
    report = AuditReport.model_validate_json(printed)
    assert report.base.base == "base"
    assert json.loads(printed)["base"]["modules"][0]["name"] == Q
    assert run(["audit", str(at), "--base-model", str(folder)]) == 0
    text = capsys.readouterr().out
    for part in ("Size relative to the base", "‖ΔW‖₂/‖W‖₂", "1 module not compared"):
        assert part in text
