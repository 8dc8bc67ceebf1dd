"""Rules of check: one function for each rule, and one line in `RULES`. Each rule has its source.

Server behavior: vLLM 0.32.0, by source and by run. What PEFT and transformers refuse with a message as soon as their
configs are made has no rule here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from gradience import learning_rate as usual
from gradience.adapters.keys import module_type
from gradience.check.dialects import PEFT, CheckedSettings, Dialect
from gradience.errors import is_integer
from gradience.ranks import VLLM_MAX_LORA_RANKS, max_lora_rank_step
from gradience.reports.base.report import Severity
from gradience.rules import NotApplicable, Rule, need, rule
from gradience.words import counted


@dataclass(frozen=True, slots=True)
class Context:
    """The settings that are checked, and what else the command line says of the training."""

    settings: CheckedSettings
    task: str | None = None
    dialect: Dialect = PEFT
    """Dialect of the training configuration; PEFT's if none was given."""

    @property
    def objective(self) -> str | None:
        """Training objective: the file's, or that of `--task rl` if the file names no other method."""
        written = self.settings.objective
        return "rl" if self.task == "rl" and written in (None, "sft") else written


@dataclass(frozen=True, slots=True)
class Problem:
    """Problem that one rule found in one setting."""

    field: str
    seen: str
    advised: str
    message: str
    reason: str
    severity: Severity | None = None
    """In place of the rule's."""


Problems = Iterator[Problem]


def need_supervised(context: Context) -> None:
    """Raise NotApplicable if the evidence, which is on supervised fine-tuning, says nothing."""
    if context.objective not in (None, "sft"):
        raise NotApplicable


# ---------------------------------------------------------------- what libraries refuse or silently ignore

PEFT_LORA = "peft 0.21.2, tuners/lora/config.py"
PEFT_RAISES = "PEFT raises ValueError"
TORCH_RAISES = "torch raises ValueError"


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
        message = "α scales the update by zero or less"
        yield Problem("alpha", f"{s.alpha:g}", "above 0", message, "the update is multiplied by α/r")


@rule("no-adapter", "warning", "peft 0.21.2, trl 1.16")
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
    f"{usual.THINKING_MACHINES}; {QLORA}, §4: all linear layers are needed to match full fine-tuning",
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
        adapted = "not set: PEFT's default, for nearly every architecture the query and value projections"
    else:
        attention = all(module_type(name) == "attn" for name in s.target_modules)
        adapted = ", ".join(s.target_modules) if attention else ""
    if adapted:
        yield Problem(
            "target_modules",
            adapted,
            "all-linear",
            "only attention is adapted",
            "in published comparisons at the same number of parameters, LoRA on the MLP or on all linear layers"
            " usually learns better than on attention only",
        )


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
    if context.dialect is PEFT or (s.learning_rate is None and s.batch_size is None and s.evaluation is None):
        raise NotApplicable  # no training configuration was given
    if context.objective == "rl":
        raise NotApplicable  # a reward is measured at every step
    if s.evaluation in (None, "no"):
        yield Problem(
            "evaluation",
            s.evaluation or "not set (default: no)",
            "eval_strategy: steps, on held-out data",
            "no evaluation during training",
            "without held-out data, learning and memorization look the same",
        )


# ---------------------------------------------------------------- how large: learning rate, scale, rank, batch

WILD = "163 adapter configurations in public repositories: α/r between 0.25 and 4 in all but 9"

FIXED_ALPHA = (8.0, 64.0)
"""α that LoRA Without Regret (32), TRL's guide to it (16, 32) and PEFT's default (8) keep at every rank."""


HOPELESS = 1000
"""Multiple of the usual learning rate from which it is an error."""


@rule("learning-rate", "warning", usual.THINKING_MACHINES)
def learning_rate(context: Context) -> Problems:
    """More than ten times away from where supervised LoRA usually trains.

    A low rate gives no finding if the file may be for DPO or GRPO, unless `--task` names the task.
    """
    need_supervised(context)
    s = context.settings
    rate, r, written_alpha = need(s.learning_rate), need(s.r), need(s.alpha)
    if rate <= 0 or r < 1 or written_alpha <= 0:
        raise NotApplicable  # for impossible-number to say
    if not usual.is_adam_like(s.optimizer):
        raise NotApplicable
    alpha = usual.effective_alpha(r, written_alpha, rslora=bool(s.use_rslora))
    reference = usual.reference_lr(None, alpha)
    ratio = rate / reference
    if 1 / usual.LR_TOLERANCE <= ratio <= usual.LR_TOLERANCE:
        return
    unsaid = context.objective is None and context.task is None
    if ratio < 1 and unsaid and context.dialect.name == "trl":
        raise NotApplicable  # `trl dpo --config` takes files in which nothing says DPO
    yield Problem(
        "learning_rate",
        f"{rate:g}",
        f"{reference:.1g}",
        f"{_times(ratio)} the usual learning rate for LoRA with α = {written_alpha:g}",
        "LoRA usually trains best at about ten times the learning rate of full fine-tuning (5e-5), at any rank. α"
        " multiplies the update, so the usual learning rate is 5e-4 at α = 32, and scales with 1/α",
        "error" if ratio >= HOPELESS else None,
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


@rule("large-batch", "info", usual.THINKING_MACHINES)
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
    no_adapter,
    task_type,
    serving_rank,
    serving_features,
    attention_only,
    learning_rate,
    scale,
    pattern_scale,
    large_batch,
    many_epochs,
    no_evaluation,
)
"""In the order of the report."""
