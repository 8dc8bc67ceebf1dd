"""Every kind of module that LoRA can be on, as PEFT is asked for it, and what else its file then holds."""

from typing import Any

from peft import LoraConfig
from peft_models import Convolutions, bert, gpt2, gpt_oss, llama, mixtral, qwen_moe, t5


def config(**options: Any) -> LoraConfig:
    return LoraConfig(**({"r": 4, "lora_alpha": 6} | options))


LINEAR = ["q_proj", "down_proj"]

# name -> (model, config, kind of its modules, what `coverage.other` holds: reason -> tensors)
KINDS: dict[str, tuple[Any, LoraConfig, set[str], dict[str, int]]] = {
    "llama": (llama, config(target_modules="all-linear", r=8), {"linear"}, {}),
    "bert": (
        bert,
        config(target_modules=["query", "value", "dense"], task_type="SEQ_CLS"),
        {"linear"},
        {"full-weight module (modules_to_save)": 2},
    ),
    "gpt2-conv1d": (
        gpt2,
        config(target_modules=["c_attn", "c_fc", "c_proj"], fan_in_fan_out=True),
        {"linear"},
        {},
    ),
    "t5": (t5, config(target_modules=["q", "v", "wi", "wo"], task_type="SEQ_2_SEQ_LM"), {"linear"}, {}),
    "embedding": (
        gpt2,
        config(target_modules=["wte", "c_attn"], fan_in_fan_out=True),
        {"embedding", "linear"},
        {},
    ),
    "convolutions": (Convolutions, config(target_modules=["three", "one", "line", "solid"]), {"conv"}, {}),
    "grouped": (Convolutions, config(target_modules=["grouped", "depthwise"], r=4), {"conv"}, {}),
    "wide": (Convolutions, config(target_modules=["three", "one", "solid"], r=32), {"conv"}, {}),
    "experts-one": (
        mixtral,
        config(target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj"]),
        {"expert", "linear"},
        {},
    ),
    "experts-two": (
        mixtral,
        config(target_modules=[], target_parameters=["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]),
        {"expert"},
        {},
    ),
    "experts-bare-names": (
        qwen_moe,
        config(target_modules=[], target_parameters=["gate_up_proj", "down_proj"]),
        {"expert"},
        {},
    ),
    "experts-bare-names-beside-modules": (
        mixtral,
        config(target_modules=["q_proj", "v_proj"], target_parameters=["gate_up_proj"]),
        {"expert", "linear"},
        {},
    ),
    "experts-bare-names-beside-an-expression": (
        mixtral,
        config(target_modules=r".*\.[qv]_proj", target_parameters=["down_proj", "gate_up_proj"]),
        {"expert", "linear"},
        {},
    ),
    "experts-all-linear": (mixtral, config(target_modules="all-linear"), {"expert", "linear"}, {}),
    "experts-and-router": (
        qwen_moe,
        config(target_modules=["gate_proj"], target_parameters=["experts.down_proj", "mlp.gate.weight"]),
        {"expert", "linear"},
        {},
    ),
    "experts-unswapped": (
        gpt_oss,
        config(target_modules=["v_proj"], target_parameters=["experts.down_proj", "experts.gate_up_proj"]),
        {"expert", "linear"},
        {},
    ),
    "experts-with-biases": (
        gpt_oss,
        config(
            target_modules=[],
            target_parameters=[
                "experts.gate_up_proj",
                "experts.gate_up_proj_bias",
                "experts.down_proj",
                "experts.down_proj_bias",
            ],
            r=2,
        ),
        {"expert", "linear"},
        {},
    ),
    "experts-rank-pattern": (
        mixtral,
        config(
            target_modules=[],
            target_parameters=["experts.down_proj", "experts.gate_up_proj"],
            rank_pattern={"experts.down_proj": 2, r"layers\.1\.mlp\.experts\.gate_up_proj": 3},
            alpha_pattern={"gate_up_proj": 5},
        ),
        {"expert"},
        {},
    ),
    "rslora": (llama, config(target_modules=LINEAR, use_rslora=True, r=5), {"linear"}, {}),
    "patterns": (
        lambda: llama(12),
        config(
            target_modules=["q_proj", "v_proj", "down_proj"],
            rank_pattern={
                r"layers\.1\.self_attn\.q_proj": 7,
                "v_proj": 2,
                r".*\.(5|11)\.mlp\..*": 3,
                "down_proj": 6,
            },
            alpha_pattern={
                r"^model\.layers\.11\.self_attn\.q_proj": 32,
                r"layers.1.*q_proj": 12,
                "v_proj": 1.5,
            },
            use_rslora=True,
        ),
        {"linear"},
        {},
    ),
    "dora": (llama, config(target_modules=LINEAR, use_dora=True), {"linear"}, {"DoRA magnitude": 4}),
    "dora-embedding": (
        gpt2,
        config(target_modules=["wte", "c_attn"], fan_in_fan_out=True, use_dora=True),
        {"linear", "embedding"},
        {"DoRA magnitude": 3},
    ),
    "dora-convolutions": (
        Convolutions,
        config(target_modules=["three", "line", "solid"], use_dora=True),
        {"conv"},
        {"DoRA magnitude": 3},
    ),
    "lora-bias": (
        bert,
        config(target_modules=["query", "value"], lora_bias=True),
        {"linear"},
        {"bias of lora_B (lora_bias)": 4},
    ),
    "modules-to-save": (
        llama,
        config(target_modules=LINEAR, modules_to_save=["lm_head", "input_layernorm"]),
        {"linear"},
        {"full-weight module (modules_to_save)": 3},
    ),
    "bias-lora-only": (
        bert,
        config(target_modules=["query"], bias="lora_only"),
        {"linear"},
        {"bias of the base layer": 2},
    ),
    "token-rows": (
        llama,
        config(target_modules=LINEAR, trainable_token_indices=[3, 7, 11]),
        {"linear"},
        {"trained rows of an embedding (trainable_token_indices)": 1},
    ),
    "layers-to-transform": (
        lambda: llama(4),
        config(target_modules=LINEAR, layers_to_transform=[1, 3]),
        {"linear"},
        {},
    ),
}
