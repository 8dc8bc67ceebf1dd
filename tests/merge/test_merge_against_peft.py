"""PEFT's add_weighted_adapter: the same ΔW where it is right; where it is wrong (peft#3761), dense algebra decides."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from merging import pair_of, updates_of, weighted, with_config
from peft import PeftModel
from peft_cases import LINEAR, Case, fresh, load, outputs, relative_errors
from peft_models import Updates, bert, peft_updates

from gradience import merge_adapters

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
