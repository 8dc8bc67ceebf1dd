"""What about an adapter matters to a runtime: one function per rule, from the source or the run that it names.

A rule returns why it applies, in words, or an empty text. The features that several runtimes trip over come first,
then what is peculiar to one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from gradience.ranks import VLLM_MAX_LORA_RANKS, max_lora_rank_step
from gradience.runtimes.written import Scale, Written, peft_scale

Rule = Callable[[Written], str]
SCALE_SLACK = 1e-9
"""Two scales this close (relatively) are the same: they came from divisions."""
VLLM_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Initialisations that leave the base model alone (vLLM 0.32, lora/peft_helper.py, `_init_is_supported`)."""


def wrong_scale(scale: Scale, adapter: Written) -> str:
    """Modules that get another scale than PEFT gives them."""
    wrong = [
        module
        for module in adapter.modules
        if not math.isclose(scale(adapter, module), peft_scale(adapter, module), rel_tol=SCALE_SLACK)
    ]
    if not wrong:
        return ""
    first = wrong[0]
    used, meant = scale(adapter, first), peft_scale(adapter, first)
    return f"{len(wrong)} of {len(adapter.modules)} modules; {first.name} gets {used:.4g}, not {meant:.4g}"


def unclear_patterns(adapter: Written) -> str:
    """A key that might apply to a module was not evaluated (see `adapters.patterns`)."""
    return "" if adapter.certain else "a key of rank_pattern or alpha_pattern could not be evaluated"


# ---------------------------------------------------------------- features


def _has(key: str, words: str, adapter: Written) -> str:
    return f"{words} ({key})" if adapter.config.get(key) else ""


def _of_kind(kind: str, words: str, adapter: Written) -> str:
    return words if any(module.kind == kind for module in adapter.modules) else ""


dora = partial(_has, "use_dora", "DoRA")
lora_bias = partial(_has, "lora_bias", "a bias of lora_B")
token_rows = partial(_has, "trainable_token_indices", "trained rows of an embedding")
saved_modules = partial(_has, "modules_to_save", "modules trained and saved whole")
alora = partial(_has, "alora_invocation_tokens", "activated LoRA")
replication = partial(_has, "layer_replication", "replicated layers")
block_diagonal = partial(_has, "use_bdlora", "block-diagonal LoRA")
qalora = partial(_has, "use_qalora", "QA-LoRA")
embedding = partial(_of_kind, "embedding", "LoRA on an embedding")
convolution = partial(_of_kind, "conv", "LoRA on a convolution")
experts = partial(_of_kind, "expert", "LoRA on stacked experts (target_parameters)")


def bias(adapter: Written) -> str:
    """Biases trained beside the factors."""
    value = adapter.config.get("bias") or "none"
    return f"trained biases (bias: {value})" if value != "none" else ""


def changed_base(adapter: Written) -> str:
    """Initialisations for which PEFT changes the base model's weights when it loads the adapter."""
    init = adapter.config.get("init_lora_weights", True)
    odd = isinstance(init, str) and init.lower() not in VLLM_INITS
    return f"the base model's weights would have to change (init_lora_weights: {init})" if odd else ""


VARIANTS: tuple[Rule, ...] = (changed_base, alora, replication, block_diagonal, qalora)
"""What makes the update, or the model under it, something else than s·B·A on the base model's own layers."""


def rank_mismatch(adapter: Written) -> str:
    """The config gives a module another rank than its tensors have."""
    for module in adapter.modules:
        declared = adapter.declared(module)
        if declared != module.rank:
            return f"{module.name} has rank {module.rank}, the config says {declared}"
    return ""


def not_r(adapter: Written) -> str:
    """Modules whose rank is not the r of the config."""
    other = sum(module.rank != adapter.r for module in adapter.modules)
    return (
        f"{other} of {len(adapter.modules)} modules have another rank than r = {adapter.r}" if other else ""
    )


# ---------------------------------------------------------------- PEFT's hotswap


def swapped_alpha(adapter: Written) -> str:
    """PEFT 0.21.2, utils/hotswap.py, `CONFIG_KEYS_TO_CHECK`."""
    used = bool(adapter.config.get("alpha_pattern"))
    return "an alpha_pattern, unless the adapter that it replaces has the same one" if used else ""


def swapped_settings(adapter: Written) -> str:
    """The same table: what else must agree."""
    return f"if the adapter that it replaces has use_rslora {adapter.rslora} and the same lora_dropout"


# ---------------------------------------------------------------- vLLM


def vllm_saved(adapter: Written) -> str:
    """vLLM 0.32 (lora/peft_helper.py) takes whole heads of classifiers only."""
    other = [name for name in adapter.names("modules_to_save") if name not in ("classifier", "score")]
    return f"modules trained and saved whole (modules_to_save: {', '.join(other)})" if other else ""


