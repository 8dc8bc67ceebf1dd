"""The config -> what a run would do and cost. Offline: neither the model nor the data is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gradience.artifacts.exact import exact_text
from gradience.artifacts.forecast import BenchForecast, CostEstimate
from gradience.bench.config import BenchConfig
from gradience.bench.estimates import H100, Architecture, architecture_of, estimate
from gradience.bench.variants import TRAINED, PlannedVariant, asked_for

EXAMPLES: Mapping[str, int] = {
    "gsm8k": 1_319,
    "gsm8k_causal_lm": 1_319,
    "reviews": 2_186,
    "sst2": 872,
    "qnli": 5_463,
    "mnli": 9_815,
    "qqp": 40_430,
    "rte": 277,
    "cola": 1_043,
    "mrpc": 408,
}
"""Examples that decide (role confirm), of tasks whose data do not change; GLUE's by the name of the subset."""

NEW_TOKENS: Mapping[str, int] = {"gsm8k": 320, "gsm8k_causal_lm": 320, "arithmetic": 12}
BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "auto": 2.0}
PACKED = 0.55
"""Bytes of a weight in NF4 with its constants (QLoRA: 4.127 bits), and a little for what stays unpacked."""


def forecast(config: BenchConfig) -> BenchForecast:
    """What a run of `config` would do and cost."""
    wanted = asked_for(config.compression)
    trainings = 1 + sum(variant.made_by in TRAINED for variant in wanted)
    examples = _examples(config)
    found = architecture_of(config.model.name)
    assumptions = [f"times on {H100}; on another machine they differ"]
    if config.model.type == "causal_lm" and not examples:
        assumptions.append(
            "the number of questions is not known before the data are read: evaluations count as 0"
        )
    if config.train.max_steps is None:
        assumptions.append("the number of steps is not known before the data are read")
    if found is None:
        assumptions.append(
            f"the shape of {config.model.name} is not known offline: give a folder with config.json"
        )
    return BenchForecast(
        config_digest=config.digest(),
        protocol_digest=config.protocol_digest(),
        smoke=config.smoke,
        model=config.model.name,
        task=config.task.profile,
        seeds=config.seeds,
        stages=_stages(wanted),
        trainings=trainings,
        evaluations=1 + len(wanted),
        examples=examples,
        gate=exact_text(config.gate()),
        policy=config.policy,
        cost=_cost(config, found, trainings, 1 + len(wanted), examples or 0) if found else None,
        assumptions=tuple(assumptions),
        notes=config.notes,
    )


def _stages(wanted: Sequence[PlannedVariant]) -> tuple[str, ...]:
    """In the order of run.py: what is cut from the probe while its base is loaded, then what is trained."""
    stages = ["probe/train", "probe/eval", "audit"]
    for variant in wanted:
        if variant.made_by not in TRAINED:
            stages += [f"{variant.name}/{what}" for what in ("adapter", "eval")]
    trained = [variant.name for variant in wanted if variant.made_by in TRAINED]
    return (*stages, *(f"{name}/train" for name in trained), *(f"{name}/eval" for name in trained))


def _examples(config: BenchConfig) -> int | None:
    key = (
        str(config.task.options.get("subset"))
        if config.task.profile in ("glue", "seqcls_glue")
        else config.task.profile
    )
    whole = EXAMPLES.get(key) if config.task.eval_role == "confirm" else None
    asked = config.task.eval_samples
    return min(whole, asked) if whole and asked else whole or asked


def _cost(
    config: BenchConfig, found: Architecture, trainings: int, evaluations: int, examples: int
) -> CostEstimate | None:
    if config.train.max_steps is None:
        return None
    answers = config.model.type == "causal_lm"
    new_tokens = config.task.generation.max_new_tokens or NEW_TOKENS.get(config.task.profile, 256)
    cost = estimate(
        found,
        r=config.lora.probe_r,
        targets=config.lora.target_modules,
        bytes_per_weight=PACKED if config.model.quantization else BYTES[config.model.dtype],
        checkpointing=config.model.gradient_checkpointing,
        steps=config.train.max_steps,
        sequences=config.train.per_device_train_batch_size * config.train.gradient_accumulation_steps,
        max_length=config.train.max_length,
        examples=examples,
        new_tokens=new_tokens if answers else 0,
        eval_batch=config.train.per_device_eval_batch_size,
        trainings=trainings,
        evaluations=evaluations,
    )
    names = CostEstimate.model_fields
    return CostEstimate(**{name: getattr(cost, name) for name in names})
