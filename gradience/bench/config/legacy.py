"""Other names for our settings: those of the public predecessor's configs, of transformers 4, and of PEFT.

Every such key is in one of three tables: it is read under our name, or it has no effect and a note says why, or
it is refused because what it asks for is not what would happen. docs/bench_config.md shows the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

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


class Fixed(NamedTuple):
    """A key that may only say what Bench does anyway."""

    allowed: tuple[Any, ...]
    why: str


_COUNTS = "every verdict rests on counts of right answers"
_ONCE = "an adapter is evaluated once, when its training is done"
_LAST = "what is audited and compared is the adapter after the last step"
_OFF = (False, None)

FIXED: Mapping[str, Fixed] = {
    "task.metric": Fixed(("accuracy", "eval_accuracy", "exact_match"), _COUNTS),
    "task.probe_gate.metric": Fixed(("accuracy", "eval_accuracy", "exact_match"), _COUNTS),
    "task.generation.do_sample": Fixed((False,), "decoding is greedy"),
    "task.generation.temperature": Fixed((0, 0.0, None), "decoding is greedy"),
    "task.generation.num_beams": Fixed((1,), "decoding is greedy"),
    "train.fp16": Fixed(_OFF, "mixed precision is `train.bf16`"),
    "train.load_best_model_at_end": Fixed(_OFF, _LAST),
    "train.group_by_length": Fixed(_OFF, "the order of the examples depends on the seed alone"),
    "train.no_cuda": Fixed(_OFF, "say `runtime.device: cpu`"),
}
"""Key -> the values with which it has no effect; any other is refused."""

IGNORED: Mapping[str, str] = {
    "model.use_cache": "answers are generated with the cache, and training never uses it",
    "audit.compute_udr": "Bench does not compare the update with the base weights, and no verdict needs it",
    "audit.base_model": "used only for comparisons with the base weights, which Bench does not make",
    "audit.base_norms_cache": "used only for comparisons with the base weights, which Bench does not make",
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
    "train.overwrite_output_dir": "a finished stage is never made again; --output names a new folder",
    "runtime.keep_checkpoints": "checkpoints are only there to resume from, and removed when the training is done",
}
"""Key -> why it has no effect."""

MOVED_CONTROLS = ("per_layer_shuffled",)
"""What the predecessor lists among the variants, and we among the controls."""


def translated(
    values: Mapping[str, Any], where: str, *, is_file: bool = True
) -> tuple[Values, tuple[str, ...]]:
    """`values` under our names, and notes on all that has no effect.

    where: the file or the override, for messages. Raises InputError for a file and UsageError for an override
    (config-value): for what is refused, and for two names of one setting that disagree.
    """
    source = _Source(merged({}, values), where, is_file)
    for key, fixed in FIXED.items():
        _without_effect(source, key, fixed.why, fixed.allowed)
    for key, why in IGNORED.items():
        _without_effect(source, key, why)
    _dataset(source)
    _number_of_seeds(source)
    for key, ours in RENAMED.items():
        if source.holds(key):
            source.put(ours, source.take(key), key)
    for key, spellings in VALUES.items():
        if source.holds(key):
            found = source.take(key)
            source.put(key, spellings.get(found, found) if isinstance(found, str | bool) else found, key)
    _seed(source)
    _controls(source)
    return source.values, tuple(source.notes)


def merged(values: Mapping[str, Any], change: Mapping[str, Any]) -> Values:
    """`values` with `change` on top, section by section. One of two settings that exclude each other wins."""
    result = {
        key: merged(value, {}) if isinstance(value, Mapping) else value for key, value in values.items()
    }
    for key, value in change.items():
        for rival in RIVALS.get(key, ()):
            result.pop(rival, None)
        below = result.get(key)
        if isinstance(value, Mapping):
            result[key] = merged(below if isinstance(below, Mapping) else {}, value)
        else:
            result[key] = value
    return result


RIVALS: Mapping[str, tuple[str, ...]] = {
    "max_steps": ("epochs",),
    "epochs": ("max_steps",),
    "warmup_steps": ("warmup_ratio",),
    "warmup_ratio": ("warmup_steps",),
    "seeds": ("only_seed",),
}
"""A setting that is overridden -> the settings that it takes the place of."""


class _Source:
    """Values by dotted keys, and what has been said of them."""

    def __init__(self, values: Values, where: str, is_file: bool) -> None:
        self.values, self.where, self.is_file = values, where, is_file
        self.notes: list[str] = []

    def holds(self, key: str) -> bool:
        section, name = self._place(key)
        return section is not None and name in section

    def take(self, key: str) -> Any:
        """The value, which is gone then; and a section that is empty without it."""
        section, name = self._place(key)
        assert section is not None
        value = section.pop(name)
        parent = key.rpartition(".")[0]
        if parent and not section:
            self.take(parent)
        return value

    def put(self, key: str, value: Any, said: str) -> None:
        """Set `key`, which the source calls `said`."""
        if self.holds(key) and self.get(key) != value:
            self.refuse(f"`{said}` and `{key}` are two names of one setting, and say different things")
        names = key.split(".")
        section = self.values
        for name in names[:-1]:
            if not isinstance(section.get(name), dict):
                section[name] = {}
            section = section[name]
        section[names[-1]] = value

    def get(self, key: str) -> Any:
        """The value, None where there is none."""
        section, name = self._place(key)
        return section.get(name) if section else None

    def refuse(self, what: str, hint: str = "see docs/bench_config.md") -> NoReturn:
        message = f"{self.where}: {what}"
        if self.is_file:
            raise InputError(message, code="config-value", hint=hint)
        raise UsageError(message, code="config-value", hint=hint)

    def _place(self, key: str) -> tuple[Values | None, str]:
        *names, last = key.split(".")
        section: Any = self.values
        for name in names:
            section = section.get(name) if isinstance(section, dict) else None
        return section if isinstance(section, dict) else None, last


def _without_effect(source: _Source, key: str, why: str, allowed: tuple[Any, ...] | None = None) -> None:
    if not source.holds(key):
        return
    value = source.take(key)
    shown = f"{value}".lower() if isinstance(value, bool) else f"{value}"[:80]
    if allowed is not None and value not in allowed:
        source.refuse(f"`{key}: {shown}` is refused: {why}")
    source.notes.append(f"`{key}: {shown}` has no effect: {why}")


def _dataset(source: _Source) -> None:
    """`task.dataset` as a profile, or as an option of the profile that is given."""
    if not source.holds("task.dataset"):
        return
    name = source.take("task.dataset")
    profile = DATASETS.get(name) if isinstance(name, str) else None
    if profile is None:
        source.put("task.options.dataset", name, "task.dataset")
        return
    given = source.take("task.profile") if source.holds("task.profile") else profile
    if VALUES["task.profile"].get(given, given) != profile:
        source.refuse(f"`task.dataset: {name}` belongs to the profile {profile}, not to {given}")
    source.put("task.profile", profile, "task.dataset")


def _number_of_seeds(source: _Source) -> None:
    """`compression.seeds: 3` is a number of seeds: the first so many of the protocol's."""
    if not source.holds("compression.seeds"):
        return
    number = source.take("compression.seeds")
    if not isinstance(number, int):
        source.put("seeds", number, "compression.seeds")
        return
    if isinstance(number, bool) or not 1 <= number <= len(PROTOCOL_SEEDS):
        source.refuse(f"`compression.seeds: {number}`: which seeds?", "seeds: [42, 123, 456, 789]")
    if number == 1:
        source.notes.append("`compression.seeds: 1` has no effect: it is the run's own seed")
        return
    seeds = list(PROTOCOL_SEEDS[:number])
    source.put("seeds", seeds, "compression.seeds")
    source.notes.append(f"`compression.seeds: {number}` is read as the seeds {', '.join(map(str, seeds))}")


def _seed(source: _Source) -> None:
    """`seed: 42` is a list of one; beside `seeds` it may only repeat one of them."""
    if not source.holds("seed"):
        return
    seed = source.take("seed")
    if not source.holds("seeds"):
        source.put("seeds", [seed], "seed")
    elif not isinstance(seeds := source.get("seeds"), list) or seed not in seeds:
        source.refuse(f"`seed: {seed}` is not among `seeds`: give one of them")


def _controls(source: _Source) -> None:
    """Controls that stand among the variants."""
    variants = source.get("compression.variants")
    if not isinstance(variants, list):
        return
    moved = [name for name in MOVED_CONTROLS if name in variants]
    if moved:
        kept = [name for name in variants if name not in moved]
        controls = source.get("compression.controls") or []
        source.values["compression"] |= {"variants": kept, "controls": [*controls, *moved]}
        source.notes.append(f"{', '.join(moved)} is a control: read as `compression.controls`")
