"""A training of a few steps on a tiny model, and what it leaves."""

from pathlib import Path
from typing import Any

from tiny_bench import sentences, sums

from gradience.models.settings import ModelSettings
from gradience.reports.training import TrainingReport
from gradience.training.settings import TrainSettings
from gradience.training.trainer import train

LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
BERT_LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"]}


def recipe(**changes: Any) -> TrainSettings:
    values = {
        "max_steps": 6,
        "lr": 5e-3,
        "per_device_train_batch_size": 4,
        "logging_steps": 2,
        "max_length": 16,
    }
    return TrainSettings(**{**values, **changes})


def run(model: ModelSettings, output: Path, **changes: Any) -> TrainingReport:
    kind = model.type == "causal_lm"
    arguments: dict[str, Any] = {
        "lora": LORA if kind else BERT_LORA,
        "recipe": recipe(),
        "seed": 42,
        **changes,
    }
    return train(sums() if kind else sentences(), model=model, output=output, device="cpu", **arguments)


def weights(output: Path) -> bytes:
    return (output / "adapter" / "adapter_model.safetensors").read_bytes()
