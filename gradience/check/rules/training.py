"""What is trained, on what, and what is held out. Each rule with its source."""

from __future__ import annotations

from gradience.adapters.families import ADAPTED_BESIDE_ATTENTION, DEFAULT_TARGETS, module_type
from gradience.check.context import Context, Problem, Problems, need_supervised
from gradience.learning_rate import THINKING_MACHINES
from gradience.rules import NotApplicable, need, rule

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
        seen = _default_attention(context.base.model_type if context.base else None)
    else:
        attention = all(module_type(name) == "attn" for name in s.target_modules)
        seen = ", ".join(s.target_modules) if attention else ""
    if seen:
        yield Problem(
            "target_modules",
            seen,
            "all-linear",
            "only attention is adapted",
            "at the same number of parameters, LoRA on the MLP or on all linear layers learns better than on"
            " attention alone",
        )


def _default_attention(model_type: str | None) -> str:
    """What PEFT adapts by default, where that is attention alone; empty where it is more, or nothing."""
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
            "many passes over the data, and nothing is evaluated",
            "small data are memorized within a few epochs",
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
            "nothing is evaluated while it trains",
            "without held-out data nobody can tell what is learned from what is memorized",
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
            "capacity goes into predicting prompts",
            "the adapter learns tokens that it will never have to produce",
        )


@rule("precision", "info", "IEEE 754 binary16")
def precision(context: Context) -> Problems:
    """float16."""
    if need(context.settings.precision) == "fp16":
        yield Problem(
            "precision",
            "fp16",
            "bf16, where the GPU has it",
            "float16 overflows at 65,504",
            "gradients of float16 need loss scaling, and a NaN in them ends the run",
        )


@rule("quantised-base", "info", QLORA)
def quantised_base(context: Context) -> Problems:
    """QLoRA: what it means."""
    bits = need(context.settings.quantized_bits)
    if context.settings.adapter is False:
        raise NotApplicable
    if bits in (4, 8):
        yield Problem(
            "quantized_bits",
            str(bits),
            "evaluate on the base that will serve the adapter",
            f"{'QLoRA' if bits == 4 else 'LoRA on an 8-bit base'}: the adapter is trained on a quantised base",
            "part of the update repairs the rounding; on the unquantised base it is a different model",
        )
