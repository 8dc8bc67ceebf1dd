"""What a tensor's name says: the factor, the module, the adapter; the module's type, layer and family."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradience.adapters.families import family_of, layer_of, module_type
from gradience.adapters.keys import Key, choose_adapter, parse_key
from gradience.errors import InputError

Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        # As saved, without the prefix, dumped from a live model, under another name.
        (f"base_model.model.{Q}.lora_A.weight", Key("A", Q)),
        (f"base_model.model.{Q}.lora_B.weight", Key("B", Q)),
        (f"{Q}.lora_A.weight", Key("A", Q)),
        (f"base_model.model.{Q}.lora_A.default.weight", Key("A", Q, "default")),
        # What wrappers put into the path.
        (f"_orig_mod.base_model.model.{Q}.lora_A.weight", Key("A", Q)),
        ("base_model.model.model.layers.0._orig_mod.self_attn.q_proj.lora_A.weight", Key("A", Q)),
        (f"_fsdp_wrapped_module.base_model.model.{Q}.lora_B.default.weight", Key("B", Q, "default")),
        ("model.layers.0._checkpoint_wrapped_module.self_attn.q_proj.lora_A.weight", Key("A", Q)),
        (f"module.module.base_model.model.{Q}.lora_A.weight", Key("A", Q)),
        # Inside the base model `module` is a name like any other.
        ("base_model.model.module.q.lora_A.weight", Key("A", "module.q")),
        # Embeddings have no `.weight`.
        ("base_model.model.model.embed_tokens.lora_embedding_A", Key("embedding_A", "model.embed_tokens")),
        # DoRA, biases.
        (f"base_model.model.{Q}.lora_magnitude_vector", Key("magnitude", Q)),
        (f"base_model.model.{Q}.lora_magnitude_vector.default.weight", Key("magnitude", Q, "default")),
        (f"base_model.model.{Q}.lora_B.bias", Key("lora_bias", Q)),
        # Nested wrappers of target_parameters.
        ("base_model.model.mlp.experts.base_layer.lora_A.weight", Key("A", "mlp.experts", depth=1)),
        ("base_model.model.mlp.experts.base_layer.base_layer.lora_B.weight", Key("B", "mlp.experts", depth=2)),
        # Copies that PEFT keeps of a module.
        ("base_model.model.classifier.original_module.lora_A.weight",
         Key("A", "classifier", ghost="original_module")),
        ("base_model.model.classifier.modules_to_save.lora_A.weight",
         Key("A", "classifier", ghost="modules_to_save")),
        ("base_model.model.classifier.modules_to_save.default.lora_A.default.weight",
         Key("A", "classifier", "default", ghost="modules_to_save")),
        ("base_model.model.classifier.modules_to_save.dense.lora_B.weight",
         Key("B", "classifier.dense", ghost="modules_to_save")),
        ("base_model.model.classifier.modules_to_save.mine.dense.lora_B.mine.weight",
         Key("B", "classifier.dense", "mine", ghost="modules_to_save")),
        # No factors.
        ("base_model.model.lm_head.weight", Key("other", "lm_head.weight")),
        (f"base_model.model.{Q}.base_layer.bias", Key("other", f"{Q}.base_layer.bias")),
        ("lora_A.weight", Key("other", "lora_A.weight")),
        (f"{Q}.lora_A.a.b.weight", Key("other", f"{Q}.lora_A.a.b.weight")),
        (f"{Q}.lora_A", Key("other", f"{Q}.lora_A")),
        ("...", Key("other", "...")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_parse(name, key):
    assert parse_key(name) == key


@given(st.text())
def test_no_name_is_too_strange(name):
    key = parse_key(name)
    assert key.role == "other" or key.module
    module_type(name)
    layer_of(name)
    family_of(name)


def keys(*names):
    return [parse_key(name) for name in names]


def test_the_adapter_that_is_read():
    path = Path("dump.safetensors")
    one, two = keys(f"{Q}.lora_A.x.weight"), keys(f"{Q}.lora_A.x.weight", f"{Q}.lora_B.y.weight")
    assert choose_adapter(path, keys(f"{Q}.lora_A.weight"), None) is None
    assert choose_adapter(path, one, None) == "x"
    assert choose_adapter(path, one, "x") == "x"
    assert choose_adapter(path, two, "y") == "y"
    for available, wanted, code in (
        (two, None, "several-adapters"),
        (two, "z", "no-such-adapter"),
        (keys(f"{Q}.lora_A.weight"), "x", "no-such-adapter"),
    ):
        with pytest.raises(InputError, match=r"^dump\.safetensors: ") as refused:
            choose_adapter(path, available, wanted)
        assert refused.value.code == code


# ---------------------------------------------------------------- type, layer, family


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
                                        num_key_value_heads=1, intermediate_size=8, vocab_size=8))  # fmt: skip


def mixtral():
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(MixtralConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
                                            num_key_value_heads=1, intermediate_size=8, vocab_size=8,
                                            num_local_experts=2))  # fmt: skip


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
                                                    intermediate_size=8, vocab_size=8))  # fmt: skip


def t5():
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2,
                                               vocab_size=8, feed_forward_proj="gated-gelu"))  # fmt: skip


def mamba():
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(MambaConfig(hidden_size=8, num_hidden_layers=2, vocab_size=8, state_size=4))


# What a person who knows the architecture says about each weight that can have a LoRA.
EXPECTED = {
    llama: {
        "attn": {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"},
        "mlp": {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"},
        "embedding": {"model.embed_tokens", "lm_head"},
    },
    mixtral: {
        "attn": {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"},
        "mlp": {"mlp.experts"},
        "embedding": {"model.embed_tokens", "lm_head"},
    },
    bert: {
        "attn": {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"},
        "mlp": {"intermediate.dense", "output.dense"},
        "embedding": {"bert.embeddings.word_embeddings", "bert.embeddings.position_embeddings",
                      "bert.embeddings.token_type_embeddings"},
        "other": {"bert.pooler.dense", "classifier"},
    },
    t5: {
        "attn": {f"layer.*.{block}.{name}" for block in ("SelfAttention", "EncDecAttention") for name in "qkvo"}
        | {"layer.*.SelfAttention.relative_attention_bias"},
        "mlp": {f"layer.*.DenseReluDense.{name}" for name in ("wi_0", "wi_1", "wo")},
        "embedding": {"shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head"},
    },
    mamba: {
        "other": {f"mixer.{name}" for name in ("conv1d", "in_proj", "x_proj", "dt_proj", "out_proj")},
        "embedding": {"backbone.embeddings", "lm_head"},
    },
}  # fmt: skip
WEIGHTED = ("Linear", "Conv1D", "Conv1d", "Conv2d", "Embedding", "MixtralExperts")


@pytest.mark.parametrize("build", EXPECTED, ids=lambda build: build.__name__)
def test_every_weight_of_a_real_model(build):
    import torch

    with torch.device("meta"):
        model = build()
    names = [name for name, module in model.named_modules() if type(module).__name__ in WEIGHTED]
    families = {}
    for name in names:
        families.setdefault(module_type(name), set()).add(family_of(name))
    assert families == EXPECTED[build]
    layers = {layer_of(name) for name in names} - {(None, None)}
    stacks = {path.rpartition(".")[0] for path, _ in layers}
    assert layers == {(f"{stack}.{index}", index) for stack in stacks for index in range(2)}
    assert len(stacks) == (2 if build is t5 else 1)


UNET = "down_blocks.1.attentions.0.transformer_blocks.0"


@pytest.mark.parametrize(
    ("name", "kind", "layer"),
    [
        # Names of a diffusers UNet (0.42), which is not installed for the tests.
        (f"{UNET}.attn1.to_q", "attn", ("down_blocks.1", 1)),
        (f"{UNET}.attn2.to_out.0", "attn", ("down_blocks.1", 1)),
        (f"{UNET}.ff.net.0.proj", "mlp", ("down_blocks.1", 1)),
        (f"{UNET}.ff.net.2", "mlp", ("down_blocks.1", 1)),
        ("mid_block.resnets.0.conv1", "other", ("mid_block.resnets.0", 0)),
        ("time_embedding.linear_1", "other", (None, None)),
        ("single_transformer_blocks.3.proj_mlp", "mlp", ("single_transformer_blocks.3", 3)),
        # Experts one by one, hybrids, a sequence of layers at the top.
        ("model.layers.7.block_sparse_moe.experts.3.w2", "mlp", ("model.layers.7", 7)),
        ("model.layers.2.mixer.q_proj", "attn", ("model.layers.2", 2)),
        ("model.layers.2.mamba.out_proj", "other", ("model.layers.2", 2)),
        ("model.layers.0.linear_attn.in_proj_qkvz", "attn", ("model.layers.0", 0)),
        ("rwkv.blocks.1.feed_forward.key", "mlp", ("rwkv.blocks.1", 1)),
        ("rwkv.blocks.1.attention.key", "attn", ("rwkv.blocks.1", 1)),
        ("0.weight_layer", "other", (None, None)),
        ("head.2", "other", (None, None)),
        ("model.layers.99999999999999999999999.q_proj", "attn",
         ("model.layers.99999999999999999999999", 999999999999999999)),
    ],
)  # fmt: skip
def test_names_of_other_architectures(name, kind, layer):
    assert module_type(name) == kind
    assert layer_of(name) == layer
