"""Translate the configuration files of each tool into one vocabulary: keys, values and defaults.

Key names were read in peft 0.21.2, transformers 5.24, trl 1.16.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from gradience.errors import InputError, is_number
from gradience.files.strict_json import LARGEST, SMALLEST
from gradience.ranks import scale_of
from gradience.reports.check import SettingsRead

Values = Mapping[str, Any]


class CheckedSettings(SettingsRead):
    """Settings that a report shows, and those that only the rules need. None: not in the files."""

    dropout: float | None = None
    target_parameters: bool | None = None
    bias: str | None = None
    modules_to_save: tuple[str, ...] | None = None
    rank_pattern: Mapping[str, Any] | None = None
    alpha_pattern: Mapping[str, Any] | None = None
    weight_decay: float | None = None
    batch_size: int | None = None
    accumulation: int | None = None
    unreadable: tuple[tuple[str, str, str], ...] = ()
    """(setting, value as written, what it should be) for values of the wrong kind."""
    where: Mapping[str, str] = {}
    """File and key of each setting that was read."""

    def filled_from(self, other: Self) -> Self:
        """Return these settings, with those of `other` for the ones that are None."""
        known = {name: value for name, value in self if value is not None}
        both = {
            "unreadable": self.unreadable + other.unreadable,
            "where": {**other.where, **self.where},
        }
        return other.model_copy(update={**known, **both})

    def completed(self) -> Self:
        """Return these settings with what follows from them: the scale, and the rows of an optimizer step."""
        scale = rows = None
        if self.r and self.r >= 1 and self.alpha is not None:
            scale = scale_of(self.alpha, self.r, use_rslora=bool(self.use_rslora))
        if self.batch_size:
            rows = self.batch_size * (self.accumulation or 1)
        return self.model_copy(update={"scale": scale, "effective_batch_size": rows})


# ------------------------------------------------- values: each reader returns None for one of the wrong kind


def text(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float) else None


def integer(value: Any) -> int | None:
    """Read 16 and 16.0, not true, not "16"."""
    return int(value) if is_number(value) and abs(value) <= LARGEST and not value % 1 else None


def number(value: Any) -> float | None:
    """Read a number; the string "2e-4", which YAML 1.1 makes of 2e-4, is accepted."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    if is_number(value) and (not value or SMALLEST <= abs(value) <= LARGEST):
        return float(value)
    return None


def flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def names(value: Any) -> tuple[str, ...] | None:
    """Read a list of names, or names between commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    return None


def targets(value: Any) -> tuple[str, ...] | str | None:
    """Read a list of names, or one string: a regular expression or `all-linear`."""
    return value if isinstance(value, str) else names(value)


def pattern(value: Any) -> Mapping[str, Any] | None:
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else None


def init(value: Any) -> str | None:
    """Read `init_lora_weights`: a switch or a name."""
    return str(value).lower() if isinstance(value, bool) else text(value)


def strategy(value: Any) -> str | None:
    """Read `no`, `steps` or `epoch`; YAML 1.1 reads `no` as false."""
    return "no" if value is False else (text(value) or "").lower() or None


READERS: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    name: (reader, wanted)
    for reader, wanted, names in (
        (text, "a word", "base_model peft_type task_type bias optimizer schedule"),
        (integer, "a whole number", "r batch_size accumulation max_steps"),
        (number, "a usable number", "alpha dropout learning_rate weight_decay epochs"),
        (flag, "true or false", "use_rslora use_dora"),
        (bool, "", "target_parameters"),
        (names, "a list of names", "modules_to_save"),
        (targets, "a list of names", "target_modules"),
        (pattern, "a mapping of module patterns to numbers", "rank_pattern alpha_pattern"),
        (init, "a word", "init"),
        (strategy, "a word", "evaluation"),
    )
    for name in names.split()
}
"""Setting -> reader of its values, and what they should be."""


# ---------------------------------------------------------------- tools


class Said(NamedTuple):
    """A value (None: not in the file) and its key (None: the value is a default)."""

    value: Any = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Dialect:
    """A tool that writes configuration files."""

    name: str
    is_written_in: Callable[[Values], bool]
    keys: Mapping[str, str]
    """Key in the tool's files -> our setting."""
    lora: Callable[[Values], Said] = lambda values: Said()
    """True if LoRA is trained."""
    switch: str = "peft_type: LORA"
    """Setting that switches LoRA on."""
    defaults: Values = field(default_factory=dict)
    """Defaults of the tool for unset keys that a rule reads."""
    aim: Callable[[Values], Said] = lambda values: Said()
    """Training objective."""


def same(settings: str) -> dict[str, str]:
    """Return a mapping for keys with the same names as our settings."""
    return {name: name for name in settings.split()}


PEFT_KEYS = {
    "base_model_name_or_path": "base_model",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "init_lora_weights": "init",
    **same("peft_type task_type r target_modules target_parameters use_rslora use_dora bias"),
    **same("modules_to_save rank_pattern alpha_pattern"),
}
ADAPTER_SETTINGS = frozenset(PEFT_KEYS.values()) - {"base_model", "task_type", "peft_type"}
PEFT = Dialect(
    "peft",
    lambda values: (
        "peft_type" in values or ("r" in values and bool({"lora_alpha", "target_modules"} & values.keys()))
    ),
    PEFT_KEYS,
    lambda values: Said(str(values.get("peft_type") or "LORA").upper() == "LORA", "peft_type"),
)

