"""Kinds of layers and scales on PEFT's own models: what is calibrated, and what is said of the rest."""

import numpy as np
import pytest
import tiny_bench
import torch
from calibrated_cases import adapter
from data_files import write_jsonl
from factory import edit_config
from peft import LoraConfig, PeftModel, get_peft_model
from raising import raises
from torch import nn
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM, set_seed

from gradience import UsageError, calibrate_adapter, compress_adapter
from gradience.calibrate.measure import NOT_A_LAYER, reach

ROWS = [{"prompt": f"{n % 20} {n % 7} =", "completion": f" {n % 20}"} for n in range(24)]


class Several(nn.Module):
    """One layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.table = nn.Linear(4, 4), nn.Embedding(5, 4)
        self.line, self.plane = nn.Conv1d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.heads = nn.MultiheadAttention(4, 2)
        self.experts = nn.Module()
        self.experts.stacked = nn.Parameter(torch.ones(2, 4, 4))
        self.expert_1 = nn.ModuleDict({"wi": nn.Linear(4, 4)})


def test_what_cannot_be_watched_is_named_with_its_reason():
    targets = ["linear", "table", "line", "plane", "heads", "wi"]
    model = get_peft_model(
        Several(), LoraConfig(r=2, target_modules=targets, target_parameters=["experts.stacked"])
    )
    reached = reach(model)
    assert set(reached.layers) == {"linear", "table", "heads.base_layer.out_proj"}
    assert {name: reason.split(":")[0] for name, reason in reached.reasons.items()} == {
        "line": "a convolution",
        "plane": "a convolution",
        "heads": "nn.MultiheadAttention",
        "experts": "a parameter (stacked experts)",
        "expert_1.wi": "an expert",
    }


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", ROWS)


def test_modules_of_stacked_experts_are_excluded_and_every_prediction_says_so(tmp_path, prompts):
    set_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_local_experts": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": len(tiny_bench.WORDS)}
    MixtralForCausalLM(MixtralConfig(**shape, **heads, pad_token_id=0)).save_pretrained(tmp_path / "base")
    tiny_bench.tokenizer().save_pretrained(tmp_path / "base")
    config = {"target_modules": ["q_proj", "o_proj"], "target_parameters": ["mlp.experts.down_proj"]}
    adapter(tmp_path / "adapter", tmp_path / "base", "CAUSAL_LM", **config)
    calibration = calibrate_adapter(
        tmp_path / "adapter", tmp_path / "c.safetensors", prompts=prompts, base_model=tmp_path / "base", device="cpu"
    )  # fmt: skip
    assert len(calibration.report.modules) == 2
    (experts,) = calibration.report.excluded
    assert (experts.name, experts.reason) == ("model.layers.0.mlp.experts.down_proj", NOT_A_LAYER)
    plan = compress_adapter(tmp_path / "adapter", calibration=calibration, reduction=0.2, dry_run=True)
    assert plan.prediction.excluded_modules == 1
    (row,) = [row for row in plan.modules if row.name == experts.name]
    assert row.new_rank == row.old_rank


def routed(tmp_path, chosen: int):
    """A Mixtral of four experts of which each token passes `chosen`, a trained adapter, and its calibration."""
    set_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_local_experts": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": len(tiny_bench.WORDS)}
    experts = {"num_experts_per_tok": chosen, "initializer_range": 0.3, "pad_token_id": 0}
    MixtralForCausalLM(MixtralConfig(**shape, **heads, **experts)).save_pretrained(tmp_path / "base")
    tiny_bench.tokenizer().save_pretrained(tmp_path / "base")
    folder = adapter(
        tmp_path / "adapter", tmp_path / "base", "CAUSAL_LM", target_modules=["q_proj", "v_proj"]
    )
    rows = [{"prompt": f"{n % 20} {n % 7} {n % 3} =", "completion": f" {n % 20}"} for n in range(120)]
    options = {
        "prompts": write_jsonl(tmp_path / "rows.jsonl", rows),
        "base_model": tmp_path / "base",
        "device": "cpu",
    }
    return folder, rows, calibrate_adapter(folder, tmp_path / "c.safetensors", **options)


def measured_kl(tmp_path, folder, rows) -> float:
    """KL per scored token by transformers and PEFT, one row at a time."""
    tokenizer = tiny_bench.tokenizer()
    models = [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), each).eval()
        for each in (folder, tmp_path / "small")
    ]
    kl = tokens = 0
    for row in rows:
        before = len(tokenizer(row["prompt"])["input_ids"])
        ids = tokenizer(row["prompt"] + row["completion"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            p, q = (model(ids).logits[0, before - 1 :].double().log_softmax(-1) for model in models)
        kl, tokens = kl + float((p.exp() * (p - q)).sum()), tokens + len(p)
    return kl / tokens


def test_a_base_that_routes_is_named_and_its_prediction_withheld(tmp_path):
    folder, rows, calibration = routed(tmp_path, 1)
    assert calibration.report.routing == "1 of 4 experts"
    assert "routes each token to 1 of 4 experts" in " ".join(calibration.report.to_text().split())
    given = {"calibration": tmp_path / "c.safetensors"}
    plan = compress_adapter(folder, reduction=0.05, dry_run=True, **given)
    assert plan.prediction is None
    assert "no prediction: the base routes each token" in " ".join(plan.to_text().split())
    with raises(UsageError, "routed-base", "routes each token to 1 of 4 experts"):
        compress_adapter(folder, max_kl_per_token=0.1, dry_run=True, **given)
    assert calibration.report.sizes == ()
    assert compress_adapter(folder, max_kl_per_token=0.1, dry_run=True, allow_routed=True, **given).prediction
    report = compress_adapter(folder, tmp_path / "small", reduction=0.05, allow_routed=True, **given)
    assert "can be many times the prediction" in " ".join(report.to_text().split())
    assert (
        measured_kl(tmp_path, folder, rows) > 5 * report.prediction.kl_per_token
    )  # tokens changed their experts


def test_a_base_whose_tokens_pass_all_experts_is_predicted(tmp_path):
    folder, rows, calibration = routed(tmp_path, 4)
    assert calibration.report.routing == ""
    report = compress_adapter(folder, tmp_path / "small", reduction=0.25, calibration=calibration)
    assert 0.4 < measured_kl(tmp_path, folder, rows) / report.prediction.kl_per_token < 2.5


def test_a_rank_stabilised_scale_counts_as_the_same_plain_one(tmp_path, prompts):
    """Equal factors with equal scales have equal effects, however the config writes the scale; embeddings included."""
    base = tiny_bench.llama(tmp_path / "base")
    config = {"target_modules": ["q_proj", "v_proj", "embed_tokens"], "rank_pattern": {"v_proj": 1}}
    folder = adapter(tmp_path / "adapter", base, "CAUSAL_LM", use_rslora=True, **config)
    measured = []
    for change in ({}, {"use_rslora": False, "lora_alpha": 16, "alpha_pattern": {"v_proj": 8}}):
        edit_config(folder, **change)
        output = tmp_path / f"{len(measured)}.safetensors"
        measured.append(calibrate_adapter(folder, output, prompts=prompts, base_model=base, device="cpu"))
    first, second = measured
    assert {row.scale for row in first.report.modules} == {4.0, 8.0}
    assert first.report.modules == second.report.modules
    assert len(first.modules) == 5
    for name, each in first.modules.items():
        np.testing.assert_array_equal(each.effects, second.modules[name].effects)
    assert "model.embed_tokens" in first.modules
    small = compress_adapter(folder, tmp_path / "small", calibration=second, reduction=0.5)
    assert small.new_params <= small.old_params / 2
    assert small.prediction.excluded_modules == 0
