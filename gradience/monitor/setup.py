"""The configuration that a run recorded, read without trusting it: missing and odd values become None."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gradience.adapters.strict_json import LARGEST, SMALLEST
from gradience.arguments import is_number, positive_integer
from gradience.reports.monitor import Setup
from gradience.telemetry.records import Json
from gradience.telemetry.trainers import method_of


class RunSetup(Setup):
    """What a report shows of the configuration, and what rules need of it beside that."""

    max_completion_length: int | None = None
    rslora: bool = False
    init: str | None = None
    quantization_meaning: str | None = None
    nan_filter: bool = False


def read_setup(config: Mapping[str, Json], logged: Collection[str] = ()) -> RunSetup:
    """Return the setup in the `config` of a `run_start`; the public predecessor's files have fewer fields.

    logged: which keys of RL_KEYS the run logged; they tell the method where the trainer's class does not.
    """
    trainer = _block(config, "trainer")
    bases = trainer.get("bases")
    named = bases if isinstance(bases, list) else ()
    classes = [_text(trainer, "class"), *named, _text(trainer, "arguments")]
    lora, training = _block(config, "lora"), _block(config, "training")
    optimizer, base = _block(config, "optimizer"), _block(config, "base")
    quantization = _block(base, "quantization")
    batch = positive_integer(training.get("effective_batch_size"))
    if batch is None and (size := positive_integer(training.get("batch_size"))):
        batch = size * (positive_integer(training.get("gradient_accumulation")) or 1)
    return RunSetup(
        model=_text(config, "model_name") or _text(config, "model"),
        task=_text(config, "task_profile"),
        trainer=_text(trainer, "class"),
        method=method_of([name for name in classes if isinstance(name, str)], logged),
        evaluated_by=_text(config, "evaluated_by"),
        max_completion_length=positive_integer(trainer.get("max_completion_length")),
        r=positive_integer(lora.get("r")),
        alpha=_number(lora, "alpha"),
        scale=_number(lora, "scale"),
        rslora=lora.get("use_rslora") is True,
        init=_text(lora, "init"),
        learning_rate=_number(optimizer, "lr"),
        optimizer=_text(optimizer, "name"),
        schedule=_text(training, "schedule"),
        effective_batch_size=batch,
        max_steps=positive_integer(training.get("max_steps")),
        precision=_text(training, "dtype") or _text(base, "dtype"),
        quantization=_text(quantization, "name"),
        quantization_meaning=_text(quantization, "meaning"),
        trainable_params=positive_integer(lora.get("trainable_params")),
        hidden_size=positive_integer(base.get("hidden_size")),
        nan_filter=training.get("logging_nan_inf_filter") is True,
        notes=_text(config, "notes"),
    )


def _block(values: Mapping[str, Json], key: str) -> Mapping[str, Json]:
    value = values.get(key)
    return value if isinstance(value, Mapping) else {}


def _text(values: Mapping[str, Json], key: str) -> str | None:
    value = values.get(key)
    return value if isinstance(value, str) and value else None


def _number(values: Mapping[str, Json], key: str) -> float | None:
    value = values.get(key)
    if not is_number(value):
        return None
    return float(value) if not value or SMALLEST <= abs(value) <= LARGEST else None
