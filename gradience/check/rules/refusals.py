"""What libraries refuse or silently ignore. Errors here are certain to happen.

Read in peft 0.21.2 and transformers 5.24, and tested against them.
"""

from __future__ import annotations

from gradience.adapters.families import DEFAULT_TARGETS
from gradience.adapters.initialisations import INITIALISATIONS, initialisation_of
from gradience.check.context import Context, Problem, Problems
from gradience.rules import NotApplicable, need, rule

PEFT_LORA = "peft 0.21.2, tuners/lora/config.py"
TRANSFORMERS = "transformers 5.24, training_args.py"
PEFT_RAISES = "PEFT raises ValueError"
TORCH_RAISES = "torch raises ValueError"
TRAINER_RAISES = "TrainingArguments raises ValueError"

INSTEAD = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "warmup_ratio": "warmup_steps (below 1 it is a ratio)",
    "group_by_length": "train_sampling_strategy",
}
"""Argument that transformers 5 no longer takes -> the one that took its place."""


@rule("unreadable-value", "error", "the kinds of values of each library")
def unreadable(context: Context) -> Problems:
    """A value of the wrong kind."""
    for name, seen, wanted in context.settings.unreadable:
        reason = "the library that reads it will refuse it or take a default"
        yield Problem(name, seen, wanted, f"{name} is not {wanted}", reason)


@rule("impossible-number", "error", f"{PEFT_LORA}; torch")
def impossible_numbers(context: Context) -> Problems:
    """Numbers that cannot train."""
    s = context.settings
    if s.r is not None and s.r < 1:
        yield Problem("r", str(s.r), "a positive rank", "there is no rank below 1", PEFT_RAISES)
    if s.learning_rate is not None and s.learning_rate <= 0:
        seen = f"{s.learning_rate:g}"
        yield Problem("learning_rate", seen, "above 0", "nothing would be trained", "the step size is zero")
    if s.weight_decay is not None and s.weight_decay < 0:
        yield Problem("weight_decay", f"{s.weight_decay:g}", "0 or more", "weights would grow", TORCH_RAISES)
    if s.dropout is not None and not 0 <= s.dropout < 1:
        yield Problem("dropout", f"{s.dropout:g}", "at least 0, below 1", "not a probability", TORCH_RAISES)
    if s.alpha is not None and s.alpha <= 0:
        message = "the update is scaled by zero or less"
        yield Problem("alpha", f"{s.alpha:g}", "above 0", message, "s = α/r")


@rule("no-targets", "error", "peft 0.21.2, tuners/lora/model.py")
def no_targets(context: Context) -> Problems:
    """No module is named, and no default stands in for it."""
    s = context.settings
    if not s.adapter:
        raise NotApplicable
    if s.target_modules or s.target_parameters:
        return
    message = "no module is named, and none is taken by default"
    if s.target_modules is None:  # PEFT takes its default, where it has one
        model_type = need(context.base).model_type
        if model_type is None or model_type in DEFAULT_TARGETS:
            return
        message = f"PEFT has no default for model_type {model_type}"
    yield Problem("target_modules", "not set", "all-linear", message, PEFT_RAISES)


@rule("no-adapter", "warning", "trl 1.16, axolotl 0.19.0, llamafactory 0.9.5, unsloth 2026.10.9")
def no_adapter(context: Context) -> Problems:
    """No adapter is trained: the advice on LoRA is not for this configuration."""
    s = context.settings
    if not need(s.adapter):
        yield Problem(
            "adapter",
            f"peft_type {s.peft_type}" if s.peft_type else "LoRA is not switched on",
            f"{context.dialect.switch}, if LoRA is meant",
            "no LoRA adapter is trained",
            "LoRA settings then have no effect, and the rules on LoRA were not applied",
        )


@rule("layers-with-regex", "error", PEFT_LORA)
def layers_with_regex(context: Context) -> Problems:
    """layers_to_transform or layers_pattern beside a regular expression."""
    s = context.settings
    if not isinstance(need(s.target_modules), str):
        return
    for name in ("layers_to_transform", "layers_pattern"):
        if getattr(s, name):
            yield Problem(
                name,
                "set, and target_modules is one string",
                "put the layers into the expression, or list the modules",
                f"{name} cannot be used when target_modules is a string",
                PEFT_RAISES,
            )


