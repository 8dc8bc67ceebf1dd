"""The configuration files of each tool: the names of its keys, and what its files leave unsaid.

Key names were read in peft 0.21.2, transformers 5.24, trl 1.16, axolotl 0.19.0, llamafactory 0.9.5, unsloth 2026.10.9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from gradience.adapters.families import LINEAR
from gradience.check.settings import READERS, CheckedSettings, Reader, Unreadable, flag, names, negated
from gradience.config_errors import value_at
from gradience.errors import InputError
from gradience.telemetry.trainers import method_of

Values = Mapping[str, Any]

SIMILAR = 0.8
"""Similarity, by difflib, of a key to the argument that was meant: 0.86 for lora_drop and lora_dropout."""
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
    """Training objective, the method if it is known, and the key that says so (None: a default)."""

    objective: str
    algorithm: str | None = None
    key: str | None = None


class LoraSwitch(NamedTuple):
    """True if LoRA is trained (None: the file does not say), and the key that disables it."""

    on: bool | None = None
    key: str | None = None


def precision(values: Values) -> dict[str, Any]:
    """Return the precision of training, as most tools write it."""
    bf16, fp16 = (values.get(key) is True for key in ("bf16", "fp16"))
    return {
        "precision": "bf16" if bf16 else "fp16" if fp16 else None,
        "two_precisions": True if bf16 and fp16 else None,
    }


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
    more: Callable[[Values, Values], dict[str, Any]] = lambda values, read: precision(values)
    """(values of the file, settings that were read) -> settings that take more than one key to know."""
    aim: Callable[[Values], Aim | None] = lambda values: None
    """Training objective, if the file names it."""
    aim_on_command_line: bool = False
    """The command line names the method (`trl dpo`, `llamafactory-cli dpo`), so that the file need not."""
    removed: tuple[str, ...] = ()
    """Keys that the tool no longer takes."""
    hold_out: str | None = "eval_strategy: steps, on data that are held out"
    """Setting that requests an evaluation; None if no key can."""
    completions_only: str = "train on completions only"
    """Setting that leaves the prompt out of the loss."""


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
    return Aim(OF_ALGORITHM.get(name.lower(), otherwise), name.lower(), key)


def loaded_bits(values: Values) -> int | None:
    """Return the bits in which the base is loaded, as bitsandbytes' users write it."""
    return 4 if values.get("load_in_4bit") is True else 8 if values.get("load_in_8bit") is True else None


def targets_or_names(value: Any) -> tuple[str, ...] | str:
    """Read target modules if a plain string holds names between commas."""
    return "all-linear" if value in ("all", "all-linear") else names(value)


# ---------------------------------------------------------------- run.jsonl, PEFT, the Trainer


def _run_aim(values: Values) -> Aim | None:
    trainer = value_at(values, "trainer.class")
    method = method_of([trainer]) if isinstance(trainer, str) else "supervised"
    objective = {"reinforcement": "rl", "preference": "preference"}.get(method)
    return Aim(objective, key="trainer.class") if objective else None


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
        **same("batch_size epochs max_steps schedule max_grad_norm evaluation", "training."),
    },
    aim=_run_aim,
)
"""The configuration that GradienceCallback records at the start of a run.jsonl."""

PEFT_KEYS = {
    "base_model_name_or_path": "base_model",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "init_lora_weights": "init",
    "megatron_config": "megatron",
    **same("peft_type task_type r target_modules target_parameters use_rslora use_dora bias lora_bias"),
    **same("modules_to_save rank_pattern alpha_pattern layers_to_transform layers_pattern loftq_config"),
}
OTHER_PEFT_KEYS = (
    "auto_mapping", "peft_version", "revision", "inference_mode", "exclude_modules", "fan_in_fan_out", "megatron_core",
    "trainable_token_indices", "eva_config", "corda_config", "lora_ga_config", "velora_config",
    "alora_invocation_tokens", "use_qalora", "qalora_group_size", "monteclora_config", "layer_replication",
    "runtime_config", "use_bdlora", "arrow_config", "kasa_config", "ensure_weight_tying",
)  # fmt: skip
"""The other arguments of `LoraConfig`, which no rule reads."""
ADAPTER_SETTINGS = frozenset(PEFT_KEYS.values()) - {"base_model", "task_type", "peft_type"}
PEFT = Dialect(
    "peft",
    lambda values: (
        "peft_type" in values or ("r" in values and bool({"lora_alpha", "target_modules"} & values.keys()))
    ),
    PEFT_KEYS,
    switched("peft_type", lambda kind: str(kind or "LORA").upper() == "LORA"),
    more=lambda values, read: {},
    hold_out=None,
)

