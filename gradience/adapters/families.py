"""Module types (attention, MLP, embeddings), and layer numbers."""

from typing import Literal, get_args

ModuleType = Literal["attn", "mlp", "embedding", "other"]
MODULE_TYPES: tuple[ModuleType, ...] = get_args(ModuleType)

# fmt: off
_ATTENTION = frozenset((
    "q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "query", "key", "value", "query_key_value",
    "c_attn", "q", "k", "v", "o", "qkv", "to_q", "to_k", "to_v", "to_out", "q_lin", "k_lin",
    "v_lin", "out_lin", "wq", "wk", "wv", "wo", "w_qkv", "wqkv", "in_proj_qkv", "in_proj_weight",
    "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "add_q_proj", "add_k_proj", "add_v_proj",
    "to_add_out", "attn_out", "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output",
))
_MLP = frozenset((
    "gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2", "fc_in", "fc_out", "c_fc", "w1",
    "w2", "w3", "wi", "wi_0", "wi_1", "lin1", "lin2", "dense_h_to_4h", "dense_4h_to_h", "ff_proj",
    "ff_out", "linear_fc1", "linear_fc2", "linear1", "linear2", "proj_mlp", "experts", "gate", "router", "up", "down",
    "mlp", "ffn", "ffn_gate", "ffn_up", "ffn_down",
))
_EMBEDDING = frozenset((
    "embed_tokens", "wte", "wpe", "word_embeddings", "position_embeddings", "token_type_embeddings",
    "tok_embeddings", "embed_positions", "shared", "lm_head", "embed_out", "token_embd", "embedding", "embeddings",
))
_ATTENTION_PARENTS = ("attn", "attention", "crossattention", "encdecattention")
_MLP_PARENTS = (
    "mlp", "ffn", "feed_forward", "feedforward", "densereludense", "expert", "moe", "ff", "intermediate",
)
# fmt: on
EXPERT_PARTS = frozenset(("w1", "w2", "w3", "gate_proj", "up_proj", "down_proj"))


def module_type(name: str, *, embedding: bool = False) -> ModuleType:
    """Return attn, mlp, embedding or other, from the module's path.

    The last name decides if it is unambiguous; otherwise the nearest parent that is an attention or MLP block
    (BERT's `attention.output.dense` against `output.dense`, GPT-2's `attn.c_proj` against `mlp.c_proj`, OPT's
    `self_attn.out_proj` against the `out_proj` of Mamba's mixers and of RoBERTa's classifier).
    """
    parts = name.lower().split(".")
    if embedding or parts[-1] in _EMBEDDING:
        return "embedding"
    if parts[-1] in _ATTENTION and not any(part.startswith(_MLP_PARENTS) for part in parts[-2:-1]):
        return "attn"
    if parts[-1] in _MLP:
        return "mlp"
    for part in reversed(parts[:-1]):
        if any(parent in part for parent in _ATTENTION_PARENTS):
            return "attn"
        if part.startswith(_MLP_PARENTS):
            return "mlp"
    # BERT's feed-forward output is `encoder.layer.N.output.dense`: an `output` right under the layer.
    if len(parts) >= 3 and parts[-2] == "output" and parts[-3].isdigit():
        return "mlp"
    return "other"


def layer_of(name: str) -> tuple[str, int] | tuple[None, None]:
    """The transformer layer of a module: path up to its first number, and that number.

    `model.layers.11.self_attn.q_proj` -> (`model.layers.11`, 11); T5's encoder and decoder stay apart.
    """
    parts = name.split(".")
    for index, part in enumerate(parts[:-1]):
        if part.isascii() and part.isdigit() and index > 0:
            return ".".join(parts[: index + 1]), int(part[:18])
    return None, None


def family_of(name: str) -> str:
    """Return the module's name within its layer, without expert numbers."""
    layer, _ = layer_of(name)
    rest = name[len(layer) + 1 :] if layer else name
    return ".".join("*" if part.isdigit() else part for part in rest.split("."))
