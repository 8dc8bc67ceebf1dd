"""ties, dare and knots against the formulas of their papers on dense updates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from compressing import SLIPS, slipping
from merging import pair_of, updates_of, weighted, with_config, write_updates
from numpy.typing import NDArray
from peft import PeftModel
from peft_cases import LINEAR, Case, fresh, load, outputs, relative_errors
from peft_models import Updates, bert, peft_updates

from gradience import merge_adapters
from gradience.adapters.formats import open_adapter
from gradience.adapters.tensors import decode
from gradience.compress.check import WrittenWrong
from gradience.merge import module, verb

RNG = np.random.default_rng(5)
FIRST, SECOND = (RNG.standard_normal((14, 9)) for _ in range(2))


def merged(tmp_path, updates, **options) -> NDArray[np.float64]:
    folders = [write_updates(tmp_path / str(place), {"layer": one}) for place, one in enumerate(updates)]
    merge_adapters(folders, tmp_path / "out", **options)
    with open_adapter(tmp_path / "out") as opened:
        (pair,) = opened.pairs
        loaded = pair.load()
        return pair.scale * decode(loaded.words_B()) @ decode(loaded.words_A()).T


def trimmed(update: NDArray[np.float64], density: float) -> NDArray[np.float64]:
    kept = np.argsort(-np.abs(update), axis=None)[: int(density * update.size)]
    mask = np.zeros(update.size, bool)
    mask[kept] = True
    return update * mask.reshape(update.shape)


def paper_ties(updates, weights, density) -> NDArray[np.float64]:
    """Trim, elect, disjoint mean, entry by entry (Yadav et al., algorithm 1)."""
    small = [trimmed(update, density) for update in updates]
    result = np.zeros_like(small[0])
    for index in np.ndindex(result.shape):
        values = [update[index] for update in small]
        sign = 1 if sum(values) >= 0 else -1
        agreeing = [w * v for w, v in zip(weights, values, strict=True) if v * sign > 0]
        result[index] = np.mean(agreeing) if agreeing else 0.0
    return result


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("weights", [[1, 1], [0.5, 2]])
def test_ties(density, weights, tmp_path):
    updates = [np.float32(FIRST).astype(float), np.float32(SECOND).astype(float)]
    result = merged(tmp_path, updates, method="ties", weights=weights, density=density, rank=9)
    np.testing.assert_allclose(result, paper_ties(updates, weights, density), atol=2e-6)


def test_dare_drops_at_random_and_scales_what_stays(tmp_path):
    rng = np.random.default_rng(0)
    updates = [np.float32(rng.standard_normal((90, 70))).astype(float) for _ in range(2)]
    result = merged(tmp_path, updates, method="dare", density=0.4, rank=70)
    choices = np.stack([a * updates[0] + b * updates[1] for a in (0, 2.5) for b in (0, 2.5)])
    nearest = np.abs(choices - result).argmin(axis=0)
    assert np.abs(np.take_along_axis(choices, nearest[None], 0)[0] - result).max() < 1e-5
    shares = np.bincount(nearest.ravel(), minlength=4) / nearest.size
    np.testing.assert_allclose(shares, [0.36, 0.24, 0.24, 0.16], atol=0.02)  # independent for each parent


def test_dare_depends_on_its_seed_and_on_nothing_else(tmp_path):
    updates = [FIRST, SECOND]
    results = [
        merged(tmp_path / name, updates, method="dare", rank=9, seed=seed, workers=workers)
        for name, seed, workers in (("a", 1, 1), ("b", 1, 2), ("c", 2, 1))
    ]
    assert np.array_equal(results[0], results[1])
    assert not np.allclose(results[0], results[2])


@pytest.mark.parametrize("density", [0.3, 1.0])
def test_knots(density, tmp_path):
    """SVD of the joined updates, TIES on Σ·Vᵀ of each, and U on the left (Stoica et al., their code)."""
    updates = [np.float32(FIRST).astype(float), np.float32(SECOND).astype(float)]
    u, s, v = np.linalg.svd(np.hstack(updates), full_matrices=False)
    tasks = np.split(s[:, None] * v, 2, axis=1)
    result = merged(tmp_path, updates, method="knots", density=density, rank=9)
    expected = u @ paper_ties(tasks, [1, 1], density)
    best = np.linalg.svd(expected)
    expected = (best[0][:, :9] * best[1][:9]) @ best[2][:9]
    np.testing.assert_allclose(result, expected, atol=2e-6)


@pytest.mark.parametrize("method", ["ties", "dare", "knots"])
def test_the_error_is_that_of_the_stored_factors(method, tmp_path):
    whole = merged(tmp_path / "whole", [FIRST, SECOND], method=method, rank=14)
    folders = [tmp_path / "whole" / str(place) for place in range(2)]
    report = merge_adapters(folders, tmp_path / "small", method=method, rank=3)
    values = np.linalg.svd(whole, compute_uv=False)
    expected = np.sqrt(np.square(values[3:]).sum() / np.square(values).sum())
    assert report.error == pytest.approx(expected, rel=1e-4)
    assert report.modules[0].norm == pytest.approx(np.linalg.norm(whole), rel=1e-5)


def test_large_updates_are_truncated_almost_as_well_as_by_a_dense_svd(tmp_path, monkeypatch):
    """Beyond `SMALL`, subspace iteration: its error is stated, and within 1 % of the least."""
    rng = np.random.default_rng(1)
    updates = [
        np.float32(
            rng.standard_normal((150, 8)) @ np.diag(0.7 ** np.arange(8)) @ rng.standard_normal((8, 120))
        )
        for _ in range(2)
    ]
    folders = [write_updates(tmp_path / str(place), {"layer": one}) for place, one in enumerate(updates)]
    exact = merge_adapters(folders, tmp_path / "exact", method="ties", density=0.3, rank=12)
    monkeypatch.setattr(module, "SMALL", 10)
    close = merge_adapters(folders, tmp_path / "close", method="ties", density=0.3, rank=12)
    assert exact.error <= close.error * (1 + 1e-6)
    assert close.error < 1.01 * exact.error


@pytest.mark.parametrize("slip", SLIPS)
@pytest.mark.parametrize("method", ["svd", "ties", "dare", "knots", "dora"])
def test_the_result_is_checked_before_it_is_put_in_place(method, slip, tmp_path, monkeypatch):
    """A bug in writing must not become somebody's adapter."""
    options = {"method": method, "rank": 3, "workers": 1}
    if method == "dora":
        case = with_config("llama", target_modules=["q_proj"], use_dora=True)
        folders = pair_of(tmp_path, case)
        fresh(case).save_pretrained(tmp_path / "base")
        options |= {"method": "svd", "base_model": tmp_path / "base"}
    else:
        updates = [{"one": FIRST, "two": SECOND}, {"one": SECOND, "two": 2 * SECOND}]
        folders = [write_updates(tmp_path / str(place), one) for place, one in enumerate(updates)]
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(verb, "write_merged", slipping(module.write_merged, slip))
    with pytest.raises(WrittenWrong, match="has an error of"):
        merge_adapters(folders, tmp_path / "out", **options)
    assert sorted(tmp_path.iterdir()) == before


