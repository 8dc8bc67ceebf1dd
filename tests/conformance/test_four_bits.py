"""A base in 4 bits through bitsandbytes itself, on the processor: trained, then evaluated on the very same base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_bench import llama, sums

from gradience.evaluate.evaluator import Evaluator
from gradience.models.load import load_base
from gradience.models.settings import ModelSettings
from gradience.training import trainer as training
from gradience.training.network import with_fresh_lora
from gradience.training.settings import TrainSettings

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning"),  # bitsandbytes 0.50
]

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


def test_training_and_evaluation_stand_on_one_base(tmp_path: Path) -> None:
    base = llama(tmp_path / "base", hidden_size=64, intermediate_size=128)
    packed = ModelSettings(name=str(base), type="causal_lm", dtype="bfloat16", quantization="nf4")
    recipe = TrainSettings(max_steps=10, lr=5e-3, per_device_train_batch_size=4, max_length=16)
    task = sums()
    report = training.train(
        task, model=packed, lora=LORA, recipe=recipe, seed=1, output=tmp_path / "out", device="cpu"
    )
    assert report.quantization == "nf4"
    assert report.loss is not None
    evaluator = Evaluator(
        task, packed, task.examples.of("confirm"), batch_size=4, max_length=16, device="cpu"
    )
    answers = evaluator.answers("probe", tmp_path / "out" / "adapter", tmp_path / "answers.jsonl")
    assert len(answers.records) == len(task.examples.of("confirm"))
    assert answers.run.quantization == "bitsandbytes nf4"

    fresh = with_fresh_lora(load_base(packed, device="cpu"), LORA, packed, 1, labels=None, trained="lora")
    ids = torch.arange(3, 12)[None]
    with torch.inference_mode(), evaluator.engine.using(None) as evaluated:
        torch.testing.assert_close(fresh(ids).logits, evaluated(ids).logits, rtol=0, atol=0)  # B = 0
    trained = fresh.get_base_model()
    kinds = {name: (weight.dtype, type(weight).__name__) for name, weight in trained.named_parameters()}
    assert kinds["model.layers.0.self_attn.q_proj.base_layer.weight"] == (torch.uint8, "Params4bit")
    assert kinds["model.norm.weight"][0] == kinds["model.embed_tokens.weight"][0] == torch.float32
