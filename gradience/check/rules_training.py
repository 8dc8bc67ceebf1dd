"""Rules about what trains well: where, how fast, how large. Each with its source."""

from __future__ import annotations

from collections.abc import Mapping

from gradience.adapters.keys import module_type
from gradience.check.objectives import MAY_NOT_TELL
from gradience.check.peft_targets import BESIDE_ATTENTION, DEFAULT_TARGETS
from gradience.check.rule import Context, NotApplicable, Problem, Rule, need, need_supervised
from gradience.learning_rate import LR_TOLERANCE, THINKING_MACHINES, effective_alpha, reference_lr

QLORA = "Dettmers et al., QLoRA (2023), §4: all linear layers are needed to match full fine-tuning"
RSLORA = "Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA (2023)"
WILD = "163 adapter configurations in public repositories: α/r between 0.25 and 4 in all but 9"
TRL_GUIDE = "TRL's guide to PEFT (July 2026): with LoRA 1e-5 for GRPO, 5e-6 for DPO"
ADAM_LIKE = ("adam", "lion", "ademamix")

RL_LR: Mapping[str | None, float] = {"rl": 1e-5, "preference": 5e-6}
RL_NAME: Mapping[str | None, str] = {"rl": "reinforcement learning", "preference": "preference optimisation"}
RL_LR_TOLERANCE = 50.0
"""Published recipes lie up to forty times apart: Axolotl's examples train DPO at 2e-4."""

FIXED_ALPHA = (8.0, 64.0)
"""α that LoRA Without Regret (32), TRL's guide to it (16, 32) and PEFT's default (8) keep at every rank."""

HOLD_OUT = {
    "axolotl": "val_set_size: 0.05",
    "llama-factory": "val_size: 0.05 and eval_strategy: steps",
}
NEVER_EVALUATE = ("unsloth", "llama-factory-v1")
"""Tools whose files cannot ask for an evaluation."""

COMPLETIONS_ONLY = {
    "trl": "completion_only_loss: true, or assistant_only_loss: true for conversations",
    "axolotl": "train_on_inputs: false",
    "llama-factory": "train_on_prompt: false",
    "unsloth": "train_on_completions: true",
}


def attention_only(context: Context) -> list[Problem]:
    """Only attention projections are adapted, by name or by PEFT's default."""
    need_supervised(context)
    s = context.settings
    if context.task == "classification" or isinstance(s.target_modules, str) or s.target_parameters:
        raise NotApplicable
    if s.target_modules is None:
        if not s.adapter:
            raise NotApplicable
        seen = _default_attention(context.base.model_type if context.base else None)
    elif s.target_modules and all(module_type(name) == "attn" for name in s.target_modules):
        seen = ", ".join(s.target_modules)
    else:
        seen = None
    if seen is None:
        return []
    return [
        Problem(
            "target_modules",
            seen,
            "all-linear",
            "only attention is adapted",
            "at the same number of parameters, LoRA on the MLP or on all linear layers learns better than on"
            " attention alone",
        )
    ]


def _default_attention(model_type: str | None) -> str | None:
    """What PEFT adapts by default, where that is attention alone; None where it is more, or nothing."""
    if model_type is None:
        return "not set: PEFT's default, for nearly every architecture the query and value projections"
    targets = DEFAULT_TARGETS.get(model_type)
    if targets is None or model_type in BESIDE_ATTENTION:
        return None
    names = targets if isinstance(targets, str) else ", ".join(targets)
    return f"not set: PEFT's default for {model_type}, {names}"


def learning_rate(context: Context) -> list[Problem]:
    """More than ten times away from where supervised LoRA usually trains.

    A low one says nothing where the file may be for DPO or GRPO, unless `--task` says what it is for.
    """
    need_supervised(context)
    s = context.settings
    need(s.learning_rate, s.r, s.alpha)
    assert s.learning_rate is not None
    assert s.r is not None
    assert s.alpha is not None
    if s.learning_rate <= 0 or s.r < 1 or s.alpha <= 0:
        raise NotApplicable  # another rule's business
    _need_adam_like(s.optimizer)
    alpha = effective_alpha(s.r, s.alpha, rslora=bool(s.use_rslora))
    width = context.base.hidden_size if context.base else None
    reference = reference_lr(width, alpha, s.base_model)
    ratio = s.learning_rate / reference
    if 1 / LR_TOLERANCE <= ratio <= LR_TOLERANCE:
        return []
    if ratio < 1 and context.objective is None and context.task is None and context.tool in MAY_NOT_TELL:
        raise NotApplicable
    side, by = ("above", ratio) if ratio > 1 else ("below", 1 / ratio)
    return [
        Problem(
            "learning_rate",
            f"{s.learning_rate:g}",
            f"{reference:.1g}",
            f"{by:.0f} times {side} what is usual for LoRA with α = {s.alpha:g}",
            "the best learning rate of LoRA is about ten times that of full fine-tuning, and nearly independent of"
            " the rank while α stays the same"
            + ("" if width else "; without --base-config the width of the model is not known"),
        )
    ]


