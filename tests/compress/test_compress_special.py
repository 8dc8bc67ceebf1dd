"""Adapters that are unlike most: storage types, DoRA, grouped convolutions, names that end alike, ranks too large."""

import warnings

import numpy as np
import pytest
import torch
from compressing import compress
from factory import adapter, modules, sharded
from peft import PeftModel
from peft_cases import LINEAR, config, load_strict, train_saved
from peft_models import Convolutions, llama, mixtral, peft_updates, save, stored_tensors
from raising import raises
from safetensors.torch import load_file, save_file

from gradience import convert_adapter
from gradience.errors import InputError
from gradience.plan.criteria import ToRank


def relative(before: dict, after: dict) -> dict[str, float]:
    return {
        name: float(np.linalg.norm(update - after[name, expert]) / np.linalg.norm(update))
        for (name, expert), update in before.items()
    }


GROUPED = ["grouped", "depthwise", "three"]


def test_grouped_convolutions_keep_their_rank(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = save(
            Convolutions(), config(target_modules=GROUPED, r=8), tmp_path / "in", dtype=torch.float64
        )
        report = compress(tmp_path / "in", tmp_path / "out", ToRank(2))
        after = peft_updates(PeftModel.from_pretrained(Convolutions().double(), tmp_path / "out"))
    errors = relative(saved.updates, after)
    rows = {row.name: row for row in report.modules}
    assert {name: row.new_rank for name, row in rows.items()} == {"grouped": 8, "depthwise": 8, "three": 2}
    assert rows["grouped"].unchanged
    assert report.warnings == ("2 modules keep their rank: block-diagonal B of a grouped convolution",)
    assert errors["grouped"] == errors["depthwise"] == 0.0
    assert errors["three"] == pytest.approx(rows["three"].measured_error, rel=1e-9)
    assert rows["grouped"].old_params == rows["grouped"].new_params


def test_grouped_convolutions_cannot_be_padded(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lora = config(target_modules=GROUPED, r=8, rank_pattern={"three": 16})
        save(Convolutions(), lora, tmp_path / "in")
    with raises(InputError, "block-diagonal"):
        compress(tmp_path / "in", tmp_path / "out", ToRank(12), encoding="padded")
    compress(tmp_path / "in", tmp_path / "out", ToRank(12), encoding="patterns")


# ---------------------------------------------------------------- names


def test_two_parameters_with_different_ranks(tmp_path):
    """PEFT warns of pattern keys for parameters, and applies them: the result loads and means the same."""
    targets = ["experts.down_proj", "experts.gate_up_proj"]
    lora = config(
        target_modules=[],
        target_parameters=targets,
        rank_pattern={"experts.down_proj": 3},
        alpha_pattern={"gate_up_proj": 5},
    )
    saved = save(mixtral(), lora, tmp_path / "in", dtype=torch.float64)
    report = compress(tmp_path / "in", tmp_path / "out", ToRank(64), encoding="folded")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*did not match any targeted module.*")
        after = peft_updates(PeftModel.from_pretrained(mixtral().double(), tmp_path / "out"))
    assert max(relative(saved.updates, after).values()) < 1e-14
    assert {row.new_rank for row in report.modules} == {3, 6}
    assert any("target_parameters" in warning for warning in report.warnings)


def test_tied_factors_are_refused(tmp_path):
    base = llama()
    base.config.tie_word_embeddings = True
    base.tie_weights()
    save(base, config(target_modules=["embed_tokens", "q_proj"], ensure_weight_tying=True), tmp_path / "in")
    with raises(InputError, "tied-factors"):
        compress(tmp_path / "in", tmp_path / "out", ToRank(2))


@pytest.mark.parametrize("chosen", ["style", "second"])
def test_one_of_two_adapters_in_a_file(chosen, tmp_path):
    """The others' tensors are left out and named."""
    save(llama(), config(target_modules=LINEAR), tmp_path / "in")
    tensors = load_file(tmp_path / "in" / "adapter_model.safetensors")
    both = {
        name.replace(".weight", f".{label}.weight"): tensor.clone() * factor
        for label, factor in (("style", 1.0), ("second", 2.0))
        for name, tensor in tensors.items()
    }
    save_file(both, tmp_path / "in" / "adapter_model.safetensors")
    report = compress(tmp_path / "in", tmp_path / "out", ToRank(2), adapter=chosen)
    after = stored_tensors(tmp_path / "out")
    assert after.keys() == tensors.keys()  # as PEFT saves them: without the adapter's name
    assert len(report.left_out_tensors) == len(tensors)
    assert not any(f".{chosen}." in name for name in report.left_out_tensors)


def test_shards_become_one_file(tmp_path):
    tensors = modules()
    names = list(tensors)
    parts = {
        "part-1.safetensors": names[:3],
        "part-2.safetensors": names[3:],
    }  # a pair of factors is torn apart
    shards = {file: {name: tensors[name] for name in part} for file, part in parts.items()}
    compress(sharded(tmp_path / "shards", shards), tmp_path / "out")
    compress(adapter(tmp_path / "whole"), tmp_path / "once")
    (weights,) = (tmp_path / "out").glob("*.safetensors*")
    assert weights.read_bytes() == (tmp_path / "once" / "adapter_model.safetensors").read_bytes()


# ---------------------------------------------------------------- merged adapters


@pytest.mark.parametrize("left", [1e-3, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("rank", [2, 8])
def test_modules_whose_factors_nearly_cancel(left, rank, tmp_path):
    """B·A = C·(1 + ε) − C·1, as opposed adapters leave it: small, and still measured."""
    saved = save(llama(), config(target_modules=["q_proj"], r=8), tmp_path / "in", dtype=torch.float64)
    tensors = load_file(tmp_path / "in" / "adapter_model.safetensors")
    for name, tensor in tensors.items():
        if "lora_A" in name:
            tensor[4:] = tensor[:4] * (1 + left * torch.randn(4, 1, dtype=torch.float64))
        else:
            tensor[:, 4:] = -tensor[:, :4]
    save_file(tensors, tmp_path / "in" / "adapter_model.safetensors")
    report = compress(tmp_path / "in", tmp_path / "out", ToRank(rank), encoding="folded")
    before, after = (
        peft_updates(load_strict(llama(), tmp_path / "in")),
        peft_updates(load_strict(llama(), tmp_path / "out")),
    )
    for row in report.modules:
        lost = np.linalg.norm(before[row.name, None] - after[row.name, None])
        error = lost / np.linalg.norm(before[row.name, None])
        assert row.measured_error == pytest.approx(error, rel=1e-2, abs=1e-14 / left)
    assert saved.updates.keys() == before.keys()


# ---------------------------------------------------------------- added tokens


SAVED_WHOLE = {
    "both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "head": {"modules_to_save": ["lm_head"]},
    "rows-and-head": {"modules_to_save": ["lm_head"], "trainable_token_indices": [3, 48]},
}


def with_added_tokens(*, tied: bool):
    torch.manual_seed(5)
    base = llama()
    base.config.tie_word_embeddings = tied
    base.tie_weights()
    base.resize_token_embeddings(50, mean_resizing=False)
    return base


@pytest.mark.parametrize(
    ("kind", "tied"),  # PEFT 0.21 does not load trained rows and a saved head where both are tied
    [("both", False), ("both", True), ("head", False), ("head", True), ("rows-and-head", False)],
)
def test_embedding_and_head_saved_beside_what_was_trained_of_them(kind, tied, tmp_path):
    """PEFT saves them as they lie in the live model, too: a second `lm_head.weight`, which it does not read again."""
    lora = config(target_modules=["q_proj"], **SAVED_WHOLE[kind])
    save(with_added_tokens(tied=tied), lora, tmp_path / "in", prepare=train_saved, save_embedding_layers=True)
    path = tmp_path / "in" / "adapter_model.safetensors"
    tensors = load_file(path)
    copies = [name for name in tensors if ".modules_to_save." in name]
    assert copies

    def logits(folder):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = PeftModel.from_pretrained(with_added_tokens(tied=tied), folder).eval()
        with torch.no_grad():
            return model(torch.tensor([[3, 48, 49, 7]])).logits

    expected = logits(tmp_path / "in")
    convert_adapter(tmp_path / "in", tmp_path / "same")
    torch.testing.assert_close(logits(tmp_path / "same"), expected, rtol=0, atol=0)
    compress(tmp_path / "in", tmp_path / "out", ToRank(6), encoding="padded")
    torch.testing.assert_close(logits(tmp_path / "out"), expected, rtol=0, atol=1e-6)
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert written.keys() == tensors.keys() - set(copies)
    save_file({name: tensor + (name in copies) for name, tensor in tensors.items()}, path, {"format": "pt"})
    torch.testing.assert_close(logits(tmp_path / "in"), expected, rtol=0, atol=0)