TRAINER_KEYS = {
    "optim": "optimizer",
    "lr_scheduler_type": "schedule",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulation",
    "num_train_epochs": "epochs",
    "eval_strategy": "evaluation",
    "save_strategy": "saving",
    "load_best_model_at_end": "load_best",
    **same("learning_rate weight_decay max_grad_norm max_steps eval_steps save_steps"),
}
REMOVED_IN_TRANSFORMERS_5 = (
    "evaluation_strategy",
    "no_cuda",
    "warmup_ratio",
    "overwrite_output_dir",
    "logging_dir",
    "save_safetensors",
    "group_by_length",
    "include_inputs_for_metrics",
)
"""Arguments that `TrainingArguments` of transformers 5 does not take any more (tested against 5.24)."""
TRAINER = Dialect(
    "trainer",
    lambda values: any(key in TRAINER_KEYS or key in REMOVED_IN_TRANSFORMERS_5 for key in values),
    TRAINER_KEYS,
    removed=REMOVED_IN_TRANSFORMERS_5,
)

# ---------------------------------------------------------------- TRL, and Unsloth's trainers, which take its arguments

TRL_KEYS: Mapping[str, str | tuple[str, Reader]] = {
    **TRAINER_KEYS,
    "model_name_or_path": "base_model",
    **{
        f"lora_{name}": name
        for name in ["r", "alpha", "dropout", "target_modules", "target_parameters", "modules_to_save"]
    },
    "lora_task_type": "task_type",
    **same("use_rslora use_dora"),
    "completion_only_loss": ("prompt_loss", negated),
    # One that is off leaves the question to the other key.
    "assistant_only_loss": ("prompt_loss", lambda value: False if flag(value) else None),
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

LOSSES: Mapping[str, tuple[str, ...]] = {
    "rl": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "preference": (
        "sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard",
        "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "kto", "apo_zero_unpaired", "simpo",
    ),
}  # fmt: skip

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
    losses = values.get("loss_type")
    first = losses[0] if isinstance(losses, list) and losses else losses
    for objective, algorithms in LOSSES.items():
        if isinstance(first, str) and first in algorithms:
            return Aim(objective, first, "loss_type")
    for objective, keys in {**AIM_KEYS, "sft": SFT_KEYS}.items():
        for key in keys:
            if key in values:  # null as well: a dump of the arguments has every key of its trainer
                return Aim(objective, None, key)
    return None


TRL = Dialect(
    "trl",
    _is_trl,
    TRL_KEYS,
    _trl_lora,
    "use_peft: true",
    {"r": 16, "alpha": 32.0, "dropout": 0.05, "task_type": "CAUSAL_LM"},
    lambda values, read: {**precision(values), "quantized_bits": loaded_bits(values)},
    _trl_aim,
    aim_on_command_line=True,
    removed=REMOVED_IN_TRANSFORMERS_5,
    completions_only="completion_only_loss: true, or assistant_only_loss: true for conversations",
)

# ---------------------------------------------------------------- Axolotl


def _axolotl_more(values: Values, read: Values) -> dict[str, Any]:
    held_out = values.get("val_set_size") or values.get("test_datasets")
    known = {"evaluation": "steps" if held_out else "no"}
    if values.get("lora_target_linear") is True:  # lora_target_modules beside it only adds to them
        known["target_modules"] = "all-linear"
    bits = 4 if values.get("adapter") == "qlora" else loaded_bits(values)
    return {**precision(values), **known, "quantized_bits": bits}


def _axolotl_aim(values: Values) -> Aim:
    if named := named_aim(values, "rl", otherwise="rl"):
        return named
    for key in ("reward_model", "process_reward_model"):
        if values.get(key) is True:
            return Aim("reward", None, key)
    key = "pretraining_dataset"
    return Aim("pretraining", None, key) if values.get(key) else Aim("sft")


AXOLOTL = Dialect(
    "axolotl",
    lambda values: any(key in values for key in ("adapter", "micro_batch_size", "lora_target_linear")),
    {
        **same("base_model learning_rate optimizer weight_decay max_grad_norm max_steps"),
        **same("r alpha dropout target_modules target_parameters", "lora_"),
        **same("modules_to_save rank_pattern alpha_pattern", "lora_"),
        **{
            f"peft_{name}": name
            for name in ["layers_to_transform", "layers_pattern", "use_dora", "use_rslora"]
        },
        "peft_init_lora_weights": "init",
        "lr_scheduler": "schedule",
        "micro_batch_size": "batch_size",
        "gradient_accumulation_steps": "accumulation",
        "num_epochs": "epochs",
        "train_on_inputs": "prompt_loss",
    },
    switched("adapter", lambda adapter: adapter in ("lora", "qlora")),
    "adapter: lora",
    {"target_modules": ()},
    _axolotl_more,
    _axolotl_aim,
    hold_out="val_set_size: 0.05",
    completions_only="train_on_inputs: false",
)

# ---------------------------------------------------------------- LLaMA-Factory, of both versions


def _is_llama_factory(values: Values) -> bool:
    keys = values.keys()
    return "finetuning_type" in keys or "lora_rank" in keys or {"stage", "template"} <= keys


def _llama_factory_more(values: Values, read: Values) -> dict[str, Any]:
    alpha = 2.0 * read["r"] if "alpha" not in read and read.get("r") is not None else None
    init = "pissa" if values.get("pissa_init") is True else None
    return {**precision(values), "init": init, "alpha": alpha}


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
        "quantization_bit": "quantized_bits",
        "train_on_prompt": "prompt_loss",
    },
    lambda values: LoraSwitch(values.get("finetuning_type", "lora") == "lora", "finetuning_type"),
    "finetuning_type: lora",
    {"r": 8, "target_modules": "all-linear"},
    _llama_factory_more,
    lambda values: named_aim(values, "stage", otherwise="sft") or Aim("sft"),
    hold_out="val_size: 0.05 and eval_strategy: steps",
    completions_only="train_on_prompt: false",
)
LLAMA_FACTORY_V1 = Dialect(
    "llama-factory-v1",  # USE_V1=1
    lambda values: "model" in values and ("peft_config" in values or "train_dataset" in values),
    {
        "model": "base_model",
        "peft_config.lora_alpha": "alpha",
        "peft_config.lora_dropout": "dropout",
        "peft_config.target_modules": ("target_modules", targets_or_names),
        **same("r modules_to_save use_rslora use_dora", "peft_config."),
        "quant_config.quantization_bit": "quantized_bits",
        "micro_batch_size": "batch_size",
        "num_train_epochs": "epochs",
        **same("learning_rate max_grad_norm max_steps"),
    },
    switched("peft_config.name", lambda name: bool(name == "lora")),
    "peft_config with name: lora",
    {"r": 8, "alpha": 16.0, "dropout": 0.05, "target_modules": "all-linear"},
    aim_on_command_line=True,
    hold_out=None,
)