TRAINER_KEYS = {
    "optim": "optimizer",
    "lr_scheduler_type": "schedule",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulation",
    "num_train_epochs": "epochs",
    "eval_strategy": "evaluation",
    **same("learning_rate weight_decay max_steps"),
}
TRAINER = Dialect("trainer", lambda values: any(key in TRAINER_KEYS for key in values), TRAINER_KEYS)

TRL_KEYS = {
    **TRAINER_KEYS,
    "model_name_or_path": "base_model",
    **{
        f"lora_{name}": name
        for name in ["r", "alpha", "dropout", "target_modules", "target_parameters", "modules_to_save"]
    },
    "lora_task_type": "task_type",
    **same("use_rslora use_dora"),
}
LORA_KEYS = ("use_peft", "use_rslora", "use_dora", *(key for key in TRL_KEYS if key.startswith("lora_")))

AIM_KEYS: Mapping[str, tuple[str, ...]] = {
    "rl": (
        "num_generations",
        "reward_funcs",
        "reward_weights",
        "reward_model_name_or_path",
        "num_iterations",
        "epsilon",
        "epsilon_high",
        "scale_rewards",
        "normalize_advantages",
        "steps_per_generation",
        "generation_batch_size",
        "mask_truncated_completions",
    ),
    "distillation": ("teacher_model_name_or_path",),
    "reward": ("center_rewards_coefficient",),
    "preference": (
        "precompute_ref_log_probs",
        "ld_alpha",
        "f_divergence_type",
        "desirable_weight",
        "undesirable_weight",
        "beta",
    ),
    "sft": ("completion_only_loss", "assistant_only_loss", "dataset_text_field", "packing_strategy"),
}
"""Objective -> keys that only its TRL trainers have, most specific first. TRL's files do not name the trainer."""


def _is_trl(values: Values) -> bool:
    """Return True if a key exists only in TRL, or if the file has the minimal keys of TRL's guide."""
    telling = (*LORA_KEYS, *(key for keys in AIM_KEYS.values() for key in keys))
    if any(key in telling for key in values):
        return True
    return {"model_name_or_path", "dataset_name"} <= values.keys() and not TRAINER.is_written_in(values)


def _trl_lora(values: Values) -> Said:
    if values.get("use_peft") is True:
        return Said(True)
    return Said(False, "use_peft") if any(key in LORA_KEYS for key in values) else Said()


def _trl_aim(values: Values) -> Said:
    """Return the training objective. Null keys count too, since dumped arguments contain every key of their trainer."""
    said = ((aim, key) for aim, keys in AIM_KEYS.items() for key in keys if key in values)
    return Said(*next(said, ()))


TRL = Dialect(
    "trl",
    _is_trl,
    TRL_KEYS,
    _trl_lora,
    "use_peft: true",
    {"r": 16, "alpha": 32.0, "dropout": 0.05, "task_type": "CAUSAL_LM"},
    _trl_aim,
)
DIALECTS = (PEFT, TRL, TRAINER)
"""Search order: the first dialect that recognizes a file is used."""


def dialects_of(values: Values, path: Path) -> tuple[Dialect, ...]:
    """Return the tools whose settings these are: one file may contain both PEFT's and the Trainer's.

    Raises InputError (config-unknown).
    """
    dialect = next((dialect for dialect in DIALECTS if dialect.is_written_in(values)), None)
    if dialect is None or "lora_parameters" in values:  # MLX-LM's, which has keys of the Trainer and of TRL
        raise InputError(
            f"{path}: not a recognized configuration",
            code="config-unknown",
            hint="give PEFT's adapter_config.json, or arguments of the Trainer or of TRL",
        )
    return (PEFT, TRAINER) if dialect is PEFT and TRAINER.is_written_in(values) else (dialect,)


def read_settings(values: Values, dialect: Dialect, path: Path) -> CheckedSettings:
    """Return the settings of one file in our vocabulary; values of the wrong kind are kept as unreadable."""
    read: dict[str, Any] = {}
    where: dict[str, str] = {}
    unreadable: list[tuple[str, str, str]] = []
    for key, name in dialect.keys.items():
        value = values.get(key)
        if value is None:
            continue
        reader, wanted = READERS[name]
        read[name] = reader(value)
        if read[name] is None:
            unreadable.append((name, repr(value)[:80], wanted))
        where[name] = f"{path.name}: {key}"
    adapter, aim = dialect.lora(values), dialect.aim(values)
    where |= {
        name: f"{path.name}: {said.key}"
        for name, said in (("adapter", adapter), ("objective", aim))
        if said.key
    }
    if adapter.value:
        read = {**dialect.defaults, **read}
    elif adapter.value is False:
        read = {name: value for name, value in read.items() if name not in ADAPTER_SETTINGS}
    return CheckedSettings(
        **read, adapter=adapter.value, objective=aim.value, unreadable=tuple(unreadable), where=where
    )