@rule("pattern-without-layers", "error", PEFT_LORA)
def pattern_without_layers(context: Context) -> Problems:
    """layers_pattern without layers_to_transform."""
    s = context.settings
    if need(s.layers_pattern) and not s.layers_to_transform:
        yield Problem(
            "layers_pattern",
            "set, without layers_to_transform",
            "set layers_to_transform too",
            "layers_pattern alone does nothing",
            PEFT_RAISES,
        )


@rule("initialisation", "error", PEFT_LORA)
def initialisation(context: Context) -> Problems:
    """init_lora_weights that PEFT does not know, or that lacks what it needs."""
    s = context.settings
    init = need(s.init)
    if init.lower() == "loftq" and not s.loftq_config:
        yield Problem("init", init, "give a loftq_config", "LoftQ needs its configuration", PEFT_RAISES)
    elif initialisation_of(init) is None:
        reason = f"it knows {', '.join(INITIALISATIONS)}"
        yield Problem("init", init, "true", "PEFT knows no such initialisation", reason)


@rule("dora", "error", PEFT_LORA)
def dora(context: Context) -> Problems:
    """Combinations that DoRA does not have."""
    s = context.settings
    if need(s.use_dora) and s.lora_bias:
        yield Problem("lora_bias", "true, with DoRA", "false", "DoRA has no lora_bias", PEFT_RAISES)
    if s.use_dora and s.megatron:
        yield Problem("use_dora", "true, with megatron", "false", "DoRA has no megatron layers", PEFT_RAISES)


@rule("lora-bias", "error", PEFT_LORA)
def lora_bias(context: Context) -> Problems:
    """lora_bias with a special initialisation."""
    s = context.settings
    if need(s.lora_bias) and not s.use_dora and s.init not in (None, "true", "false"):
        message = "lora_bias needs a plain initialisation"
        yield Problem("lora_bias", f"true, with init {s.init}", "false", message, PEFT_RAISES)


@rule("removed-argument", "error", TRANSFORMERS)
def removed_arguments(context: Context) -> Problems:
    """Arguments that transformers 5 no longer takes."""
    for key in context.settings.removed:
        advised, message = INSTEAD.get(key, "remove it"), f"transformers 5 has no {key}"
        yield Problem(key, "set", advised, message, "TrainingArguments raises TypeError")


@rule("best-model", "error", TRANSFORMERS)
def best_model(context: Context) -> Problems:
    """load_best_model_at_end without matching evaluation and saving."""
    s = context.settings
    evaluation, saving = s.evaluation or "no", s.saving or "steps"
    if not need(s.load_best) or saving == "best":
        return
    if evaluation == "no" or evaluation != saving:
        yield Problem(
            "load_best",
            f"evaluation {evaluation}, saving {saving}",
            "the same strategy for both",
            "load_best_model_at_end needs evaluation and saving at the same time",
            TRAINER_RAISES,
        )
    elif evaluation == "steps" and s.eval_steps and s.save_steps and s.save_steps % s.eval_steps:
        yield Problem(
            "save_steps",
            f"{s.save_steps:g}, with eval_steps {s.eval_steps:g}",
            "a multiple of eval_steps",
            "a checkpoint would be saved without an evaluation",
            TRAINER_RAISES,
        )


@rule("task-type", "warning", "peft 0.21.2, peft_model.py")
def task_type(context: Context) -> Problems:
    """A new head on the model, for classification or as a reward model, that nobody will save."""
    s = context.settings
    if context.dialect.name == "trl" and context.objective == "reward":
        need(s.r)
        head = "reward"
    elif context.task == "classification" and context.dialect.name in ("peft", "trainer"):
        head = "classification"
    else:
        raise NotApplicable  # the other tools set it themselves, or train the language model's own head
    if s.task_type not in ("SEQ_CLS", "TOKEN_CLS") and not s.modules_to_save:
        yield Problem(
            "task_type",
            s.task_type or "not set",
            "SEQ_CLS",
            f"the {head} head is neither trained nor saved",
            "only for SEQ_CLS and TOKEN_CLS does PEFT add the new head to modules_to_save by itself",
        )
