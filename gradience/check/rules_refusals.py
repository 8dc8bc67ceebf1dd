"""Rules about what libraries and servers refuse or silently ignore. Errors here are certain to happen.

Read in peft 0.21.2 and transformers 5.24, and tested against them; vLLM 0.32.0 by source and by run.
"""

from __future__ import annotations

from gradience.check.peft_targets import DEFAULT_TARGETS
from gradience.check.rule import Context, NotApplicable, Problem, Rule, need
from gradience.ranks import VLLM_MAX_LORA_RANKS, max_lora_rank_step

PEFT_LORA = "peft 0.21.2, tuners/lora/config.py"
TRANSFORMERS = "transformers 5.24, training_args.py"
VLLM = "vLLM 0.32.0, config/lora.py and lora/peft_helper.py"
INITS = (
    "true", "false", "gaussian", "eva", "olora", "pissa", "corda", "loftq", "orthogonal", "lora_ga", "mica",
)  # fmt: skip


def unreadable(context: Context) -> list[Problem]:
    """A value of the wrong kind."""
    return [
        Problem(
            name,
            seen,
            wanted,
            f"{name} is not {wanted}",
            "the library that reads it will refuse it or take a default",
        )
        for name, seen, wanted in context.settings.unreadable
    ]


def impossible_numbers(context: Context) -> list[Problem]:
    """Numbers that cannot train."""
    s = context.settings
    found = []
    if s.r is not None and s.r < 1:
        found.append(
            Problem("r", str(s.r), "a positive rank", "there is no rank below 1", "PEFT raises ValueError")
        )
    if s.learning_rate is not None and s.learning_rate <= 0:
        found.append(
            Problem(
                "learning_rate",
                f"{s.learning_rate:g}",
                "above 0",
                "nothing would move",
                "the step has no size",
            )
        )
    if s.weight_decay is not None and s.weight_decay < 0:
        found.append(
            Problem(
                "weight_decay",
                f"{s.weight_decay:g}",
                "0 or more",
                "weights would grow",
                "torch raises ValueError",
            )
        )
    if s.dropout is not None and not 0 <= s.dropout < 1:
        found.append(
            Problem(
                "dropout",
                f"{s.dropout:g}",
                "at least 0, below 1",
                "not a probability",
                "torch raises ValueError",
            )
        )
    if s.alpha is not None and s.alpha <= 0:
        found.append(
            Problem("alpha", f"{s.alpha:g}", "above 0", "the update is scaled by zero or less", "s = α/r")
        )
    return found


def no_targets(context: Context) -> list[Problem]:
    """No module is named, and no default stands in for it."""
    s, base = context.settings, context.base
    if not s.adapter:
        raise NotApplicable
    if s.target_modules or s.target_parameters:
        return []
    if s.target_modules is None:  # PEFT takes its default, where it has one
        need(base)
        assert base is not None
        if base.model_type is None or base.model_type in DEFAULT_TARGETS:
            return []
        message = f"PEFT has no default for model_type {base.model_type}"
    else:
        message = "no module is named, and none is taken by default"
    return [Problem("target_modules", "not set", "all-linear", message, "PEFT raises ValueError")]


def no_adapter(context: Context) -> list[Problem]:
    """No adapter is trained: the advice on LoRA is not for this configuration."""
    s = context.settings
    need(s.adapter)
    if s.adapter:
        return []
    switch = {
        "trl": "use_peft: true",
        "axolotl": "adapter: lora",
        "llama-factory": "finetuning_type: lora",
        "llama-factory-v1": "peft_config with name: lora",
        "unsloth": "training_type: lora",
    }
    return [
        Problem(
            "adapter",
            f"peft_type {s.peft_type}" if s.peft_type else "LoRA is not switched on",
            switch.get(context.tool or "", "peft_type: LORA") + ", if LoRA is meant",
            "no LoRA adapter is trained",
            "what is written about LoRA has no effect then, and the rules on LoRA were not applied",
        )
    ]