# ---------------------------------------------------------------- mergekit's task arithmetic, TIES and DARE


RECORD = json.loads(Path(__file__).with_name("mergekit.json").read_text(encoding="utf-8"))
OURS = {"task_arithmetic": "linear", "ties": "ties", "dare_linear": "dare"}


@pytest.mark.parametrize("merge", RECORD["merges"], ids=lambda merge: f"{merge['method']}-{merge['density']}")
def test_equal_to_mergekit(merge, tmp_path):
    updates = [np.array(update) for update in RECORD["updates"][: len(merge["weights"])]]
    folders = [
        write_updates(tmp_path / str(place), {"layer": update}) for place, update in enumerate(updates)
    ]
    method = OURS[merge["method"]]
    options = {} if method == "linear" else {"density": merge["density"], "rank": 7}
    merge_adapters(folders, tmp_path / "out", method=method, weights=merge["weights"], **options)
    with open_adapter(tmp_path / "out") as opened:
        (pair,) = opened.pairs
        loaded = pair.load()
        merged = pair.scale * decode(loaded.words_B()) @ decode(loaded.words_A()).T
    np.testing.assert_allclose(merged, merge["merged"], rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- PEFT's add_weighted_adapter: the same ΔW


WEIGHTS = [1.0, 0.5]


def by_peft(case: Case, a: Path, b: Path, kind: str, **options: object) -> tuple[PeftModel, Updates]:
    """PEFT's merge of two adapters as the adapter `merged`."""
    model = PeftModel.from_pretrained(fresh(case).double(), a, adapter_name="a")
    model.load_adapter(b, adapter_name="b")
    model.add_weighted_adapter(["a", "b"], WEIGHTS, "merged", combination_type=kind, **options)
    model.set_adapter("merged")
    return model.double().eval(), peft_updates(model, "merged")


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [
        ("cat", {"method": "linear"}, {}),
        ("svd", {"method": "svd", "rank": 5}, {"svd_rank": 5}),
        ("ties_svd", {"method": "ties", "rank": 5, "density": 0.3}, {"svd_rank": 5, "density": 0.3}),
        ("ties_svd", {"method": "ties", "rank": 8, "density": 0.7}, {"svd_rank": 8, "density": 0.7}),
        ("dare_linear_svd", {"method": "dare", "rank": 5, "density": 1}, {"svd_rank": 5, "density": 1}),
    ],
    ids=["cat", "svd", "ties", "ties-full", "dare"],
)
@pytest.mark.filterwarnings("ignore:The density 1")
@pytest.mark.parametrize("name", ["plain", "embedding"])
def test_equal_where_peft_is_right(kind, ours, theirs, name, tmp_path):
    case = with_config("llama", target_modules=LINEAR)
    if name == "embedding":
        case = with_config("embedding", target_modules=["wte", "c_attn"], fan_in_fan_out=True)
        if kind != "cat":
            ours, theirs = ours | {"rank": 5}, theirs | {"svd_rank": 5}
    a, b = pair_of(tmp_path, case)
    merge_adapters([a, b], tmp_path / "out", weights=WEIGHTS, **ours)
    _, expected = by_peft(case, a, b, kind, **theirs)
    errors = relative_errors(expected, updates_of(case, tmp_path / "out"))
    assert max(errors.values()) < 2e-6


