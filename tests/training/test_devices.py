"""One process, one device: with mocked counts of GPUs, and with torch's meta device as the second device."""

from typing import Any

import pytest
import torch
from tiny_bench import llama, sums
from transformers import PreTrainedModel, Trainer

from gradience.errors import UsageError
from gradience.evaluate.evaluator import Evaluator
from gradience.models import load as models
from gradience.models.load import VISIBLE, choose_device, load_base, visible_name
from gradience.models.settings import ModelSettings
from gradience.training.encode import Collator, encode
from gradience.training.settings import TrainSettings
from gradience.training.trainer import trainer_arguments, with_fresh_lora

LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
RECIPE = TrainSettings(
    max_steps=2, lr=1e-3, per_device_train_batch_size=4, gradient_accumulation_steps=4, max_length=16
)


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return ModelSettings(
        name=str(llama(tmp_path_factory.mktemp("llama"))), type="causal_lm", dtype="bfloat16"
    )


@pytest.fixture
def gpus(monkeypatch):
    """Eight GPUs, as far as they can be had without one. Returns which were made the current one."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr("accelerate.state.check_cuda_p2p_ib_support", lambda: True)
    return current


# ------------------------------------------------------------------ which device


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("asked", "chosen"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")]
)
def test_a_process_alone_takes_one_gpu(asked, chosen):
    assert choose_device(asked) == torch.device(chosen)


@pytest.mark.usefixtures("gpus")
def test_what_this_machine_lacks():
    with pytest.raises(UsageError, match="this machine has no device cuda:8"):
        choose_device("cuda:8")
    with pytest.raises(UsageError, match="this machine has no device mps"):
        choose_device("mps")


def test_training_and_evaluation_load_on_the_same_device(causal, gpus, monkeypatch):
    moved: list[torch.device] = []
    monkeypatch.setattr(PreTrainedModel, "to", lambda model, where: moved.append(where) or model)
    assert load_base(causal, device="cuda:3").device == "cuda:3"
    _ = Evaluator(sums(), causal, (), batch_size=1, max_length=8, device="cuda:1").engine
    assert moved == gpus == [torch.device("cuda:3"), torch.device("cuda:1")]


# ------------------------------------------------------------------ the Trainer on it


def test_the_trainer_puts_model_and_batches_where_the_base_is(causal, monkeypatch, tmp_path):
    """On the meta device, which is a device like any other but for its numbers."""
    monkeypatch.setattr(models, "choose_device", lambda device: torch.device("meta"))
    causal = causal.model_copy(
        update={"attn_implementation": "eager"}
    )  # SDPA looks at the values of the mask
    base = load_base(causal)
    assert base.device == "meta"
    network = with_fresh_lora(base, LORA, causal, 42, labels=None, trained="lora")
    encoded = encode(base.tokenizer, sums(), sums().examples.of("train"), 16)
    collator = Collator(base.tokenizer)
    args = trainer_arguments(RECIPE, tmp_path, 42, base, checkpointing=False)
    trainer = Trainer(model=network, args=args, train_dataset=encoded.features, data_collator=collator)
    seen: set[str] = set()
    network.register_forward_pre_hook(
        lambda _, __, inputs: seen.update(str(value.device) for value in inputs.values()), with_kwargs=True
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert {value.device.type for value in batch.values()} == {"meta"}
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert seen == {"meta"}
    assert loss.device.type == "meta"
    assert {weight.device.type for weight in network.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("visible", "device", "name"),
    [
        (None, "cuda", "0"),
        (None, "cuda:1", "1"),
        ("2, 5", "cuda:1", "5"),
        ("GPU-8932f937,GPU-1b2c", "cuda:0", "GPU-8932f937"),
        ("0,1,2,3", "cpu", ""),
    ],
)
def test_gpus_have_the_names_that_cuda_gives_them(monkeypatch, visible, device, name):
    monkeypatch.delenv(VISIBLE, raising=False)
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    assert visible_name(torch.device(device)) == name