# ---------------------------------------------------------------- Unsloth: its command line, and Unsloth Studio


def _unsloth_more(values: Values, read: Values) -> dict[str, Any]:
    loftq = value_at(values, "lora.use_loftq") is True
    # Unnamed, its trainer chooses; for vision, every linear layer.
    unnamed = value_at(values, "lora.target_modules") == ""
    return {
        "target_modules": "all-linear" if unnamed else None,
        "quantized_bits": 16 if value_at(values, "training.load_in_4bit") is False else None,
        "init": "loftq" if loftq else None,
        "loftq_config": True if loftq else None,
    }


def _unsloth_aim(values: Values) -> Aim:
    raw = value_at(values, "data.format_type") == "raw"
    return Aim("pretraining", None, "data.format_type") if raw else Aim("sft")


UNSLOTH = Dialect(
    "unsloth",
    lambda values: isinstance(values.get("training"), Mapping) and ("lora" in values or "data" in values),
    {
        "model": "base_model",
        **same("r alpha dropout", "lora.lora_"),
        "lora.target_modules": ("target_modules", targets_or_names),
        **same("use_rslora use_dora", "lora."),
        **same("learning_rate weight_decay batch_size max_steps", "training."),
        "training.gradient_accumulation_steps": "accumulation",
        "training.num_epochs": "epochs",
        # Unsloth Studio's files have these two; the command line's have not.
        "training.optim": "optimizer",
        "training.lr_scheduler_type": "schedule",
        "training.train_on_completions": ("prompt_loss", negated),
    },
    switched("training.training_type", lambda kind: str(kind or "lora").lower() == "lora"),
    "training_type: lora",
    {
        "r": 64,
        "alpha": 16.0,
        "target_modules": LINEAR,
        "learning_rate": 2e-4,
        "quantized_bits": 4,
        "prompt_loss": True,
    },
    _unsloth_more,
    _unsloth_aim,
    hold_out=None,
    completions_only="train_on_completions: true",
)

