"""The configuration files of each tool: the names of its keys, and what its files leave unsaid.

Key names were read in peft 0.21.2, transformers 5.24, trl 1.16, axolotl 0.19.0, llamafactory 0.9.5.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gradience.check.settings import READERS, CheckedSettings, Reader, Unreadable, names
from gradience.config_errors import value_at
from gradience.errors import InputError
from gradience.telemetry.trainers import method_of

Values = Mapping[str, Any]

SUPERVISED = ("sft", "pretraining")
"""Objectives that the advice on supervised fine-tuning is for; it says nothing about reinforcement learning."""
OF_ALGORITHM = {
    "sft": "sft",
    "pt": "pretraining",
    **dict.fromkeys(("rm", "reward", "prm"), "reward"),
    **dict.fromkeys(("dpo", "ipo", "orpo", "kto", "simpo", "cpo", "bco"), "preference"),
    **dict.fromkeys(("grpo", "gdpo", "rloo", "ppo", "gspo", "ebft", "online_dpo"), "rl"),
}
"""Name of a method in a tool -> training objective."""


class Aim(NamedTuple):
    """Training objective, and the key that says so (None: a default)."""

    objective: str
    key: str | None = None


class LoraSwitch(NamedTuple):
    """True if LoRA is trained (None: the file does not say), and the key that disables it."""

    on: bool | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Dialect:
    """One tool."""

    name: str
    is_written_in: Callable[[Values], bool]
    keys: Mapping[str, str | tuple[str, Reader]]
    """Its key, dotted -> our setting; with a reader if the tool means other values than `READERS` takes."""
    lora: Callable[[Values], LoraSwitch] = lambda values: LoraSwitch()
    switch: str = "peft_type: LORA"
    """Setting that switches LoRA on."""
    defaults: Values = field(default_factory=dict)
    """Defaults of the tool for unset keys that a rule reads."""
    more: Callable[[Values, Values], dict[str, Any]] = lambda values, read: {}
    """(values of the file, settings that were read) -> settings that take more than one key to know."""
    aim: Callable[[Values], Aim | None] = lambda values: None
    """Training objective, if the file names it."""
    hold_out: str | None = "eval_strategy: steps, on data that are held out"
    """Setting that requests an evaluation; None if no key can."""


def same(settings: str, under: str = "") -> dict[str, str]:
    """Return keys that are called as our settings are, behind the prefix or section `under`."""
    return {under + name: name for name in settings.split()}


def switched(key: str, on: Callable[[Any], bool]) -> Callable[[Values], LoraSwitch]:
    """Return a reader of a key that always says whether LoRA is trained: by its value, None if it is not set."""
    return lambda values: LoraSwitch(on(value_at(values, key)), key)


def named_aim(values: Values, key: str, otherwise: str) -> Aim | None:
    """Return the method that a key names; one that we do not know counts as `otherwise`."""
    name = values.get(key)
    if not isinstance(name, str) or not name:
        return None
    return Aim(OF_ALGORITHM.get(name.lower(), otherwise), key)


def targets_or_names(value: Any) -> tuple[str, ...] | str:
    """Read target modules if a plain string holds names between commas."""
    return "all-linear" if value in ("all", "all-linear") else names(value)


# ---------------------------------------------------------------- run.jsonl, PEFT, the Trainer


def _run_aim(values: Values) -> Aim | None:
    trainer = value_at(values, "trainer.class")
    method = method_of([trainer]) if isinstance(trainer, str) else "supervised"
    objective = {"reinforcement": "rl", "preference": "preference"}.get(method)
    return Aim(objective, "trainer.class") if objective else None


RUN = Dialect(
    "run.jsonl",
    lambda values: {"lora", "optimizer", "training"} <= values.keys(),
    {
        "base.name": "base_model",
        "task_profile": "task_type",
        **same("r alpha target_modules dropout bias use_rslora use_dora", "lora."),
        **same("rank_pattern alpha_pattern modules_to_save", "lora."),
        "optimizer.name": "optimizer",
        "optimizer.lr": "learning_rate",
        "optimizer.weight_decay": "weight_decay",
        "training.gradient_accumulation": "accumulation",
        **same("batch_size epochs max_steps schedule evaluation", "training."),
    },
    aim=_run_aim,
)
"""The configuration that GradienceCallback records at the start of a run.jsonl."""

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
    switched("peft_type", lambda kind: str(kind or "LORA").upper() == "LORA"),
    hold_out=None,
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

# ---------------------------------------------------------------- TRL

TRL_KEYS: Mapping[str, str | tuple[str, Reader]] = {
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
        "num_ppo_epochs",  # PPO's, of earlier releases
        "reward_model_path",
    ),
    "distillation": ("teacher_model_name_or_path",),
    "reward": ("center_rewards_coefficient",),
    "preference": (
        "precompute_ref_log_probs",
        "ld_alpha",
        "f_divergence_type",
        "desirable_weight",
        "undesirable_weight",
        "cpo_alpha",
        "simpo_gamma",
        "beta",
    ),
}
"""Keys that give a trainer of TRL away, the telling ones first: its files do not name the trainer."""

SFT_KEYS = ("completion_only_loss", "assistant_only_loss", "dataset_text_field", "packing_strategy")


def _is_trl(values: Values) -> bool:
    """Return True if some key exists only in TRL, or this is the shortest file of its guide."""
    telling = (*SFT_KEYS, *LORA_KEYS, *(key for keys in AIM_KEYS.values() for key in keys))
    if any(key in telling for key in values):
        return True
    return {"model_name_or_path", "dataset_name"} <= values.keys() and not TRAINER.is_written_in(values)


def _trl_lora(values: Values) -> LoraSwitch:
    if values.get("use_peft") is True:
        return LoraSwitch(True)
    return LoraSwitch(False, "use_peft") if any(key in LORA_KEYS for key in values) else LoraSwitch()


def _trl_aim(values: Values) -> Aim | None:
    for objective, keys in {**AIM_KEYS, "sft": SFT_KEYS}.items():
        for key in keys:
            if key in values:  # null as well: a dump of the arguments has every key of its trainer
                return Aim(objective, key)
    return None


TRL = Dialect(
    "trl",
    _is_trl,
    TRL_KEYS,
    _trl_lora,
    "use_peft: true",
    {"r": 16, "alpha": 32.0, "dropout": 0.05, "task_type": "CAUSAL_LM"},
    aim=_trl_aim,
)

# ---------------------------------------------------------------- Axolotl


def _axolotl_more(values: Values, read: Values) -> dict[str, Any]:
    held_out = values.get("val_set_size") or values.get("test_datasets")
    known = {"evaluation": "steps" if held_out else "no"}
    if values.get("lora_target_linear") is True:  # lora_target_modules beside it only adds to them
        known["target_modules"] = "all-linear"
    return known


def _axolotl_aim(values: Values) -> Aim:
    if named := named_aim(values, "rl", otherwise="rl"):
        return named
    for key in ("reward_model", "process_reward_model"):
        if values.get(key) is True:
            return Aim("reward", key)
    key = "pretraining_dataset"
    return Aim("pretraining", key) if values.get(key) else Aim("sft")


AXOLOTL = Dialect(
    "axolotl",
    lambda values: any(key in values for key in ("adapter", "micro_batch_size", "lora_target_linear")),
    {
        **same("base_model learning_rate optimizer weight_decay max_steps"),
        **same("r alpha dropout target_modules target_parameters", "lora_"),
        **same("modules_to_save rank_pattern alpha_pattern", "lora_"),
        **{f"peft_{name}": name for name in ["use_dora", "use_rslora"]},
        "peft_init_lora_weights": "init",
        "lr_scheduler": "schedule",
        "micro_batch_size": "batch_size",
        "gradient_accumulation_steps": "accumulation",
        "num_epochs": "epochs",
    },
    switched("adapter", lambda adapter: adapter in ("lora", "qlora")),
    "adapter: lora",
    {"target_modules": ()},
    _axolotl_more,
    _axolotl_aim,
    hold_out="val_set_size: 0.05",
)

# ---------------------------------------------------------------- LLaMA-Factory


def _is_llama_factory(values: Values) -> bool:
    keys = values.keys()
    return "finetuning_type" in keys or "lora_rank" in keys or {"stage", "template"} <= keys


def _llama_factory_more(values: Values, read: Values) -> dict[str, Any]:
    alpha = 2.0 * read["r"] if "alpha" not in read and read.get("r") is not None else None
    init = "pissa" if values.get("pissa_init") is True else None
    return {"init": init, "alpha": alpha}


LLAMA_FACTORY = Dialect(
    "llama-factory",
    _is_llama_factory,
    {
        **TRAINER_KEYS,
        "model_name_or_path": "base_model",
        "lora_rank": "r",
        "lora_alpha": "alpha",
        "lora_dropout": "dropout",
        "lora_target": ("target_modules", targets_or_names),
        "additional_target": "modules_to_save",
        **same("use_rslora use_dora"),
    },
    lambda values: LoraSwitch(values.get("finetuning_type", "lora") == "lora", "finetuning_type"),
    "finetuning_type: lora",
    {"r": 8, "target_modules": "all-linear"},
    _llama_factory_more,
    lambda values: named_aim(values, "stage", otherwise="sft") or Aim("sft"),
    hold_out="val_size: 0.05 and eval_strategy: steps",
)
DIALECTS = (RUN, PEFT, LLAMA_FACTORY, AXOLOTL, TRL, TRAINER)
"""In the order of asking: the first that recognizes a file has written it."""


def dialects_of(values: Values, path: Path) -> tuple[Dialect, ...]:
    """Return which tool's settings these are: PEFT's and the Trainer's may be in one file.

    Raises InputError (config-unknown).
    """
    dialect = next((dialect for dialect in DIALECTS if dialect.is_written_in(values)), None)
    if dialect is None or "lora_parameters" in values:  # MLX-LM's, which has keys of the Trainer and of TRL
        raise InputError(
            f"{path}: not a recognized configuration",
            code="config-unknown",
            hint="give PEFT's adapter_config.json, Trainer arguments, or YAML of TRL, Axolotl or LLaMA-Factory",
        )
    return (PEFT, TRAINER) if dialect is PEFT and TRAINER.is_written_in(values) else (dialect,)


def read_settings(values: Values, dialect: Dialect, path: Path) -> CheckedSettings:
    """Return the settings of one file in our vocabulary; values of the wrong kind are kept as unreadable."""
    read: dict[str, Any] = {}
    where: dict[str, str] = {}
    unreadable: list[tuple[str, str, str]] = []
    for key, setting in dialect.keys.items():
        name, reader = setting if isinstance(setting, tuple) else (setting, READERS[setting])
        value = value_at(values, key)
        if value is None:
            continue
        try:
            read[name] = reader(value)
        except Unreadable as error:
            unreadable.append((name, repr(value)[:80], str(error)))
            read.setdefault(name, None)
        where[name] = f"{path.name}: {key}"
    adapter, switch = dialect.lora(values)
    read = {**dialect.defaults, **read} if adapter else read
    read |= {name: value for name, value in dialect.more(values, read).items() if value is not None}
    if adapter is False:
        read = {name: value for name, value in read.items() if name not in ADAPTER_SETTINGS}
        where["adapter"] = f"{path.name}: {switch}" if switch else path.name
    aim = dialect.aim(values)
    if aim is not None:
        read["objective"] = aim.objective
        if aim.key:
            where["objective"] = f"{path.name}: {aim.key}"
    return CheckedSettings(**read, adapter=adapter, unreadable=tuple(unreadable), where=where)
