"""The configuration that GradienceCallback records at the start of a run.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gradience.check.dialects.dialect import Aim, Dialect, Values
from gradience.config_errors import value_at
from gradience.errors import InputError
from gradience.telemetry import TelemetryReader
from gradience.telemetry.trainers import method_of

RUN_FILE = "run.jsonl"
KEYS: Mapping[str, str] = {
    "base.name": "base_model",
    "task_profile": "task_type",
    "lora.r": "r",
    "lora.alpha": "alpha",
    "lora.target_modules": "target_modules",
    "lora.dropout": "dropout",
    "lora.bias": "bias",
    "lora.use_rslora": "use_rslora",
    "lora.use_dora": "use_dora",
    "lora.rank_pattern": "rank_pattern",
    "lora.alpha_pattern": "alpha_pattern",
    "lora.modules_to_save": "modules_to_save",
    "optimizer.name": "optimizer",
    "optimizer.lr": "learning_rate",
    "optimizer.weight_decay": "weight_decay",
    "training.batch_size": "batch_size",
    "training.gradient_accumulation": "accumulation",
    "training.epochs": "epochs",
    "training.max_steps": "max_steps",
    "training.schedule": "schedule",
    "training.max_grad_norm": "max_grad_norm",
    "training.evaluation": "evaluation",
}


def recorded_config(path: Path) -> Values:
    """Return the configuration of the first run in a run.jsonl. Raises InputError (config-unknown)."""
    for record in TelemetryReader(path):
        config = record.data.get("config")
        if record.event == "run_start" and isinstance(config, Mapping):
            return config
    raise InputError(
        f"{path}: no run_start with a configuration in it",
        code="config-unknown",
        hint="give the training's configuration file, or a run.jsonl that GradienceCallback wrote",
    )


def is_run(values: Values) -> bool:
    """Whether these are the sections that a run_start holds."""
    return {"lora", "optimizer", "training"} <= values.keys()


def _aim(values: Values) -> Aim | None:
    trainer = value_at(values, "trainer.class")
    method = method_of([trainer]) if isinstance(trainer, str) else "supervised"
    return {
        "reinforcement": Aim("rl", key="trainer.class"),
        "preference": Aim("preference", key="trainer.class"),
    }.get(method)


RUN = Dialect("run.jsonl", is_run, KEYS, aim=_aim)