def _need_adam_like(optimizer: str | None) -> None:
    """Raise NotApplicable for an optimizer whose steps are not of Adam's size."""
    if optimizer is not None and not any(name in optimizer.lower() for name in ADAM_LIKE):
        raise NotApplicable


def rl_learning_rate(context: Context) -> list[Problem]:
    """Far away from where reinforcement learning and preference optimisation with LoRA start."""
    s = context.settings
    need(s.learning_rate, s.r)
    assert s.learning_rate is not None
    if context.objective not in RL_LR or s.learning_rate <= 0:
        raise NotApplicable
    _need_adam_like(s.optimizer)
    start = RL_LR[context.objective]
    ratio = s.learning_rate / start
    if 1 / RL_LR_TOLERANCE <= ratio <= RL_LR_TOLERANCE:
        return []
    side, by = ("above", ratio) if ratio > 1 else ("below", 1 / ratio)
    return [
        Problem(
            "learning_rate",
            f"{s.learning_rate:g}",
            f"about {start:g}",
            f"{by:.0f} times {side} where {RL_NAME[context.objective]} with LoRA starts",
            "these methods start at a twentieth or less of the learning rate of supervised fine-tuning, whose"
            " advice is not for them",
        )
    ]


def scale(context: Context) -> list[Problem]:
    """s = α/r (α/√r with rsLoRA) far outside of what people use."""
    s = context.settings
    need(s.scale)
    assert s.scale is not None
    assert s.alpha is not None
    fixed_alpha = not s.use_rslora and FIXED_ALPHA[0] <= s.alpha <= FIXED_ALPHA[1]
    if 0.25 <= s.scale <= 16 or s.scale <= 0 or fixed_alpha:
        return []
    formula = "α/√r" if s.use_rslora else "α/r"
    return [
        Problem(
            "alpha",
            f"{formula} = {s.scale:.3g}",
            "α = r or 2·r, or α = 32 at every rank" if not s.use_rslora else "α near √r … 2·√r",
            f"the scale of the update is {s.scale:.3g}",
            "the update is multiplied by it: an unusual scale acts like an unusual learning rate",
        )
    ]


def rslora_at_high_rank(context: Context) -> list[Problem]:
    """A high rank under α/r, with an α that was not raised with it."""
    s = context.settings
    need(s.r, s.scale)
    assert s.r is not None
    assert s.alpha is not None
    assert s.scale is not None
    if context.objective == "rl":
        raise NotApplicable  # there, rank-for-rl speaks of such ranks
    if s.r < 128 or s.use_rslora or not 0 < s.scale < 0.25:
        return []
    root = s.r**0.5
    alpha = min(s.alpha, float(round(root)))
    return [
        Problem(
            "use_rslora",
            f"r = {s.r} and α = {s.alpha:g}: scale α/r = {s.scale:.2g}",
            f"use_rslora: true with α = {alpha:g}, which makes the scale {alpha / root:.2g}, and another look at the"
            " learning rate",
            "at this rank and α the update is scaled down a lot",
            "with α/r the gradients of the factors shrink as the rank grows, with α/√r they keep their size. It is"
            " another training, not another name for this one. LoRA Without Regret (2025) trained well at such"
            " ranks with α/r and α = 32: a learning rate that was tuned at this scale can stay as it is",
        )
    ]


def pattern_scale(context: Context) -> list[Problem]:
    """rank_pattern without alpha_pattern changes the scale of exactly those modules."""
    s = context.settings
    if not s.rank_pattern or s.r is None:
        raise NotApplicable
    changed = [key for key, r in s.rank_pattern.items() if r != s.r and key not in (s.alpha_pattern or {})]
    if not changed:
        return []
    return [
        Problem(
            "alpha_pattern",
            f"{len(changed)} keys of rank_pattern have no α of their own",
            "an alpha_pattern with α·r′/r for each of them",
            "modules with another rank get another scale",
            "PEFT divides α by the rank of each module; a module with half the rank is scaled twice as much",
        )
    ]


