"""Heads, biases and embeddings beside the factors: equal in all parents, refused by name, averaged, or the first's."""

from __future__ import annotations

import pytest
import torch
from merging import parent, updates_of, weighted, with_config
from peft_cases import CASES, relative_errors
from safetensors.torch import load_file

from gradience import InputError, merge_adapters

NAMES = {"bert-head": "classifier.weight", "all-biases": "bias", "modules-to-save": "lm_head.weight"}


def stored(folder) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for name, tensor in load_file(folder / "adapter_model.safetensors").items()
        if "lora_" not in name
    }


@pytest.fixture
def pair(request, tmp_path):
    case = CASES[request.param]
    return case, parent(case, tmp_path / "A", 1), parent(case, tmp_path / "B", 2)


@pytest.mark.parametrize("pair", NAMES, indirect=True)
def test_what_differs_is_refused_by_name_or_averaged(pair, tmp_path):
    case, a, b = pair
    with pytest.raises(InputError, match=r"full weights do not add up") as caught:
        merge_adapters([a, b], tmp_path / "out")
    assert caught.value.code == "saved-differ"
    first, second = stored(a), stored(b)
    assert any(name.removeprefix("base_model.model.") in str(caught.value) for name in first)
    merge_adapters([a, b], tmp_path / "mean", weights=[3, 1], saved="average")
    for name, tensor in stored(tmp_path / "mean").items():
        assert torch.allclose(tensor, 0.75 * first[name] + 0.25 * second[name], atol=1e-6)
    expected = weighted([updates_of(case, a), updates_of(case, b)], [3, 1])
    assert max(relative_errors(expected, updates_of(case, tmp_path / "mean")).values()) < 1e-6


def test_what_only_one_has_is_no_average(tmp_path):
    bare = with_config("modules-to-save", target_modules=["q_proj", "v_proj", "down_proj"])
    a, b = parent(CASES["modules-to-save"], tmp_path / "A", 1), parent(bare, tmp_path / "B", 2)
    for saved in ("refuse", "average"):
        with pytest.raises(InputError, match="is trained only in") as caught:
            merge_adapters([a, b], tmp_path / "out", saved=saved)
        assert caught.value.code == "saved-differ"


def test_trained_tokens_must_be_the_same_tokens(tmp_path):
    a = parent(CASES["token-rows"], tmp_path / "A", 1)
    b = parent(with_config("token-rows", target_modules=["q_proj", "v_proj", "down_proj"],
                           trainable_token_indices=[3, 7, 12]), tmp_path / "B", 2)  # fmt: skip
    with pytest.raises(InputError) as caught:
        merge_adapters([a, b], tmp_path / "out", saved="average")
    assert caught.value.code == "other-config"
