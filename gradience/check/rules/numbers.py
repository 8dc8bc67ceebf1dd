"""How large: learning rate, scale, rank, batch. Each rule with its source."""

from __future__ import annotations

from collections.abc import Mapping

from gradience.check.context import Context, Problem, Problems, need_supervised
from gradience.learning_rate import (
    LR_TOLERANCE,
    THINKING_MACHINES,
    effective_alpha,
    is_adam_like,
    reference_lr,
)
from gradience.rules import NotApplicable, need, rule
from gradience.words import counted

RSLORA = "Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA (2023)"
WILD = "163 adapter configurations in public repositories: α/r between 0.25 and 4 in all but 9"
TRL_GUIDE = "TRL's guide to PEFT (July 2026): with LoRA 1e-5 for GRPO, 5e-6 for DPO"

RL_LR: Mapping[str | None, float] = {"rl": 1e-5, "preference": 5e-6}
RL_NAME: Mapping[str | None, str] = {"rl": "reinforcement learning", "preference": "preference optimisation"}
RL_LR_TOLERANCE = 50.0
"""Published recipes lie up to forty times apart: Axolotl's examples train DPO at 2e-4."""

FIXED_ALPHA = (8.0, 64.0)
"""α that LoRA Without Regret (32), TRL's guide to it (16, 32) and PEFT's default (8) keep at every rank."""


@rule("learning-rate", "warning", THINKING_MACHINES)
def learning_rate(context: Context) -> Problems:
    """More than ten times away from where supervised LoRA usually trains.

    A low one says nothing where the file may be for DPO or GRPO, unless `--task` says what it is for.
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
        f"{_times(ratio)} what is usual for LoRA with α = {written_alpha:g}",
        "the best learning rate of LoRA is about ten times that of full fine-tuning, and nearly independent of"
        " the rank while α stays the same"
        + ("" if width else "; without --base-config the width of the model is not known"),
    )


@rule("rl-learning-rate", "warning", TRL_GUIDE)
def rl_learning_rate(context: Context) -> Problems:
    """Far away from where reinforcement learning and preference optimisation with LoRA start."""
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
            f"{_times(rate / start)} where {RL_NAME[context.objective]} with LoRA starts",
            "these methods start at a twentieth or less of the learning rate of supervised fine-tuning, whose"
            " advice is not for them",
        )


def _times(ratio: float) -> str:
    return f"{ratio:.0f} times above" if ratio > 1 else f"{1 / ratio:.0f} times below"


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
            "the update is multiplied by it: an unusual scale acts like an unusual learning rate",
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
        f"use_rslora: true with α = {alpha:g}, which makes the scale {alpha / root:.2g}, and another look at the"
        " learning rate",
        "at this rank and α the update is scaled down a lot",
        "with α/r the gradients of the factors shrink as the rank grows, with α/√r they keep their size. It is"
        " another training, not another name for this one. LoRA Without Regret (2025) trained well at such"
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
            "modules with another rank get another scale",
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
            "LoRA keeps up with full fine-tuning while its parameters exceed what the data hold; a rule of thumb"
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
            "a policy gradient brings about one bit per episode: rank 1 was enough in the experiments cited",
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
            "the product B·A is optimised less well than a full matrix when batches grow; more rank does not help",
        )