DIALECTS = (RUN, PEFT, UNSLOTH, LLAMA_FACTORY, LLAMA_FACTORY_V1, AXOLOTL, TRL, TRAINER)
"""In the order of asking: the first that recognizes a file has written it."""


def dialects_of(values: Values, path: Path) -> tuple[Dialect, ...]:
    """Return which tool's settings these are: PEFT's and the Trainer's may be in one file.

    Raises InputError (config-unknown).
    """
    dialect = _dialect_of(values, path)
    if dialect is PEFT and TRAINER.is_written_in(values):
        return PEFT, TRAINER
    return (dialect,)


def _dialect_of(values: Values, path: Path) -> Dialect:
    if "fine_tune_type" in values or "lora_parameters" in values:
        raise InputError(
            f"{path}: a configuration of MLX-LM",
            code="config-unknown",
            hint="give a config of PEFT, the Trainer, TRL, Axolotl, LLaMA-Factory or Unsloth",
        )
    for dialect in DIALECTS:
        if dialect.is_written_in(values):
            return dialect
    raise InputError(
        f"{path}: not a recognized configuration",
        code="config-unknown",
        hint="give PEFT's adapter_config.json, Trainer arguments, or YAML of TRL, Axolotl, LLaMA-Factory or Unsloth",
    )


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
            known = reader(value)
        except Unreadable as error:
            unreadable.append((name, repr(value)[:80], str(error)))
            read.setdefault(name, None)
        else:
            if known is None:
                continue
            read[name] = known
        where[name] = f"{path.name}: {key}"
    adapter, switch = dialect.lora(values)
    read = {**dialect.defaults, **read} if adapter else read
    read |= {name: value for name, value in dialect.more(values, read).items() if value is not None}
    if adapter is False:
        read = {name: value for name, value in read.items() if name not in ADAPTER_SETTINGS}
        where["adapter"] = f"{path.name}: {switch}" if switch else path.name
    aim = dialect.aim(values)
    if aim is not None:
        read |= {"objective": aim.objective, "algorithm": aim.algorithm}
        if aim.key:
            where["objective"] = f"{path.name}: {aim.key}"
    removed = tuple(key for key in dialect.removed if key in values)
    misspelled = tuple(_misspelled(values)) if dialect is PEFT and adapter else ()
    where |= {key: f"{path.name}: {key}" for key, _ in misspelled}
    return CheckedSettings(
        **read,
        adapter=adapter,
        removed=removed,
        misspelled=misspelled,
        unreadable=tuple(unreadable),
        where=where,
    )


def _misspelled(values: Values) -> Iterator[tuple[str, str]]:
    """Yield each key that `LoraConfig` does not have, with the similar one that it has."""
    if "peft_version" in values:  # written by PEFT, perhaps by a later version with more keys
        return
    arguments = (*PEFT_KEYS, *OTHER_PEFT_KEYS)
    for key in values:
        near = get_close_matches(key, arguments, n=1, cutoff=SIMILAR)
        if near and key not in arguments and near[0] not in values and key not in TRAINER_KEYS:
            yield key, near[0]
