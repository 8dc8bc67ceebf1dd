"""Every kind of module that LoRA can be on, as PEFT is asked for it, and what else its file then holds."""

from typing import Any

from peft import LoraConfig
from peft_cases import CASES
from peft_models import Convolutions, gpt2, gpt_oss, llama, mixtral, qwen_moe


def config(**options: Any) -> LoraConfig:
    return LoraConfig(**({"r": 4, "lora_alpha": 6} | options))


LINEAR, BESIDE = ["q_proj", "down_proj"], {"expert", "linear"}

# As compression tries them: name -> (case of `peft_cases`, kinds of its modules, what else is in the file).
SHARED: dict[str, tuple[str, set[str], dict[str, int]]] = {
    "llama": ("llama", {"linear"}, {}),
    "bert": ("bert-head", {"linear"}, {"full-weight module (modules_to_save)": 2}),
    "gpt2-conv1d": ("gpt2", {"linear"}, {}),
    "t5": ("t5", {"linear"}, {}),
    "embedding": ("embedding", {"embedding", "linear"}, {}),
    "experts-all-linear": ("experts-all-linear", BESIDE, {}),
    "experts-unswapped": ("experts-unswapped", BESIDE, {}),
    "rslora": ("rslora", {"linear"}, {}),
    "lora-bias": ("lora-bias", {"linear"}, {"bias of lora_B (lora_bias)": 4}),
    "modules-to-save": ("modules-to-save", {"linear"}, {"full-weight module (modules_to_save)": 3}),
    "token-rows": ("token-rows", {"linear"}, {"trained rows of an embedding (trainable_token_indices)": 1}),
    "layers-to-transform": ("some-layers", {"linear"}, {}),
    "replicated": ("replicated", {"linear"}, {}),
    "bias-lora-only": ("biases", {"linear"}, {"bias of the base layer": 4}),
}

# name -> (model, config, kind of its modules, what `coverage.other` holds: reason -> tensors)
KINDS: dict[str, tuple[Any, LoraConfig, set[str], dict[str, int]]] = {
    **{name: (CASES[case].make, CASES[case].config, *said) for name, (case, *said) in SHARED.items()},
    "convolutions": (Convolutions, config(target_modules=["three", "one", "line", "solid"]), {"conv"}, {}),
    "grouped": (Convolutions, config(target_modules=["grouped", "depthwise"], r=4), {"conv"}, {}),
    "wide": (Convolutions, config(target_modules=["three", "one", "solid"], r=32), {"conv"}, {}),
    "experts-one": (
        mixtral, config(target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj"]), BESIDE, {}
    ),
    "experts-two": (
        mixtral, config(target_modules=[], target_parameters=["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]),
        {"expert"}, {},
    ),
    "experts-bare-names": (
        qwen_moe, config(target_modules=[], target_parameters=["gate_up_proj", "down_proj"]), {"expert"}, {}
    ),
    "experts-bare-names-beside-modules": (
        mixtral, config(target_modules=["q_proj", "v_proj"], target_parameters=["gate_up_proj"]), BESIDE, {}
    ),
    "experts-bare-names-beside-an-expression": (
        mixtral, config(target_modules=r".*\.[qv]_proj", target_parameters=["down_proj", "gate_up_proj"]), BESIDE, {}
    ),
    "experts-and-router": (
        qwen_moe, config(target_modules=["gate_proj"], target_parameters=["experts.down_proj", "mlp.gate.weight"]),
        BESIDE, {},
    ),
    "experts-with-biases": (
        gpt_oss,
        config(target_modules=[], r=2, target_parameters=[
            "experts.gate_up_proj", "experts.gate_up_proj_bias", "experts.down_proj", "experts.down_proj_bias",
        ]),
        BESIDE, {},
    ),
    "experts-rank-pattern": (
        mixtral,
        config(
            target_modules=[], target_parameters=["experts.down_proj", "experts.gate_up_proj"],
            rank_pattern={"experts.down_proj": 2, r"layers\.1\.mlp\.experts\.gate_up_proj": 3},
            alpha_pattern={"gate_up_proj": 5},
        ),
        {"expert"}, {},
    ),
    "patterns": (
        lambda: llama(12),
        config(
            target_modules=["q_proj", "v_proj", "down_proj"], use_rslora=True,
            rank_pattern={
                r"layers\.1\.self_attn\.q_proj": 7, "v_proj": 2, r".*\.(5|11)\.mlp\..*": 3, "down_proj": 6,
            },
            alpha_pattern={r"^model\.layers\.11\.self_attn\.q_proj": 32, r"layers.1.*q_proj": 12, "v_proj": 1.5},
        ),
        {"linear"}, {},
    ),
    "dora": (llama, config(target_modules=LINEAR, use_dora=True), {"linear"}, {"DoRA magnitude": 4}),
    "dora-embedding": (
        gpt2, config(target_modules=["wte", "c_attn"], fan_in_fan_out=True, use_dora=True),
        {"linear", "embedding"}, {"DoRA magnitude": 3},
    ),
    "dora-convolutions": (
        Convolutions, config(target_modules=["three", "line", "solid"], use_dora=True),
        {"conv"}, {"DoRA magnitude": 3},
    ),
}  # fmt: skip
