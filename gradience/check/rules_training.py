"""Rules about what trains well: where, how fast, how large. Each with its source."""

from __future__ import annotations

from gradience.adapters.keys import module_type
from gradience.check.rule import Context, NotApplicable, Problem, Rule, need
from gradience.practice import LR_TOLERANCE, THINKING_MACHINES, effective_alpha, reference_lr

QLORA = "Dettmers et al., QLoRA (2023), §4: all linear layers are needed to match full fine-tuning"
RSLORA = "Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA (2023)"
WILD = "163 adapter configurations in public repositories: α/r between 0.25 and 4 in all but 9"
ADAM_LIKE = ("adam", "lion", "ademamix")


def attention_only(context: Context) -> list[Problem]:
    """Only attention projections are adapted."""
    targets = context.settings.target_modules
    if not isinstance(targets, tuple) or context.task == "classification":
        raise NotApplicable
    if not targets or any(module_type(name) != "attn" for name in targets):
        return []
    return [
        Problem(
            "target_modules",
            ", ".join(targets),
            "all-linear",
            "only attention is adapted",
            "at the same number of parameters, LoRA on the MLP or on all linear layers learns better than on"
            " attention alone",
        )
    ]


def learning_rate(context: Context) -> list[Problem]:
    """More than ten times away from where LoRA usually trains."""
    s = context.settings
    need(s.learning_rate, s.r, s.alpha)
    assert s.learning_rate is not None
    assert s.r is not None
    assert s.alpha is not None
    if s.learning_rate <= 0 or s.r < 1 or s.alpha <= 0:
        raise NotApplicable  # another rule's business
    if s.optimizer is not None and not any(name in s.optimizer.lower() for name in ADAM_LIKE):
        raise NotApplicable
    alpha = effective_alpha(s.r, s.alpha, rslora=bool(s.use_rslora))
    width = context.base.hidden_size if context.base else None
    reference = reference_lr(width, alpha, s.base_model)
    ratio = s.learning_rate / reference
    if 1 / LR_TOLERANCE <= ratio <= LR_TOLERANCE:
        return []
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


def scale(context: Context) -> list[Problem]:
    """s = α/r (α/√r with rsLoRA) far outside of what people use."""
    s = context.settings
    need(s.scale)
    assert s.scale is not None
    if 0.25 <= s.scale <= 16 or s.scale <= 0:
        return []
    formula = "α/√r" if s.use_rslora else "α/r"
    return [
        Problem(
            "alpha",
            f"{formula} = {s.scale:.3g}",
            "α = r or 2·r" if not s.use_rslora else "α near √r … 2·√r",
            f"the scale of the update is {s.scale:.3g}",
            "the update is multiplied by it: an unusual scale acts like an unusual learning rate",
        )
    ]


def rslora_at_high_rank(context: Context) -> list[Problem]:
    """A high rank under α/r."""
    s = context.settings
    need(s.r)
    assert s.r is not None
    if s.r < 128 or s.use_rslora:
        return []
    return [
        Problem(
            "use_rslora",
            f"r = {s.r} with α/r",
            f"use_rslora: true with α = {max(1, round((s.scale or 1) * s.r**0.5))} (the same scale)",
            "at this rank α/r makes the gradients of the factors small",
            "with α/√r the size of the learning signal stays the same for every rank",
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
    s, base = context.settings, context.base
    need(context.completion_tokens, base, s.r)
    assert base is not None
    assert s.r is not None
    assert context.completion_tokens is not None
    params = base.lora_params(s.r, s.target_modules)
    need(params)
    assert params is not None
    if params >= context.completion_tokens or context.task == "rl":
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
    if context.task != "rl":
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
    if s.epochs <= 5 or (s.max_steps or 0) > 0 or s.evaluation not in (None, "no"):
        return []
    return [
        Problem(
            "epochs",
            f"{s.epochs:g}",
            "1 to 3, or evaluate and stop early",
            "many passes over the data, and nothing is evaluated",
            "small data are learnt by heart within a few epochs",
        )
    ]


def no_evaluation(context: Context) -> list[Problem]:
    """Nothing is held out."""
    s = context.settings
    if s.learning_rate is None and s.batch_size is None and s.evaluation is None:
        raise NotApplicable  # no training configuration was given
    if s.evaluation not in (None, "no"):
        return []
    return [
        Problem(
            "evaluation",
            s.evaluation or "not set (default: no)",
            "steps",
            "nothing is evaluated while it trains",
            "without an evaluation nobody can tell learning from memorising",
        )
    ]


def prompt_loss(context: Context) -> list[Problem]:
    """The prompt is trained as well."""
    if context.settings.prompt_loss is None:
        raise NotApplicable
    if not context.settings.prompt_loss:
        return []
    return [
        Problem(
            "prompt_loss",
            "the prompt is part of the loss",
            "train on completions only",
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
    if bits not in (4, 8):
        return []
    name = "QLoRA" if bits == 4 else "LoRA on an 8-bit base"
    return [
        Problem(
            "quantized_bits",
            str(bits),
            "evaluate on the base that will serve the adapter",
            f"{name}: the adapter is trained on a rounded base",
            "part of the update repairs the rounding; on the unrounded base it is a different model",
        )
    ]


TRAINING_RULES = (
    Rule("attention-only", "warning", f"{THINKING_MACHINES}; {QLORA}", attention_only),
    Rule("learning-rate", "warning", THINKING_MACHINES, learning_rate),
    Rule("scale", "warning", WILD, scale),
    Rule("rslora-at-high-rank", "info", RSLORA, rslora_at_high_rank),
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