def capacity(context: Context) -> list[Problem]:
    """Fewer LoRA parameters than tokens to learn from."""
    need_supervised(context)
    s, base = context.settings, context.base
    need(context.completion_tokens, base, s.r)
    assert base is not None
    assert s.r is not None
    assert context.completion_tokens is not None
    params = base.lora_params(s.r, s.target_modules)
    need(params)
    assert params is not None
    if params >= context.completion_tokens:
        return []
    enough = -(-context.completion_tokens * s.r // params)
    return [
        Problem(
            "r",
            f"{params:,} LoRA parameters for {context.completion_tokens:,} completion tokens",
            f"r = {enough} or more",
            "the adapter may run out of capacity before the data are learnt",
            "LoRA keeps up with full fine-tuning while its parameters exceed what the data hold; a rule of thumb"
            " counts one parameter per completion token",
        )
    ]


def rank_for_rl(context: Context) -> list[Problem]:
    """Reinforcement learning needs little rank."""
    s = context.settings
    need(s.r)
    assert s.r is not None
    if context.objective != "rl":
        raise NotApplicable
    if s.r <= 32:
        return []
    return [
        Problem(
            "r",
            str(s.r),
            "8 to 32",
            "more rank than reinforcement learning uses",
            "a policy gradient brings about one bit per episode: rank 1 was enough in the experiments cited",
        )
    ]


def large_batch(context: Context) -> list[Problem]:
    """A very large batch."""
    need_supervised(context)
    batch = context.settings.effective_batch
    need(batch)
    assert batch is not None
    if batch <= 256:
        return []
    return [
        Problem(
            "effective_batch_size",
            str(batch),
            "32 to 128",
            "LoRA loses more from a large batch than full fine-tuning does",
            "the product B·A is optimised less well than a full matrix when batches grow; more rank does not help",
        )
    ]


def many_epochs(context: Context) -> list[Problem]:
    """Many passes over the data without an evaluation to stop them."""
    s = context.settings
    need(s.epochs)
    assert s.epochs is not None
    if context.objective == "rl":
        raise NotApplicable  # a prompt that comes again gets new answers
    if s.epochs <= 5 or (s.max_steps or 0) > 0 or s.evaluation not in (None, "no"):
        return []
    return [
        Problem(
            "epochs",
            f"{s.epochs:g}",
            "1 to 3, or evaluate and stop early",
            "many passes over the data, and nothing is evaluated",
            "small data are memorized within a few epochs",
        )
    ]


def no_evaluation(context: Context) -> list[Problem]:
    """Nothing is held out."""
    s = context.settings
    if context.tool is None or (s.learning_rate is None and s.batch_size is None and s.evaluation is None):
        raise NotApplicable  # no training configuration was given
    if context.objective == "rl" or context.tool in NEVER_EVALUATE:
        raise NotApplicable  # a reward is measured at every step
    if s.evaluation not in (None, "no"):
        return []
    return [
        Problem(
            "evaluation",
            s.evaluation or "not set (default: no)",
            HOLD_OUT.get(context.tool or "", "eval_strategy: steps, on data that are held out"),
            "nothing is evaluated while it trains",
            "without held-out data nobody can tell what is learned from what is memorized",
        )
    ]


def prompt_loss(context: Context) -> list[Problem]:
    """The prompt is trained as well."""
    need(context.settings.prompt_loss)
    if context.objective not in (None, "sft"):
        raise NotApplicable  # text without prompts, or another loss
    if not context.settings.prompt_loss:
        return []
    return [
        Problem(
            "prompt_loss",
            "the prompt is part of the loss",
            COMPLETIONS_ONLY.get(context.tool or "", "train on completions only"),
            "capacity goes into predicting prompts",
            "the adapter is asked to learn tokens that it will never have to produce",
        )
    ]


def precision(context: Context) -> list[Problem]:
    """float16."""
    need(context.settings.precision)
    if context.settings.precision != "fp16":
        return []
    return [
        Problem(
            "precision",
            "fp16",
            "bf16, where the GPU has it",
            "float16 overflows at 65,504",
            "gradients of float16 need loss scaling, and a NaN in them ends the run",
        )
    ]


def quantised_base(context: Context) -> list[Problem]:
    """QLoRA: what it means."""
    bits = context.settings.quantized_bits
    need(bits)
    if context.settings.adapter is False:
        raise NotApplicable
    if bits not in (4, 8):
        return []
    name = "QLoRA" if bits == 4 else "LoRA on an 8-bit base"
    return [
        Problem(
            "quantized_bits",
            str(bits),
            "evaluate on the base that will serve the adapter",
            f"{name}: the adapter is trained on a quantised base",
            "part of the update repairs the rounding; on the unquantised base it is a different model",
        )
    ]


TRAINING_RULES = (
    Rule("attention-only", "warning", f"{THINKING_MACHINES}; {QLORA}", attention_only),
    Rule("learning-rate", "warning", THINKING_MACHINES, learning_rate),
    Rule("rl-learning-rate", "warning", TRL_GUIDE, rl_learning_rate),
    Rule("scale", "warning", WILD, scale),
    Rule("rslora-at-high-rank", "info", f"{RSLORA}; {THINKING_MACHINES}", rslora_at_high_rank),
    Rule(
        "pattern-scale",
        "warning",
        "peft 0.21.2, tuners/lora: scaling = lora_alpha / r per module",
        pattern_scale,
    ),
    Rule("capacity", "warning", f"{THINKING_MACHINES}; tinker's LoRA primer", capacity),
    Rule("rank-for-rl", "info", THINKING_MACHINES, rank_for_rl),
    Rule("large-batch", "info", THINKING_MACHINES, large_batch),
    Rule("many-epochs", "warning", "Prechelt, Early Stopping — But When? (1998)", many_epochs),
    Rule("no-evaluation", "warning", "Gradience (docs/check.md)", no_evaluation),
    Rule("prompt-loss", "info", "Gradience (docs/check.md)", prompt_loss),
    Rule("precision", "info", "IEEE 754 binary16", precision),
    Rule("quantised-base", "info", QLORA.split(",")[0] + ", QLoRA (2023)", quantised_base),
)
