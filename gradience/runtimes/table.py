"""The runtimes, each as rules: what it refuses, leaves out in silence, scales in its own way, and what is not known."""

from __future__ import annotations

from dataclasses import dataclass

from gradience.runtimes import rules
from gradience.runtimes.rules import Rule
from gradience.runtimes.written import (
    Scale,
    Written,
    config_scale,
    gguf_scale,
    peft_scale,
    plain_scale,
    tensor_scale,
)


def nothing(adapter: Written) -> str:
    """No advice."""
    return ""


@dataclass(frozen=True)
class Runtime:
    """One runtime of one version.

    refuses: it says no.   leaves_out: it loads, and a part has no effect.   misreads: it loads, with another scale
    than `scale` says.   not_known: neither run nor read closely enough.   advice: what to mind when it loads.
    record: where our runs are, empty where there are none.   ran: the features (see `verdict.FEATURES`) of adapters
    that were run.   ran_refusals: the rules of `refuses` that were seen at work.
    """

    name: str
    version: str
    scale: Scale
    refuses: tuple[Rule, ...] = ()
    leaves_out: tuple[Rule, ...] = ()
    misreads: tuple[Rule, ...] = ()
    not_known: tuple[Rule, ...] = ()
    advice: Rule = nothing
    record: str = ""
    ran: frozenset[str] = frozenset()
    ran_refusals: tuple[Rule, ...] = ()


RUNTIMES: tuple[Runtime, ...] = (
    Runtime(
        "PEFT",
        "0.21.2",
        peft_scale,
        refuses=(rules.rank_mismatch,),
        record="docs/runtimes.md#peft",
        ran=frozenset(
            {
                "DoRA",
                "lora_bias",
                "bias",
                "token rows",
                "modules_to_save",
                "embedding",
                "convolution",
                "experts",
            }
        ),
    ),
    Runtime(
        "PEFT hotswap",
        "0.21.2",
        config_scale,
        refuses=(rules.swapped_alpha,),
        not_known=(
            rules.dora,
            rules.saved_modules,
            rules.bias,
            rules.lora_bias,
            rules.token_rows,
            rules.embedding,
            rules.experts,
            *rules.VARIANTS,
        ),
        advice=rules.swapped_settings,
        record="docs/runtimes.md#peft",
        ran_refusals=(rules.swapped_alpha,),
    ),
    Runtime(
        "vLLM",
        "0.32.0",
        peft_scale,
        refuses=(
            rules.dora,
            rules.vllm_saved,
            rules.lora_bias,
            rules.bias,
            rules.token_rows,
            rules.vllm_rank,
            *rules.VARIANTS,
        ),
        not_known=(rules.experts, rules.convolution),
        advice=rules.vllm_step,
        record="docs/runtimes.md#vllm",
        ran=frozenset({"embedding"}),
        ran_refusals=(
            rules.dora,
            rules.vllm_saved,
            rules.lora_bias,
            rules.bias,
            rules.token_rows,
            rules.changed_base,
            rules.alora,
            rules.replication,
        ),
    ),
    Runtime(
        "vLLM",
        "before 0.31",
        config_scale,
        refuses=(rules.dora, rules.saved_modules, rules.bias, rules.vllm_rank, rules.vllm_hidden_rank),
        not_known=(rules.lora_bias, rules.token_rows, rules.experts, rules.convolution, *rules.VARIANTS),
        advice=rules.vllm_step,
    ),
    Runtime(
        "SGLang",
        "0.5.23",
        plain_scale,
        refuses=(rules.dora, rules.not_r, rules.sglang_targets, rules.sglang_groups),
        leaves_out=(rules.saved_modules, rules.token_rows),
        not_known=(rules.bias, rules.lora_bias, rules.experts, rules.convolution, *rules.VARIANTS),
    ),
    Runtime(
        "LoRAX",
        "a7394ba",
        config_scale,
        refuses=(rules.lorax_stack,),
        leaves_out=(
            rules.dora,
            rules.saved_modules,
            rules.bias,
            rules.lora_bias,
            rules.token_rows,
            rules.embedding,
            rules.lorax_gaps,
        ),
        misreads=(rules.lorax_padding,),
        not_known=(rules.experts, rules.convolution, *rules.VARIANTS),
    ),
    Runtime(
        "llama.cpp converter",
        "0c1e570",
        gguf_scale,
        refuses=(rules.dora, rules.saved_modules, rules.bias, rules.lora_bias, rules.token_rows),
        not_known=(rules.experts, rules.convolution, *rules.VARIANTS),
        record="docs/runtimes.md#llamacpp",
        ran=frozenset({"embedding"}),
        ran_refusals=(rules.dora, rules.saved_modules, rules.lora_bias, rules.token_rows),
    ),
    Runtime(
        "TensorRT-LLM",
        "007e181",
        tensor_scale,
        refuses=(rules.trt_saved, rules.bias, rules.lora_bias),
        leaves_out=(rules.trt_skipped, rules.token_rows),
        not_known=(rules.saved_modules, rules.experts, rules.convolution, *rules.VARIANTS),
    ),
    Runtime("MLX-LM", "d78bf58", peft_scale, refuses=(rules.mlx_format,)),
)
