"""Rules of check: one function for each rule, and one line in `RULES`. Each rule has its source.

Settings that libraries refuse or silently ignore: read in the source of peft 0.21.2 and transformers 5.24, and tested
against them; errors are certain to happen. Server behavior: vLLM 0.32.0, by source and by run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gradience.adapters.config import INITIALIZATIONS, initialization_of
from gradience.adapters.families import ADAPTED_BESIDE_ATTENTION, DEFAULT_TARGETS, module_type
from gradience.arguments import is_integer
from gradience.check.dialects import PEFT, SUPERVISED, Dialect
from gradience.check.files import BaseShape
from gradience.check.settings import CheckedSettings
from gradience.learning_rate import (
    LR_TOLERANCE,
    THINKING_MACHINES,
    effective_alpha,
    is_adam_like,
    reference_lr,
)
from gradience.ranks import VLLM_MAX_LORA_RANKS, max_lora_rank_step
from gradience.rules import NotApplicable, Rule, need, rule
from gradience.words import counted


@dataclass(frozen=True, slots=True)
class Context:
    """The settings that are checked, and what else the command line says of the training."""

    settings: CheckedSettings
    task: str | None = None
    base: BaseShape | None = None
    completion_tokens: int | None = None
    dialect: Dialect = PEFT
    """Dialect of the training configuration; PEFT's if none was given."""

    @property
    def objective(self) -> str | None:
        """Training objective: the file's, or that of `--task rl` if the file names no other method."""
        written = self.settings.objective
        return "rl" if self.task == "rl" and written in (None, *SUPERVISED) else written


@dataclass(frozen=True, slots=True)
class Problem:
    """Problem that one rule found in one setting."""

    field: str
    value: str
    advised: str
    message: str
    reason: str


Problems = Iterator[Problem]


def need_supervised(context: Context) -> None:
    """Raise NotApplicable if the evidence, which is on supervised fine-tuning, says nothing."""
    if context.objective not in (None, *SUPERVISED):
        raise NotApplicable


# ---------------------------------------------------------------- what libraries refuse or silently ignore

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
    for name, value, wanted in context.settings.unreadable:
        reason = "the library that reads it will refuse it or take a default"
        yield Problem(name, value, wanted, f"{name} is not {wanted}", reason)


@rule("impossible-number", "error", f"{PEFT_LORA}; torch")
def impossible_numbers(context: Context) -> Problems:
    """Numbers that cannot train."""
    s = context.settings
    if s.r is not None and s.r < 1:
        yield Problem("r", str(s.r), "a positive rank", "the rank must be at least 1", PEFT_RAISES)
    if s.learning_rate is not None and s.learning_rate <= 0:
        value = f"{s.learning_rate:g}"
        yield Problem("learning_rate", value, "above 0", "nothing would be trained", "the step size is zero")
    if s.weight_decay is not None and s.weight_decay < 0:
        yield Problem("weight_decay", f"{s.weight_decay:g}", "0 or more", "weights would grow", TORCH_RAISES)
    if s.dropout is not None and not 0 <= s.dropout < 1:
        yield Problem("dropout", f"{s.dropout:g}", "at least 0, below 1", "not a probability", TORCH_RAISES)
    if s.alpha is not None and s.alpha <= 0:
        message = "the update is scaled by zero or less"
        yield Problem("alpha", f"{s.alpha:g}", "above 0", message, "s = α/r")


@rule("no-targets", "error", "peft 0.21.2, tuners/lora/model.py")
def no_targets(context: Context) -> Problems:
    """No module is named, and there is no default."""
    s = context.settings
    if not s.adapter:
        raise NotApplicable
    if s.target_modules or s.target_parameters:
        return
    message = "target_modules names no module"
    if s.target_modules is None:  # PEFT takes its default, if it has one
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
            f"peft_type {s.peft_type}" if s.peft_type else "LoRA is not enabled",
            f"{context.dialect.switch}, if you want LoRA",
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
            "layers_pattern does nothing without layers_to_transform",
            PEFT_RAISES,
        )


@rule("initialization", "error", PEFT_LORA)
def initialization(context: Context) -> Problems:
    """init_lora_weights that PEFT does not know, or that lacks what it needs."""
    s = context.settings
    init = need(s.init)
    if init.lower() == "loftq" and not s.loftq_config:
        yield Problem("init", init, "give a loftq_config", "LoftQ needs its configuration", PEFT_RAISES)
    elif initialization_of(init) is None:
        reason = f"one of {', '.join(INITIALIZATIONS)}"
        yield Problem("init", init, "true", "PEFT has no such initialization", reason)