def layers_with_regex(context: Context) -> list[Problem]:
    """layers_to_transform or layers_pattern beside a regular expression."""
    s = context.settings
    need(s.target_modules)
    if not isinstance(s.target_modules, str):
        return []
    return [
        Problem(
            name,
            "set, and target_modules is one string",
            "put the layers into the expression, or list the modules",
            f"{name} cannot be used when target_modules is a string",
            "PEFT raises ValueError",
        )
        for name, value in (
            ("layers_to_transform", s.layers_to_transform),
            ("layers_pattern", s.layers_pattern),
        )
        if value
    ]


def pattern_without_layers(context: Context) -> list[Problem]:
    """layers_pattern without layers_to_transform."""
    s = context.settings
    need(s.layers_pattern)
    if not s.layers_pattern or s.layers_to_transform:
        return []
    return [
        Problem(
            "layers_pattern",
            "set, without layers_to_transform",
            "say which layers as well",
            "layers_pattern alone does nothing",
            "PEFT raises ValueError",
        )
    ]


def initialisation(context: Context) -> list[Problem]:
    """init_lora_weights that PEFT does not know, or that lacks what it needs."""
    s = context.settings
    need(s.init)
    assert s.init is not None
    name = s.init.lower()
    if name == "loftq" and not s.loftq_config:
        return [
            Problem(
                "init",
                s.init,
                "give a loftq_config",
                "LoftQ needs its configuration",
                "PEFT raises ValueError",
            )
        ]
    if name in INITS or name.startswith("pissa_niter_"):
        return []
    return [
        Problem("init", s.init, "true", "PEFT knows no such initialisation", f"it knows {', '.join(INITS)}")
    ]


def dora(context: Context) -> list[Problem]:
    """Combinations that DoRA does not have."""
    s = context.settings
    need(s.use_dora)
    found = []
    if s.use_dora and s.lora_bias:
        found.append(
            Problem(
                "lora_bias", "true, with DoRA", "false", "DoRA has no lora_bias", "PEFT raises ValueError"
            )
        )
    if s.use_dora and s.megatron:
        found.append(
            Problem(
                "use_dora",
                "true, with megatron",
                "false",
                "DoRA has no megatron layers",
                "PEFT raises ValueError",
            )
        )
    return found


def lora_bias(context: Context) -> list[Problem]:
    """lora_bias with a special initialisation."""
    s = context.settings
    need(s.lora_bias)
    if not s.lora_bias or s.use_dora or s.init in (None, "true", "false"):
        return []
    return [
        Problem(
            "lora_bias",
            f"true, with init {s.init}",
            "false",
            "lora_bias needs a plain initialisation",
            "PEFT raises ValueError",
        )
    ]


def removed_arguments(context: Context) -> list[Problem]:
    """Arguments that transformers 5 no longer takes."""
    instead = {
        "evaluation_strategy": "eval_strategy",
        "no_cuda": "use_cpu",
        "warmup_ratio": "warmup_steps (below 1 it is a ratio)",
        "group_by_length": "train_sampling_strategy",
    }
    return [
        Problem(
            key,
            "set",
            instead.get(key, "leave it out"),
            f"transformers 5 has no {key}",
            "TrainingArguments raises TypeError",
        )
        for key in context.settings.removed
    ]


def best_model(context: Context) -> list[Problem]:
    """load_best_model_at_end without matching evaluation and saving."""
    s = context.settings
    need(s.load_best)
    if not s.load_best:
        return []
    evaluation, saving = s.evaluation or "no", s.saving or "steps"
    if saving == "best":
        return []
    if evaluation == "no" or evaluation != saving:
        return [
            Problem(
                "load_best",
                f"evaluation {evaluation}, saving {saving}",
                "the same strategy for both",
                "load_best_model_at_end needs evaluation and saving at the same time",
                "TrainingArguments raises ValueError",
            )
        ]
    if evaluation == "steps" and s.eval_steps and s.save_steps and s.save_steps % s.eval_steps:
        return [
            Problem(
                "save_steps",
                f"{s.save_steps:g}, with eval_steps {s.eval_steps:g}",
                "a multiple of eval_steps",
                "a checkpoint would be saved without an evaluation",
                "TrainingArguments raises ValueError",
            )
        ]
    return []