def vllm_rank(adapter: Written) -> str:
    """No permitted max_lora_rank is large enough."""
    top = VLLM_MAX_LORA_RANKS[-1]
    return (
        f"rank {adapter.largest} is above the largest max_lora_rank, {top}" if adapter.largest > top else ""
    )


def vllm_hidden_rank(adapter: Written) -> str:
    """Older vLLM compares only r with max_lora_rank, then copies the tensors into slots of that rank."""
    largest = max((module.rank for module in adapter.modules), default=0)
    return f"r = {adapter.r} hides ranks up to {largest}" if largest > adapter.r else ""


def vllm_step(adapter: Written) -> str:
    """What vLLM must be started with."""
    return f"with --max-lora-rank {max_lora_rank_step(adapter.largest)} or more"


# ---------------------------------------------------------------- SGLang


def sglang_targets(adapter: Written) -> str:
    """SGLang 0.5.23, srt/lora/utils.py, `get_normalized_target_modules`."""
    value = adapter.config.get("target_modules")
    odd = isinstance(value, str) and value not in ("all", "all-linear")
    return "target_modules is a regular expression" if odd else ""


def sglang_groups(adapter: Written) -> str:
    """SGLang 0.5.23 joins q, k, v and gate, up of a layer (srt/lora/lora.py): only k, or up, may be missing."""
    for layer, names in adapter.layers.items():
        attention = names & {"q_proj", "k_proj", "v_proj"}
        missing = {"q_proj", "v_proj"} - attention
        if attention and missing:
            return (
                f"layer {layer} has {' and '.join(sorted(attention))} without {' and '.join(sorted(missing))}"
            )
        if "up_proj" in names and "gate_proj" not in names:
            return f"layer {layer} has up_proj without gate_proj"
    return ""


# ---------------------------------------------------------------- LoRAX


def lorax_padded(rank: int) -> int:
    """LoRAX on one GPU (utils/punica.py, `pad_to_min_rank`): 8, or the next multiple of 16."""
    return 8 if rank <= 8 else -(-rank // 16) * 16


def lorax_stack(adapter: Written) -> str:
    """LoRAX stacks the padded factors of one type over all layers (adapters/lora.py)."""
    for name, modules in adapter.types.items():
        if len({lorax_padded(module.rank) for module in modules}) > 1:
            return f"the ranks of {name} differ between layers, after padding as well"
    return ""


def lorax_gaps(adapter: Written) -> str:
    """LoRAX drops a type of module in all layers when one layer has none of it (adapters/lora.py, `load`)."""
    count = 1 + max(adapter.layers, default=-1)
    short = [
        name for name, modules in adapter.types.items() if "*" in name.split(".") and len(modules) < count
    ]
    return f"{short[0]} is missing in some layer and would be dropped in all of them" if short else ""


def lorax_padding(adapter: Written) -> str:
    """LoRAX overwrites r with the padded rank after the first type of module, and α/r follows (adapters/lora.py)."""
    changed = [module.rank for module in adapter.modules if lorax_padded(module.rank) != adapter.r]
    if not changed or len(adapter.types) < 2:
        return ""
    return f"r = {adapter.r} becomes {lorax_padded(changed[0])} after the first type of module, and α/r changes with it"


# ---------------------------------------------------------------- TensorRT-LLM


def trt_saved(adapter: Written) -> str:
    """TensorRT-LLM (lora_manager.py, `iterate_hf_lora`): a key error for all but embedding and lm_head."""
    other = [name for name in adapter.names("modules_to_save") if name not in ("lm_head", "embed_tokens")]
    return f"modules trained and saved whole (modules_to_save: {', '.join(other)})" if other else ""


def trt_skipped(adapter: Written) -> str:
    """TensorRT-LLM skips tensors outside the layers (embedding, lm_head)."""
    outside = [name for name in adapter.types if "*" not in name.split(".")]
    return f"LoRA on {outside[0]}" if outside else ""


# ---------------------------------------------------------------- MLX-LM


def mlx_format(adapter: Written) -> str:
    """MLX-LM (tuner/utils.py, `load_adapters`) reads its own files; its format holds one rank and one scale."""
    scales = {round(peft_scale(adapter, module), 9) for module in adapter.modules}
    ranks = {module.rank for module in adapter.modules}
    if len(scales) == len(ranks) == 1:
        return "PEFT's format is not its own; converted, it could hold this adapter (one rank, one scale)"
    return "PEFT's format is not its own, and a conversion would need one rank and one scale for all modules"