@rule("dora", "error", PEFT_LORA)
def dora(context: Context) -> Problems:
    """Combinations that DoRA does not have."""
    s = context.settings
    if need(s.use_dora) and s.lora_bias:
        yield Problem("lora_bias", "true, with DoRA", "false", "DoRA does not support lora_bias", PEFT_RAISES)
    if s.use_dora and s.megatron:
        yield Problem(
            "use_dora", "true, with megatron", "false", "DoRA does not support Megatron layers", PEFT_RAISES
        )


@rule("lora-bias", "error", PEFT_LORA)
def lora_bias(context: Context) -> Problems:
    """lora_bias with a special initialization."""
    s = context.settings
    if need(s.lora_bias) and not s.use_dora and s.init not in (None, "true", "false"):
        message = "lora_bias needs a plain initialization"
        yield Problem("lora_bias", f"true, with init {s.init}", "false", message, PEFT_RAISES)


@rule("removed-argument", "error", TRANSFORMERS)
def removed_arguments(context: Context) -> Problems:
    """Arguments that transformers 5 no longer takes."""
    for key in context.settings.removed:
        advised, message = INSTEAD.get(key, "remove it"), f"transformers 5 has no {key}"
        yield Problem(key, "set", advised, message, "TrainingArguments raises TypeError")


@rule("misspelled-key", "error", PEFT_LORA)
def misspelled_keys(context: Context) -> Problems:
    """Keys that PEFT does not have, similar to one that it has."""
    for key, meant in context.settings.misspelled:
        reason = "LoraConfig raises TypeError; in an adapter_config.json, PEFT ignores the key"
        yield Problem(key, "set", meant, f"PEFT has no {key}", reason)


@rule("two-precisions", "error", TRANSFORMERS)
def two_precisions(context: Context) -> Problems:
    """bf16 and fp16 together."""
    if context.dialect.name not in ("trainer", "trl", "llama-factory"):
        raise NotApplicable
    if context.settings.two_precisions:
        message = "two precisions are on, and training has one"
        yield Problem("precision", "bf16 and fp16", "bf16 alone", message, TRAINER_RAISES)


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
    """A new head on the model, for classification or as a reward model, that is not saved."""
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


# ---------------------------------------------------------------- what servers make of the adapter

VLLM = "vLLM 0.32.0, config/lora.py and lora/peft_helper.py"


@rule("serving-rank", "info", VLLM)
def serving_rank(context: Context) -> Problems:
    """The rank that a server will allocate."""
    s = context.settings
    if need(s.r) < 1:
        raise NotApplicable
    ranks = [r for r in (s.rank_pattern or {}).values() if is_integer(r)]
    top = max([need(s.r), *ranks])
    step = max_lora_rank_step(top)
    if step == top:
        return
    largest = VLLM_MAX_LORA_RANKS[-1]
    lower = max((rank for rank in VLLM_MAX_LORA_RANKS if rank < top), default=1)
    yield Problem(
        "r",
        str(top),
        f"{lower} or {step}" if step else f"{largest} or less",
        f"vLLM serves this rank with max_lora_rank {step}" if step else f"vLLM serves ranks up to {largest}",
        "memory and speed are those of max_lora_rank, one of " + ", ".join(map(str, VLLM_MAX_LORA_RANKS)),
    )


@rule("serving-features", "warning", VLLM)
def serving_features(context: Context) -> Problems:
    """Features that vLLM does not serve."""
    s = context.settings
    whole = s.modules_to_save if s.task_type not in ("SEQ_CLS", "TOKEN_CLS") else ()
    reason = "the adapter would have to be merged into the base model to be served"
    if s.use_dora:
        yield Problem("use_dora", "true", "false", "vLLM refuses DoRA adapters", reason)
    if whole:
        message = "vLLM refuses adapters with full-weight modules (modules_to_save)"
        yield Problem("modules_to_save", ", ".join(whole), "none", message, reason)
    if s.bias not in (None, "none"):
        yield Problem("bias", str(s.bias), "none", "vLLM refuses adapters with trained biases", reason)


# ---------------------------------------------------------------- what is trained, on what, and what is held out