def task_type(context: Context) -> list[Problem]:
    """A new head on the model, for classification or as a reward model, that nobody will save."""
    s = context.settings
    if context.tool == "trl" and context.objective == "reward":
        need(s.r)
        head = "reward"
    elif context.task == "classification" and context.tool in (None, "trainer"):
        head = "classification"
    else:
        raise NotApplicable  # the other tools set it themselves, or train the language model's own head
    if s.task_type in ("SEQ_CLS", "TOKEN_CLS") or s.modules_to_save:
        return []
    return [
        Problem(
            "task_type",
            s.task_type or "not set",
            "SEQ_CLS",
            f"the {head} head is neither trained nor saved",
            "only for SEQ_CLS and TOKEN_CLS does PEFT add the new head to modules_to_save by itself",
        )
    ]


# ------------------------------------------------------------------ serving


def serving_rank(context: Context) -> list[Problem]:
    """The rank that a server will allocate."""
    s = context.settings
    need(s.r)
    assert s.r is not None
    if s.r < 1:
        raise NotApplicable
    ranks = [r for r in (s.rank_pattern or {}).values() if isinstance(r, int) and not isinstance(r, bool)]
    top = max([s.r, *ranks])
    step = max_lora_rank_step(top)
    if step == top:
        return []
    largest = VLLM_MAX_LORA_RANKS[-1]
    lower = max((rank for rank in VLLM_MAX_LORA_RANKS if rank < top), default=1)
    return [
        Problem(
            "r",
            str(top),
            f"{lower} or {step}" if step else f"{largest} or less",
            f"vLLM allocates max_lora_rank {step} for it" if step else f"vLLM serves ranks up to {largest}",
            "memory and time are paid for the next permitted rank: "
            + ", ".join(map(str, VLLM_MAX_LORA_RANKS)),
        )
    ]


def serving_features(context: Context) -> list[Problem]:
    """What vLLM does not serve."""
    s = context.settings
    reason = "the adapter would have to be merged into the base model to be served"
    found = []
    if s.use_dora:
        found.append(Problem("use_dora", "true", "false", "vLLM refuses DoRA adapters", reason))
    if s.modules_to_save and s.task_type not in ("SEQ_CLS", "TOKEN_CLS"):
        seen = ", ".join(s.modules_to_save)
        found.append(
            Problem("modules_to_save", seen, "none", "vLLM refuses adapters with whole modules", reason)
        )
    if s.bias not in (None, "none"):
        found.append(
            Problem("bias", str(s.bias), "none", "vLLM refuses adapters with trained biases", reason)
        )
    return found


REFUSAL_RULES = (
    Rule("unreadable-value", "error", "the kinds of values of each library", unreadable),
    Rule("impossible-number", "error", f"{PEFT_LORA}; torch", impossible_numbers),
    Rule("no-targets", "error", "peft 0.21.2, tuners/lora/model.py", no_targets),
    Rule(
        "no-adapter", "warning", "trl 1.16, axolotl 0.19.0, llamafactory 0.9.5, unsloth 2026.10.9", no_adapter
    ),
    Rule("layers-with-regex", "error", PEFT_LORA, layers_with_regex),
    Rule("pattern-without-layers", "error", PEFT_LORA, pattern_without_layers),
    Rule("initialisation", "error", PEFT_LORA, initialisation),
    Rule("dora", "error", PEFT_LORA, dora),
    Rule("lora-bias", "error", PEFT_LORA, lora_bias),
    Rule("removed-argument", "error", TRANSFORMERS, removed_arguments),
    Rule("best-model", "error", TRANSFORMERS, best_model),
    Rule("task-type", "warning", "peft 0.21.2, peft_model.py", task_type),
    Rule("serving-rank", "info", VLLM, serving_rank),
    Rule("serving-features", "warning", VLLM, serving_features),
)
