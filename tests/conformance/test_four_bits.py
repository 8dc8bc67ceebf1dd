"""A base in 4 bits through bitsandbytes itself, on the processor: trained, then evaluated on the very same base."""

import pytest
import torch
from data_files import write_jsonl
from tiny_bench import llama, sums

from gradience import calibrate_adapter, compress_adapter
from gradience.evaluate.evaluator import Evaluator
from gradience.models.load import load_base
from gradience.models.settings import ModelSettings
from gradience.training import trainer as training
from gradience.training.settings import TrainSettings
from gradience.training.trainer import with_fresh_lora

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning"),  # bitsandbytes 0.50
]

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


@pytest.fixture
def packed(tmp_path):
    base = llama(tmp_path / "base", hidden_size=64, intermediate_size=128)
    return ModelSettings(name=str(base), type="causal_lm", dtype="bfloat16", quantization="nf4")


def test_training_and_evaluation_stand_on_one_base(packed, tmp_path):
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
    answers = evaluator.answers(("probe", tmp_path / "out" / "adapter"), tmp_path / "answers.jsonl")
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


def test_an_adapter_is_calibrated_on_a_base_in_four_bits(packed, tmp_path):
    """Every module is reached through the packed layers, forward and backward."""
    model = with_fresh_lora(load_base(packed, device="cpu"), LORA, packed, 1, labels=None, trained="lora")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    rows = [{"prompt": f"{n} {n % 7} =", "completion": f" {n + 1}"} for n in range(12)]
    given = {"base_model": packed.name, "dtype": "bfloat16", "quantization": "nf4", "device": "cpu"}
    prompts = write_jsonl(tmp_path / "rows.jsonl", rows)
    calibration = calibrate_adapter(
        tmp_path / "adapter", tmp_path / "c.safetensors", prompts=prompts, **given
    )
    assert calibration.report.quantization == "bitsandbytes nf4"
    assert calibration.report.excluded == ()
    assert len(calibration.modules) == 14
    assert all(each.effects.any() for each in calibration.modules.values())
    small = compress_adapter(
        tmp_path / "adapter", tmp_path / "small", calibration=calibration, reduction=0.5, force=True
    )
    assert small.prediction is not None
    assert small.prediction.kl_per_token > 0