QLORA = "Dettmers et al., QLoRA (2023)"
OWN = "Gradience (docs/reference/check_rules.md)"


@rule(
    "attention-only",
    "warning",
    f"{THINKING_MACHINES}; {QLORA}, §4: all linear layers are needed to match full fine-tuning",
)
def attention_only(context: Context) -> Problems:
    """Only attention projections are adapted, by name or by PEFT's default."""
    need_supervised(context)
    s = context.settings
    if context.task == "classification" or isinstance(s.target_modules, str) or s.target_parameters:
        raise NotApplicable
    if s.target_modules is None:
        if not s.adapter:
            raise NotApplicable
        adapted = _default_attention(context.base.model_type if context.base else None)
    else:
        attention = all(module_type(name) == "attn" for name in s.target_modules)
        adapted = ", ".join(s.target_modules) if attention else ""
    if adapted:
        yield Problem(
            "target_modules",
            adapted,
            "all-linear",
            "only attention is adapted",
            "at the same number of parameters, LoRA on the MLP or on all linear layers learns better than on"
            " attention alone",
        )


def _default_attention(model_type: str | None) -> str:
    """Describe PEFT's default target modules if they are only attention; empty if they are more, or none."""
    if model_type is None:
        return "not set: PEFT's default, for nearly every architecture the query and value projections"
    targets = DEFAULT_TARGETS.get(model_type)
    if targets is None or model_type in ADAPTED_BESIDE_ATTENTION:
        return ""
    names = targets if isinstance(targets, str) else ", ".join(targets)
    return f"not set: PEFT's default for {model_type}, {names}"


@rule("many-epochs", "warning", "Prechelt, Early Stopping — But When? (1998)")
def many_epochs(context: Context) -> Problems:
    """Many passes over the data without an evaluation to stop them."""
    s = context.settings
    epochs = need(s.epochs)
    if context.objective == "rl":
        raise NotApplicable  # a prompt that comes again gets new answers
    if epochs > 5 and (s.max_steps or 0) <= 0 and s.evaluation in (None, "no"):
        yield Problem(
            "epochs",
            f"{epochs:g}",
            "1 to 3, or evaluate and stop early",
            "many passes over the data, without an evaluation",
            "a small data set is memorized within a few epochs",
        )


@rule("no-evaluation", "warning", OWN)
def no_evaluation(context: Context) -> Problems:
    """Nothing is held out."""
    s = context.settings
    hold_out = context.dialect.hold_out
    if hold_out is None or (s.learning_rate is None and s.batch_size is None and s.evaluation is None):
        raise NotApplicable  # no training configuration was given, or of a tool that never evaluates
    if context.objective == "rl":
        raise NotApplicable  # a reward is measured at every step
    if s.evaluation in (None, "no"):
        yield Problem(
            "evaluation",
            s.evaluation or "not set (default: no)",
            hold_out,
            "no evaluation during training",
            "without held-out data, learning and memorization look the same",
        )


@rule("prompt-loss", "info", OWN)
def prompt_loss(context: Context) -> Problems:
    """The prompt is trained as well."""
    trained = need(context.settings.prompt_loss)
    if context.objective not in (None, "sft"):
        raise NotApplicable  # text without prompts, or another loss
    if trained:
        yield Problem(
            "prompt_loss",
            "the prompt is part of the loss",
            context.dialect.completions_only,
            "the adapter spends capacity on predicting prompts",
            "the adapter learns tokens that it will never have to produce",
        )


@rule("precision", "info", "IEEE 754 binary16")
def precision(context: Context) -> Problems:
    """float16."""
    if need(context.settings.precision) == "fp16":
        yield Problem(
            "precision",
            "fp16",
            "bf16, if the GPU supports it",
            "float16 overflows at 65,504",
            "float16 gradients need loss scaling, and a NaN in them ends the run",
        )


@rule("quantized-base", "info", QLORA)
def quantized_base(context: Context) -> Problems:
    """QLoRA: what it means."""
    bits = need(context.settings.quantized_bits)
    if context.settings.adapter is False:
        raise NotApplicable
    if bits in (4, 8):
        yield Problem(
            "quantized_bits",
            str(bits),
            "evaluate on the base that will serve the adapter",
            f"{'QLoRA' if bits == 4 else 'LoRA on an 8-bit base'}: the adapter is trained on a quantized base",
            "part of the update compensates for rounding; on the unquantized base it is a different model",
        )