def test_rslora_where_peft_is_wrong(tmp_path):
    """PEFT keeps use_rslora of the first adapter with α = r, so its merge is √r times too large."""
    case = with_config("llama", target_modules=LINEAR, use_rslora=True)
    a, b = pair_of(tmp_path, case)
    merge_adapters([a, b], tmp_path / "out", weights=WEIGHTS)
    expected = weighted([updates_of(case, a), updates_of(case, b)], WEIGHTS)
    assert max(relative_errors(expected, updates_of(case, tmp_path / "out")).values()) < 1e-7
    _, theirs = by_peft(case, a, b, "cat")
    assert min(relative_errors(expected, theirs).values()) > 0.4


def test_dora_where_peft_is_wrong(tmp_path):
    """PEFT adds up s·B·A and gives the merge a magnitude of its own; the updates are m·(W + s·B·A)/‖W + s·B·A‖ − W."""
    case = with_config("llama", target_modules=LINEAR, use_dora=True)
    a, b = pair_of(tmp_path, case)
    fresh(case).save_pretrained(tmp_path / "base")
    merge_adapters(
        [a, b], tmp_path / "out", weights=WEIGHTS, method="svd", rank=24, base_model=tmp_path / "base"
    )
    base = {
        name: module.weight.detach()
        for name, module in fresh(case).double().named_modules()
        if name.endswith(tuple(LINEAR))
    }
    expected = {}
    for folder, weight in zip((a, b), WEIGHTS, strict=True):
        whole = dict(load(case, folder)[0].merge_and_unload().named_modules())
        for name, before in base.items():
            expected[name] = expected.get(name, 0.0) + weight * (whole[name].weight.detach() - before)
    merged = updates_of(replace(case, config=case.config), tmp_path / "out")
    for name, update in expected.items():
        difference = np.linalg.norm(merged[name, None] - update.numpy()) / np.linalg.norm(update)
        assert difference < 1e-6


def test_biases_of_lora_B_where_peft_is_wrong(tmp_path):
    """PEFT leaves them out of the merge; each adds s·b to the output."""
    case = with_config(Case(bert, None), target_modules=["query", "value"], lora_bias=True)
    a, b = pair_of(tmp_path, case)
    merge_adapters([a, b], tmp_path / "out", weights=WEIGHTS)

    def biases(folder: Path) -> dict[str, torch.Tensor]:
        layers = load(case, folder)[0].base_model.model.named_modules()
        return {
            name: layer.scaling["default"] * layer.lora_B["default"].bias.detach()
            for name, layer in layers
            if hasattr(layer, "lora_B")
        }

    first, second, merged = (biases(folder) for folder in (a, b, tmp_path / "out"))
    for name, bias in merged.items():
        assert torch.allclose(bias, first[name] + 0.5 * second[name], rtol=1e-6, atol=1e-7)
    model, _ = by_peft(case, a, b, "cat")
    ours, _ = load(case, tmp_path / "out")
    assert not torch.allclose(outputs(model), outputs(ours), atol=1e-3)
