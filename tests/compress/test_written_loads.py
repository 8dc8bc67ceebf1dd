"""What is renamed or left out: PEFT loads the result without a word, and computes what is meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from compressing import ENCODINGS, compress
from peft_cases import (
    CASES,
    load,
    outputs,
    relative_errors,
    saved_once,
    unexpected,
)
from peft_models import peft_updates
from safetensors.torch import load_file, save_file

from gradience import audit_adapter
from gradience.errors import InputError
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import ToBudget, ToEnergy, ToRank, ToRanks

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return saved_once(tmp_path_factory, dtype=torch.float64)


def settings(folder: Path) -> dict:
    return json.loads((folder / CONFIG).read_text())


# ---------------------------------------------------------------- foreign names


def with_adapter_name(name: str) -> str:
    """As in the state of a live model whose adapter is called `ranking`."""
    for factor in ("lora_embedding_A", "lora_embedding_B", "lora_A", "lora_B", "trainable_tokens_delta"):
        if f".{factor}" in name:
            return name.replace(f".{factor}", f".{factor}.ranking")
    if "base_layer" in name:
        return name
    module, _, parameter = name.rpartition(".")
    return f"{module}.modules_to_save.ranking.{parameter}"


FOREIGN = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled inside": lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
    "no prefix": lambda name: name.removeprefix("base_model.model."),
    "data parallel": lambda name: f"module.{name}",
    "an adapter's name": with_adapter_name,
}
NAMED = [
    "llama",
    "embedding",
    "convolutions",
    "experts",
    "attention",
    "lora-bias",
    "biases",
    "token-rows",
    "bert-head",
]


def renamed(folder: Path, target: Path, rename) -> Path:
    target.mkdir()
    shutil.copy(folder / CONFIG, target)
    tensors = load_file(folder / WEIGHTS)
    save_file({rename(name): tensor for name, tensor in tensors.items()}, target / WEIGHTS)
    return target


def does_nothing(case, folder: Path) -> bool:
    """Whether PEFT refuses the folder, or loads it and computes what the base computes."""
    try:
        model, messages = load(case, folder)
    except KeyError:
        return True
    silent = all(not update.any() for update in peft_updates(model).values())
    assert silent == any("missing adapter keys" in message for message in messages)
    return silent


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("name", NAMED)
def test_foreign_names_are_written_as_peft_looks_for_them(name, foreign, original, tmp_path):
    case, folder = CASES[name], original(name)
    source = renamed(folder, tmp_path / "in", FOREIGN[foreign])
    expected = outputs(load(case, folder)[0])
    # For mixtures of experts transformers rewrites the names, and happens to add the prefix.
    assert does_nothing(case, source) != (name == "experts" and foreign == "no prefix")
    finding = next(finding for finding in audit_adapter(source).findings if finding.code == "not-applied")
    assert finding.severity == "error"

    report = compress(source, tmp_path / "full", ToRank(64))
    assert report.renamed > 0
    model, messages = load(case, tmp_path / "full")
    assert unexpected(messages, load(case, folder)[1], report) == []
    assert torch.allclose(outputs(model), expected, rtol=1e-10, atol=1e-12)
    assert "not-applied" not in {finding.code for finding in audit_adapter(tmp_path / "full").findings}

    encoding = ENCODINGS[(NAMED.index(name) + list(FOREIGN).index(foreign)) % len(ENCODINGS)]
    encoding = "patterns" if encoding in (case.refused or {}) else encoding
    report = compress(source, tmp_path / "small", ToRank(2), encoding=encoding)
    errors = relative_errors(peft_updates(model), peft_updates(load(case, tmp_path / "small")[0]))
    for row in report.modules:
        assert errors[row.name] == pytest.approx(row.measured_error, rel=1e-8)


# ---------------------------------------------------------------- targets


def chosen(folder: Path, **ranks: int):
    """Every module at its rank, but for those named (with underscores for dots)."""
    audited = audit_adapter(folder)
    wanted = {row.name: ranks.get(row.name.replace(".", "_"), row.r) for row in audited.layers}
    return plan_compression(audited, ToRanks(wanted))


# ---------------------------------------------------------------- nn.MultiheadAttention


def test_the_two_parts_of_an_attention_share_their_rank(original, tmp_path):
    report = audit_adapter(original("attention"))
    rows = {row.name: row for row in report.layers}
    assert rows["attn"].scale == rows["attn.base_layer.out_proj"].scale == 3 / 5
    pattern = report.rank_pattern()
    assert set(pattern) == {"^attn", "^last"}
    for criterion in (ToRank(3),):
        report = compress(original("attention"), tmp_path / "out", criterion)
        assert len({row.new_rank for row in report.modules if "attn" in row.name}) == 1
    with pytest.raises(InputError) as refusal:
        compress(original("attention"), tmp_path / "no", ToBudget(max_params=300))
    assert refusal.value.code == "shared-rank"
    assert "attn" in str(refusal.value)
    assert not (tmp_path / "no").exists()


# ---------------------------------------------------------------- experts in tensors of their own


@pytest.fixture(scope="module")
def split_experts(tmp_path_factory):
    """Mixtral as transformers 4 knew it, one module per projection of an expert: PEFT 0.21 stacks them on loading."""
    from factor_samples import random_factors, write

    shapes = {"w1": (6, 24, 16), "w3": (6, 24, 16), "w2": (6, 16, 24)}
    factors = {}
    for layer in range(2):
        for expert in range(3):
            drawn = random_factors(10 * layer + expert, *shapes.values(), decay=0.3 + 0.2 * expert)
            names = [f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{part}" for part in shapes]
            factors |= dict(zip(names, drawn.values(), strict=True))
    folder = tmp_path_factory.mktemp("split") / "in"
    return write(folder, factors, dtype="F64", target_modules=["w1", "w2", "w3"])


@pytest.mark.parametrize("criterion", [ToRank(2), ToEnergy(0.9), ToBudget(reduction=0.7)], ids=str)
def test_split_experts_are_stacked_by_peft(criterion, split_experts, tmp_path):
    from factor_samples import updates

    report = compress(split_experts, tmp_path / "out", criterion)
    assert report.encoding == ("uniform" if criterion == ToRank(2) else "padded")
    assert report.dropped == ()
    model, messages = load(CASES["experts"], tmp_path / "out")
    assert not any("missing adapter keys" in message for message in messages)
    ours, theirs = updates(tmp_path / "out"), peft_updates(model)
    assert len(theirs) == 12
    for (name, expert), update in theirs.items():
        block = f"model.layers.{name.split('.')[2]}.block_sparse_moe.experts.{expert}"
        parts = ("w1", "w3") if "gate_up" in name else ("w2",)
        assert np.allclose(
            update, np.vstack([ours[f"{block}.{part}"] for part in parts]), rtol=1e-12, atol=1e-14
        )
