"""What servers make of the adapter. vLLM 0.32.0, by source and by run."""

from __future__ import annotations

from gradience.arguments import is_integer
from gradience.check.context import Context, Problem, Problems
from gradience.ranks import VLLM_MAX_LORA_RANKS, max_lora_rank_step
from gradience.rules import NotApplicable, need, rule

VLLM = "vLLM 0.32.0, config/lora.py and lora/peft_helper.py"


@rule("serving-rank", "info", VLLM)
def rank(context: Context) -> Problems:
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
        f"vLLM allocates max_lora_rank {step} for it" if step else f"vLLM serves ranks up to {largest}",
        "memory and time are those of the next permitted rank: " + ", ".join(map(str, VLLM_MAX_LORA_RANKS)),
    )


@rule("serving-features", "warning", VLLM)
def features(context: Context) -> Problems:
    """What vLLM does not serve."""
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
