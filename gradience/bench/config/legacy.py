"""Other names for our settings: those of the public predecessor's configs, of transformers 4, and of PEFT.

Every such key is in one of two tables: it is read under our name, or it has no effect, which a note says; where a value
asks for what would not happen, it is refused. docs/reference/configs.md shows the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradience.config_errors import MISSING
from gradience.errors import InputError, UsageError

Values = dict[str, Any]

RENAMED: Mapping[str, str] = {
    "model.torch_dtype": "model.dtype",
    "train.learning_rate": "train.lr",
    "train.num_train_epochs": "train.epochs",
    "train.gradient_checkpointing": "model.gradient_checkpointing",
    "train.seed": "seed",
    "train.eval_samples": "task.eval_samples",
    "task.eval_max_samples": "task.eval_samples",
    "task.subset": "task.options.subset",
    "lora.r": "lora.probe_r",
    "lora.lora_alpha": "lora.alpha",
    "lora.lora_dropout": "lora.dropout",
    "compression.acc_tolerance": "policy.tolerance",
    "compression.variants_to_test": "compression.variants",
    "compression.seeds": "seeds",
    "policy.pass_rate_min": "policy.pass_rate",
    "runtime.keep_adapter_weights": "runtime.keep_adapters",
    "runtime.smoke_max_steps": "runtime.smoke.max_steps",
    "runtime.smoke_train_samples": "runtime.smoke.train_samples",
    "runtime.smoke_eval_samples": "runtime.smoke.eval_samples",
}
"""Key -> our name for it. Both in one file must say the same."""

PROTOCOL_SEEDS = (42, 123, 456)

VALUES: Mapping[str, Mapping[Any, str]] = {
    "model.dtype": {
        "bf16": "bfloat16",
        "fp16": "float16",
        "fp32": "float32",
        "torch.bfloat16": "bfloat16",
        "torch.float16": "float16",
        "torch.float32": "float32",
    },
    "task.profile": {"seqcls_glue": "glue", "gsm8k_causal_lm": "gsm8k"},
    "runtime.keep_adapters": {True: "all", False: "none"},
}
"""Our key -> other spellings of its values."""

DATASETS: Mapping[str, str] = {
    "glue": "glue",
    "nyu-mll/glue": "glue",
    "gsm8k": "gsm8k",
    "openai/gsm8k": "gsm8k",
}
"""`task.dataset` -> the profile that it stands for; another data set is an option of the task."""


_COUNTS = "every verdict rests on counts of correct answers"
_GREEDY = "decoding is greedy"
_ONCE = "an adapter is evaluated once, when its training is done"
_LAST = "what is audited and compared is the adapter after the last step"
_BASE = "used only for comparisons with the base weights, which Bench does not make"

NO_EFFECT: Mapping[str, str] = {
    "task.metric": _COUNTS,
    "task.probe_gate.metric": _COUNTS,
    "task.generation.do_sample": _GREEDY,
    "task.generation.temperature": _GREEDY,
    "task.generation.num_beams": _GREEDY,
    "train.fp16": "mixed precision is `train.bf16`",
    "train.load_best_model_at_end": _LAST,
    "train.group_by_length": "the order of the examples depends on the seed alone",
    "train.no_cuda": "set `runtime.device: cpu`",
    "model.use_cache": "answers are generated with the cache, and training never uses it",
    "audit.compute_udr": "Bench does not compare the update with the base weights, and no verdict needs it",
    "audit.base_model": _BASE,
    "audit.base_norms_cache": _BASE,
    "audit.enable_composition_analysis": "audit.json always has it, under `gain`",
    "train.eval_steps": _ONCE,
    "train.eval_strategy": _ONCE,
    "train.evaluation_strategy": _ONCE,
    "train.eval_accumulation_steps": _ONCE,
    "train.metric_for_best_model": _LAST,
    "train.greater_is_better": _LAST,
    "train.save_strategy": "checkpoints are written where `train.save_steps` says so",
    "train.save_total_limit": "only the newest checkpoint is kept, and none when the training is done",
    "train.save_safetensors": "adapters are always written as safetensors",
    "train.report_to": "nothing is sent anywhere; run.jsonl lies beside the adapter",
    "train.logging_dir": "run.jsonl lies beside the adapter",
    "train.logging_strategy": "`train.logging_steps` says when",
    "train.output_dir": "--output says where",
    "train.overwrite_output_dir": "a finished stage is never repeated; --output names a new folder",
    "runtime.keep_checkpoints": "checkpoints are only there to resume from, and removed when the training is done",
}
"""Key -> why it has no effect."""

_MEASURES, _OFF = ("accuracy", "eval_accuracy", "exact_match"), (False, None)

ALLOWED: Mapping[str, tuple[Any, ...]] = {
    "task.metric": _MEASURES,
    "task.probe_gate.metric": _MEASURES,
    "task.generation.do_sample": (False,),
    "task.generation.temperature": (0, 0.0, None),
    "task.generation.num_beams": (1,),
    "train.fp16": _OFF,
    "train.load_best_model_at_end": _OFF,
    "train.group_by_length": _OFF,
    "train.no_cuda": _OFF,
}
"""Key without effect -> the values that ask for what Bench does anyway; any other is refused."""

MOVED_CONTROL = "per_layer_shuffled"
"""What the predecessor lists among the variants, and we among the controls."""

RIVALS: Mapping[str, str] = {
    "max_steps": "epochs",
    "epochs": "max_steps",
    "warmup_steps": "warmup_ratio",
    "warmup_ratio": "warmup_steps",
    "seeds": "only_seed",
}
"""A setting that is overridden -> the setting that it takes the place of."""


def translated(
    values: Mapping[str, Any], where: str, *, is_file: bool = True
) -> tuple[Values, tuple[str, ...]]:
    """Rename the keys of `values` to ours; return them with notes on all that has no effect.

    where: the file or the override, for messages. Raises InputError for a file and UsageError for an override
    (config-value): for what is refused, and for two names of one setting that disagree.
    """
    ours, notes = merged({}, values), list[str]()
    try:
        for key, why in NO_EFFECT.items():
            notes += _without_effect(ours, key, why)
        notes += _dataset(ours) + _number_of_seeds(ours)
        for key, name in {**RENAMED, **{key: key for key in VALUES}}.items():
            value = _take(ours, key)
            if value is not MISSING:
                _put(ours, name, _respelled(key, value), key)
        notes += _seed(ours) + _control(ours)
    except ValueError as refusal:
        message, hint = (*refusal.args, "see docs/reference/configs.md")[:2]
        if is_file:
            raise InputError(f"{where}: {message}", code="config-value", hint=hint) from None
        raise UsageError(f"{where}: {message}", code="config-value", hint=hint) from None
    return ours, tuple(notes)


def merged(values: Mapping[str, Any], change: Mapping[str, Any]) -> Values:
    """Return `values` with `change` on top, section by section; of two settings that exclude each other, its own."""
    result = {
        key: merged(value, {}) if isinstance(value, Mapping) else value for key, value in values.items()
    }
    for key, value in change.items():
        if key in RIVALS:
            result.pop(RIVALS[key], None)
        below = result.get(key)
        nested = isinstance(value, Mapping)
        result[key] = merged(below if isinstance(below, Mapping) else {}, value) if nested else value
    return result


def _take(values: Values, key: str) -> Any:
    """Remove a dotted key, with the sections that are empty without it; return its value, or MISSING."""
    name, _, below = key.partition(".")
    if name not in values or (below and not isinstance(values[name], dict)):
        return MISSING
    if not below:
        return values.pop(name)
    value = _take(values[name], below)
    if value is not MISSING and not values[name]:
        del values[name]
    return value


def _put(values: Values, key: str, value: Any, written: str) -> None:
    """Set a dotted key, which the file calls `written`. Refuses to change a value that is there."""
    if _take(values, key) not in (MISSING, value):
        raise ValueError(f"`{written}` and `{key}` are two names of one setting, with different values")
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    values[name] = value


def _respelled(key: str, value: Any) -> Any:
    """The value of our key in our spelling."""
    return VALUES.get(key, {}).get(value, value) if isinstance(value, str | bool) else value


def _without_effect(values: Values, key: str, why: str) -> list[str]:
    value = _take(values, key)
    if value is MISSING:
        return []
    shown = f"{key}: {str(value).lower() if isinstance(value, bool) else str(value)[:80]}"
    if value not in ALLOWED.get(key, (value,)):
        raise ValueError(f"`{shown}` is refused: {why}")
    return [f"`{shown}` has no effect: {why}"]


def _dataset(values: Values) -> list[str]:
    """`task.dataset` is a profile, or an option of the profile that is given."""
    name = _take(values, "task.dataset")
    profile = DATASETS.get(name) if isinstance(name, str) else None
    if profile is not None:
        given = _take(values, "task.profile")
        if _respelled("task.profile", given) not in (MISSING, profile):
            raise ValueError(f"`task.dataset: {name}` belongs to the profile {profile}, not to {given}")
        _put(values, "task.profile", profile, "task.dataset")
    elif name is not MISSING:
        _put(values, "task.options.dataset", name, "task.dataset")
    return []


def _number_of_seeds(values: Values) -> list[str]:
    """`compression.seeds: 3` is a number of seeds: the first so many of the protocol's."""
    number = _take(values, "compression.seeds")
    if not isinstance(number, int):
        if number is not MISSING:
            _put(values, "seeds", number, "compression.seeds")
        return []
    written = f"`compression.seeds: {number}`"
    if isinstance(number, bool) or not 1 <= number <= len(PROTOCOL_SEEDS):
        raise ValueError(
            f"{written} does not say which seeds", "list them, such as `seeds: [42, 123, 456, 789]`"
        )
    if number == 1:
        return [f"{written} has no effect: it is the run's own seed"]
    seeds = list(PROTOCOL_SEEDS[:number])
    _put(values, "seeds", seeds, "compression.seeds")
    return [f"{written} is read as the seeds {', '.join(map(str, seeds))}"]


def _seed(values: Values) -> list[str]:
    """`seed: 42` is a list of one; beside `seeds` it may only repeat one of them."""
    seed, seeds = _take(values, "seed"), values.get("seeds", MISSING)
    if seed is not MISSING and seeds is MISSING:
        values["seeds"] = [seed]
    elif seed is not MISSING and not (isinstance(seeds, list) and seed in seeds):
        raise ValueError(f"`seed: {seed}` is not among `seeds`: give one of them")
    return []


def _control(values: Values) -> list[str]:
    """A control that stands among the variants."""
    section = values.get("compression")
    variants = section.get("variants") if isinstance(section, dict) else None
    if not isinstance(section, dict) or not isinstance(variants, list) or MOVED_CONTROL not in variants:
        return []
    section["variants"] = [name for name in variants if name != MOVED_CONTROL]
    controls = section.get("controls") or []
    if isinstance(controls, list):  # anything else is refused where the section is read
        section["controls"] = [*controls, MOVED_CONTROL]
    return [f"{MOVED_CONTROL} is a control: read as `compression.controls`"]