# ---------------------------------------------------------------- how large: learning rate, scale, rank, batch

RSLORA = "Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA (2023)"
WILD = "163 adapter configurations in public repositories: α/r between 0.25 and 4 in all but 9"
TRL_GUIDE = "TRL's guide to PEFT (July 2026): with LoRA 1e-5 for GRPO, 5e-6 for DPO"

RL_LR: Mapping[str | None, float] = {"rl": 1e-5, "preference": 5e-6}
RL_NAME: Mapping[str | None, str] = {"rl": "reinforcement learning", "preference": "preference optimization"}
RL_LR_TOLERANCE = 50.0
"""Published recipes lie up to forty times apart: Axolotl's examples train DPO at 2e-4."""

FIXED_ALPHA = (8.0, 64.0)
"""α that LoRA Without Regret (32), TRL's guide to it (16, 32) and PEFT's default (8) keep at every rank."""


@rule("learning-rate", "warning", THINKING_MACHINES)
def learning_rate(context: Context) -> Problems:
    """More than ten times away from where supervised LoRA usually trains.

    A low rate gives no finding if the file may be for DPO or GRPO, unless `--task` names the task.
    """
    need_supervised(context)
    s = context.settings
    rate, r, written_alpha = need(s.learning_rate), need(s.r), need(s.alpha)
    if rate <= 0 or r < 1 or written_alpha <= 0:
        raise NotApplicable  # for impossible-number to say
    if not is_adam_like(s.optimizer):
        raise NotApplicable
    alpha = effective_alpha(r, written_alpha, rslora=bool(s.use_rslora))
    width = context.base.hidden_size if context.base else None
    reference = reference_lr(width, alpha, s.base_model)
    ratio = rate / reference
    if 1 / LR_TOLERANCE <= ratio <= LR_TOLERANCE:
        return
    unsaid = context.objective is None and context.task is None
    if ratio < 1 and unsaid and context.dialect.aim_on_command_line:
        raise NotApplicable
    yield Problem(
        "learning_rate",
        f"{rate:g}",
        f"{reference:.1g}",
        f"{_times(ratio)} the usual learning rate for LoRA with α = {written_alpha:g}",
        "the best learning rate of LoRA is about ten times that of full fine-tuning, and nearly independent of"
        " the rank if α stays the same"
        + ("" if width else "; without --base-config the width of the model is not known"),
    )


@rule("rl-learning-rate", "warning", TRL_GUIDE)
def rl_learning_rate(context: Context) -> Problems:
    """Far away from where reinforcement learning and preference optimization with LoRA start."""
    s = context.settings
    rate, _ = need(s.learning_rate), need(s.r)
    if context.objective not in RL_LR or rate <= 0 or not is_adam_like(s.optimizer):
        raise NotApplicable
    start = RL_LR[context.objective]
    if not 1 / RL_LR_TOLERANCE <= rate / start <= RL_LR_TOLERANCE:
        yield Problem(
            "learning_rate",
            f"{rate:g}",
            f"about {start:g}",
            f"{_times(rate / start)} the rate at which {RL_NAME[context.objective]} with LoRA starts",
            "these methods start at a twentieth or less of the learning rate of supervised fine-tuning, whose"
            " advice is not for them",
        )


def _times(ratio: float) -> str:
    return f"{ratio:.0f} times" if ratio > 1 else f"1/{1 / ratio:.0f} of"


@rule("scale", "warning", WILD)
def scale(context: Context) -> Problems:
    """s = α/r (α/√r with rsLoRA) far outside of what people use."""
    s = context.settings
    scale = need(s.scale)
    fixed_alpha = not s.use_rslora and FIXED_ALPHA[0] <= need(s.alpha) <= FIXED_ALPHA[1]
    if not 0.25 <= scale <= 16 and scale > 0 and not fixed_alpha:
        yield Problem(
            "alpha",
            f"{'α/√r' if s.use_rslora else 'α/r'} = {scale:.3g}",
            "α near √r … 2·√r" if s.use_rslora else "α = r or 2·r, or α = 32 at every rank",
            f"the scale of the update is {scale:.3g}",
            "the scale multiplies the update, so an unusual scale acts like an unusual learning rate",
        )


