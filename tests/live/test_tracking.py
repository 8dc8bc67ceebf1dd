"""Live spectra agree with dense algebra on the factors, whatever wraps the model, and change nothing."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from killing import apart
from peft import LoraConfig, get_peft_model
from torch import nn

from gradience.errors import InputError
from gradience.live import LivePair, SpectralTracker, find_pairs
from gradience.monitor import monitor_runs
from tests.live.tiny import give_random_factors, lora_llama


def dense(pair):
    """Measures of scale·B·A from its full SVD in float64."""
    A = pair.A.detach().double().flatten(1).numpy()
    B = pair.B.detach().double().flatten(1).numpy()
    sigma = np.linalg.svd(pair.scale * B @ A, compute_uv=False)
    energy = np.cumsum(sigma**2) / np.sum(sigma**2)
    return {
        "stable_rank": np.sum(sigma**2) / sigma[0] ** 2,
        "energy_rank_90": int((energy < 0.9 - 1e-9).sum()) + 1,
        "fro_norm": np.linalg.norm(sigma),
        "sigma_max": sigma[0],
    }


def assert_agrees(module, pair):
    want = dense(pair)
    assert module.status == "ok"
    assert module.energy_rank_90 == want["energy_rank_90"]
    for key in ("stable_rank", "fro_norm", "sigma_max"):
        assert getattr(module, key) == pytest.approx(want[key], rel=1e-4)


VARIANTS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"layers.1.mlp.up_proj": 5}},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "dora": {"use_dora": True},
    "regex": {"target_modules": r".*layers\.0.*_proj"},
}


@pytest.mark.parametrize("lora", VARIANTS.values(), ids=VARIANTS)
def test_agrees_with_a_dense_svd(lora):
    tracker = SpectralTracker(give_random_factors(lora_llama(**lora)))
    snapshot = tracker.measure(0)
    assert len(snapshot.modules) == len(tracker.pairs) > 0
    for module, pair in zip(snapshot.modules, tracker.pairs, strict=True):
        assert_agrees(module, pair)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_agrees_in_every_storage_type(dtype):
    model = give_random_factors(lora_llama()).to(dtype)
    tracker = SpectralTracker(model)
    for module, pair in zip(tracker.measure(0).modules, tracker.pairs, strict=True):
        assert_agrees(module, pair)


def test_factors_that_cancel_take_the_exact_way():
    """η is large: float32 Gram products would be off by far more than 1e-4."""
    torch.manual_seed(0)
    gauge = torch.diag(torch.tensor([1.0, 1e-2, 1e-4, 1e-6], dtype=torch.float64))
    A = gauge @ torch.randn(4, 30, dtype=torch.float64)
    B = torch.randn(20, 4, dtype=torch.float64) @ torch.linalg.inv(gauge)
    pair = LivePair("x", A, B, 1.0)
    assert_agrees(SpectralTracker.from_pairs([pair]).measure(0).modules[0], pair)


def test_untrained_and_nonfinite_are_statuses_not_numbers():
    model = lora_llama()
    fresh = SpectralTracker(model).measure(0)
    assert {module.status for module in fresh.modules} == {"untrained"}
    assert fresh.to_metrics()["summary"]["stable_rank_median"] is None
    give_random_factors(model)
    tracker = SpectralTracker(model)
    with torch.no_grad():
        tracker.pairs[3].B[0, 0] = torch.nan
        tracker.pairs[4].A[0, 0] = torch.inf
    snapshot = tracker.measure(1)
    assert [m.status for m in snapshot.modules[:6]] == ["ok"] * 3 + ["nonfinite"] * 2 + ["ok"]
    json.dumps(snapshot.to_metrics(), allow_nan=False)


def test_measuring_touches_neither_parameters_nor_random_state_nor_precision():
    model = give_random_factors(lora_llama())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(11)
    random_state = torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    torch.set_float32_matmul_precision("medium")
    try:
        tracker = SpectralTracker(model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            snapshot = tracker.measure(0)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    for module, pair in zip(snapshot.modules, tracker.pairs, strict=True):
        assert_agrees(module, pair)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_names_are_those_of_the_base_model_under_wrappers_too():
    model = lora_llama(target_modules=["q_proj"])
    names = [pair.name for pair in find_pairs(model)[0]]
    assert names == ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]

    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    assert [pair.name for pair in find_pairs(Wrapper(model))[0]] == names
    assert SpectralTracker(Wrapper(model)).starts_at_zero


def test_the_adapter_that_trains_is_measured():
    model = lora_llama(target_modules=["q_proj"])
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert {pair.rank for pair in SpectralTracker(model).pairs} == {8}
    model.set_adapter("second")
    assert {pair.rank for pair in SpectralTracker(model).pairs} == {2}
    assert {pair.rank for pair in SpectralTracker(model, adapter="default").pairs} == {8}


def test_nothing_to_measure_is_an_error_with_a_reason():
    from peft import AdaLoraConfig

    with pytest.raises(InputError, match="no LoRA module"):
        SpectralTracker(nn.Linear(2, 2))
    model = get_peft_model(
        nn.Sequential(nn.Linear(8, 8)), AdaLoraConfig(target_modules=["0"], total_step=10, tinit=1, tfinal=2)
    )
    with pytest.raises(InputError, match="AdaLoRA"):
        SpectralTracker(model)


def test_pissa_does_not_start_at_zero():
    assert not SpectralTracker(lora_llama(init_lora_weights="pissa")).starts_at_zero


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_agrees_on_a_gpu_with_tf32_switched_on_around_it():
    pairs = [LivePair("x", torch.randn(16, 4096, device="cuda"), torch.randn(4096, 16, device="cuda"), 0.5)]
    torch.set_float32_matmul_precision("high")
    try:
        module = SpectralTracker.from_pairs(pairs).measure(0).modules[0]
    finally:
        torch.set_float32_matmul_precision("highest")
    assert_agrees(module, LivePair("x", pairs[0].A.cpu(), pairs[0].B.cpu(), 0.5))


def shaped(needed):
    """A pair whose ΔW needs exactly `needed` equal directions for 90 % of its energy."""
    sigma = torch.zeros(8)
    sigma[:needed] = 1.0
    return LivePair(f"model.layers.{needed}.mlp.up_proj", torch.eye(8, 16), torch.eye(16, 8) * sigma, 1.0)


def test_modules_whose_rank_moved_are_counted():
    pairs = [shaped(1), shaped(1)]
    tracker = SpectralTracker.from_pairs(pairs)
    for step in range(6):
        pairs[0].B.copy_(torch.eye(16, 8) * (torch.arange(8) <= step))
        pairs[1].B.copy_(torch.eye(16, 8) * (torch.arange(8) <= step))
        assert tracker.measure(step).moved == (None if step == 0 else 2)


# ---------------------------------------------------------------- The loops of examples/ run, and monitor


ROOT = Path(__file__).parents[2]


def run_example(script, folder):
    sys.argv = [str(script), str(folder)]
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["plain_loop", "accelerate_loop", pytest.param("lightning_loop", marks=pytest.mark.conformance)]
)
def test_an_example_writes_what_monitor_reads(tmp_path, name):
    apart(run_example, ROOT / "examples" / f"{name}.py", tmp_path, models=True)
    run = monitor_runs([tmp_path / "run.jsonl"]).runs[0]
    assert run.outcome == "ok"
    assert run.loss.last < run.loss.first
    assert run.rank_use.modules == 2
    assert len(run.rank_use.points) >= 5