@rule("rslora-at-high-rank", "info", f"{RSLORA}; {THINKING_MACHINES}")
def rslora_at_high_rank(context: Context) -> Problems:
    """A high rank under α/r, with an α that was not raised with it."""
    s = context.settings
    r, scale = need(s.r), need(s.scale)
    if context.objective == "rl":
        raise NotApplicable  # there, rank-for-rl speaks of such ranks
    if r < 128 or s.use_rslora or not 0 < scale < 0.25:
        return
    root = r**0.5
    alpha = min(need(s.alpha), float(round(root)))
    yield Problem(
        "use_rslora",
        f"r = {r} and α = {s.alpha:g}: scale α/r = {scale:.2g}",
        f"use_rslora: true with α = {alpha:g}, which makes the scale {alpha / root:.2g}; then retune the"
        " learning rate",
        "at this rank and α the update is scaled down a lot",
        "with α/r the gradients of the factors shrink as the rank grows, with α/√r they keep their size. It is"
        " a different training, not the same one renamed. LoRA Without Regret (2025) trained well at such"
        " ranks with α/r and α = 32: a learning rate that was tuned at this scale can stay as it is",
    )


@rule("pattern-scale", "warning", "peft 0.21.2, tuners/lora: scaling = lora_alpha / r per module")
def pattern_scale(context: Context) -> Problems:
    """rank_pattern without alpha_pattern changes the scale of exactly those modules."""
    s = context.settings
    if not s.rank_pattern or s.r is None:
        raise NotApplicable
    changed = [key for key, r in s.rank_pattern.items() if r != s.r and key not in (s.alpha_pattern or {})]
    if changed:
        yield Problem(
            "alpha_pattern",
            f"{counted(len(changed), 'key')} of rank_pattern without an α",
            "α·r′/r for each of them, in alpha_pattern",
            "modules with a different rank get a different scale",
            "PEFT divides α by the rank of each module; a module with half the rank is scaled twice as much",
        )


@rule("capacity", "warning", f"{THINKING_MACHINES}; tinker's LoRA primer")
def capacity(context: Context) -> Problems:
    """Fewer LoRA parameters than tokens to learn from."""
    need_supervised(context)
    tokens, base, r = need(context.completion_tokens), need(context.base), need(context.settings.r)
    params = need(base.lora_params(r, context.settings.target_modules))
    if params <= 0:
        raise NotApplicable  # for impossible-number and no-targets to say
    if params < tokens:
        yield Problem(
            "r",
            f"{params:,} LoRA parameters for {tokens:,} completion tokens",
            f"r = {-(-tokens * r // params)} or more",
            "the adapter may run out of capacity before the data are learned",
            "LoRA keeps up with full fine-tuning as long as its parameters exceed what the data hold; a rule of thumb"
            " counts one parameter per completion token",
        )


@rule("rank-for-rl", "info", THINKING_MACHINES)
def rank_for_rl(context: Context) -> Problems:
    """Reinforcement learning needs little rank."""
    r = need(context.settings.r)
    if context.objective != "rl":
        raise NotApplicable
    if r > 32:
        yield Problem(
            "r",
            str(r),
            "8 to 32",
            "more rank than reinforcement learning uses",
            "a policy gradient provides about one bit per episode: rank 1 was enough in the experiments cited",
        )


@rule("large-batch", "info", THINKING_MACHINES)
def large_batch(context: Context) -> Problems:
    """A very large batch."""
    need_supervised(context)
    batch = need(context.settings.effective_batch_size)
    if batch > 256:
        yield Problem(
            "effective_batch_size",
            str(batch),
            "32 to 128",
            "a large batch costs LoRA more than full fine-tuning",
            "the product B·A is optimized less well than a full matrix when batches grow; more rank does not help",
        )


RULES: tuple[Rule[Context, Problem], ...] = (
    unreadable,
    impossible_numbers,
    no_targets,
    no_adapter,
    layers_with_regex,
    pattern_without_layers,
    initialization,
    dora,
    lora_bias,
    removed_arguments,
    misspelled_keys,
    two_precisions,
    best_model,
    task_type,
    serving_rank,
    serving_features,
    attention_only,
    learning_rate,
    rl_learning_rate,
    scale,
    rslora_at_high_rank,
    pattern_scale,
    capacity,
    rank_for_rl,
    large_batch,
    many_epochs,
    no_evaluation,
    prompt_loss,
    precision,
    quantized_base,
)
"""In the order of the report."""
