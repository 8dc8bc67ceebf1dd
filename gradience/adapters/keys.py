"""Tensor names of a PEFT adapter -> role of each tensor, and the name under which PEFT saves and loads it.

The same factor appears as `base_model.model.<module>.lora_A.weight` (saved), `<module>.lora_A.<adapter>.weight`
(dumped from a live model), and with the wrappers of torch.compile, FSDP, DDP or checkpointing in its path.
`PeftModel.from_pretrained` looks tensors up by exact name and skips missing ones, so that an adapter with different
names silently has no effect.
Source: PEFT 0.21, tuners/tuners_utils.py, `_remap_adapter_state_dict_for_load`; utils/save_and_load.py.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from gradience.errors import InputError
from gradience.words import listed

LISTED = 8
"""Names shown in a message before it says how many more there are."""
Ghost = Literal["", "modules_to_save", "original_module"]
Kind = Literal["linear", "embedding", "conv", "expert"]
"""The kind of module that a pair of factors adapts."""
Side = Literal["A", "B"]
"""One of the two factors of a pair."""
Role = Literal["A", "B", "embedding_A", "embedding_B", "magnitude", "lora_bias", "other"]

_FACTORS: dict[str, Role] = {
    "lora_A": "A",
    "lora_B": "B",
    "lora_embedding_A": "embedding_A",
    "lora_embedding_B": "embedding_B",
    "lora_magnitude_vector": "magnitude",
}
_WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))


class Key(NamedTuple):
    """A parsed tensor name.

    module: path inside the base model without wrappers, prefixes, ghosts and `base_layer`.
    adapter: the adapter's name, if the key contains one.
    depth: number of `base_layer` at the end of the path (nested wrappers of `target_parameters`).
    ghost: `modules_to_save` (the trained copy) or `original_module` (the untrained one) if the key belongs to
    a copy that PEFT keeps of a module; empty for the module itself.
    """

    role: Role
    module: str
    adapter: str | None = None
    depth: int = 0
    ghost: Ghost = ""


@lru_cache(maxsize=4096)  # every step from the pairs to the findings looks at the same names
def parse_key(name: str) -> Key:
    """Return the role of the tensor `name`. Never fails: unknown names have the role `other`."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while parts[:1] == ["module"]:
        parts = parts[1:]
    if parts[:2] == ["base_model", "model"]:
        parts = parts[2:]
    for index, part in enumerate(parts):
        role = _FACTORS.get(part)
        if role is not None:
            return _factor(role, parts[:index], parts[index + 1 :]) or Key("other", ".".join(parts))
    return Key("other", ".".join(parts))


def _factor(role: Role, path: list[str], tail: list[str]) -> Key | None:
    if role == "B" and tail[-1:] == ["bias"]:
        role, tail = "lora_bias", tail[:-1]
    elif tail[-1:] == ["weight"]:
        tail = tail[:-1]
    elif role in ("A", "B"):
        return None
    if len(tail) > 1 or not any(path):
        return None
    adapter = tail[0] if tail else None
    path, ghost = _without_ghosts(path, adapter)
    depth = 0
    while path[-1:] == ["base_layer"]:
        path, depth = path[:-1], depth + 1
    return Key(role, ".".join(path), adapter, depth, ghost)


def _without_ghosts(path: list[str], adapter: str | None) -> tuple[list[str], Ghost]:
    markers: tuple[Ghost, ...] = ("original_module", "modules_to_save")
    for marker in markers:
        if marker in path[1:]:
            index = path.index(marker, 1)
            rest = path[index + 1 :]
            # `modules_to_save.<adapter>` in a live model; a save drops the adapter's name.
            if marker == "modules_to_save" and rest and rest[0] in (adapter, "default"):
                rest = rest[1:]
            return path[:index] + rest, marker
    return path, ""


def config_name(module: str) -> str:
    """Return the name of a module in the config.

    `attn.base_layer.out_proj` -> `attn`: PEFT wraps nn.MultiheadAttention twice, as a whole and around its output
    projection, and gives both the rank and the α of the whole (0.21, tuners/lora/layer.py, `MultiheadAttention`).
    """
    return module.partition(".base_layer.")[0]


def is_split_expert(module: str) -> bool:
    """Return whether this is one expert's own projection, as in `mlp.experts.3.up_proj`.

    transformers 5 keeps the experts of a block in one parameter, and PEFT 0.21 stacks such factors when it loads them
    (utils/transformers_weight_conversion.py): it then needs all of them, at the r and the α of the whole config.
    """
    parts = module.split(".")
    return len(parts) > 2 and parts[-3] == "experts" and parts[-2].isdecimal() and parts[-1] in EXPERT_PARTS


def path_ends(name: str) -> list[str]:
    """Return the name and its part after each dot: the entries of target_modules that match it (PEFT's rule)."""
    ends = [name]
    dot = name.find(".")
    while dot >= 0:
        ends.append(name[dot + 1 :])
        dot = name.find(".", dot + 1)
    return ends


def ends_with(module: str, names: Iterable[str]) -> bool:
    """Return True if the path `module` is one of `names`, or ends with a dot and a name (PEFT's rule for targets)."""
    return any(module == name or module.endswith(f".{name}") for name in names)


def choose_adapter(path: Path, keys: Iterable[Key], wanted: str | None) -> str | None:
    """Return the adapter to read: the `wanted` one, the only one, or None if the keys contain no adapter
    name.

    Raises InputError: several-adapters, no-such-adapter.
    """
    names = sorted({key.adapter for key in keys if key.adapter is not None and key.role != "other"})
    if wanted is None:
        if len(names) > 1:
            raise several_adapters(path, "adapters in one file", names)
        return names[0] if names else None
    if wanted not in names:
        raise no_such_adapter(path, wanted, names)
    return wanted


def several_adapters(path: Path, kind: str, names: Sequence[str], first: int = 0) -> InputError:
    """Return the error for several adapters without --adapter. first: position of the adapter named in the hint."""
    shown = listed([name[:80] for name in names], LISTED)
    return InputError(
        f"{path}: contains {len(names)} {kind}: {shown}",
        code="several-adapters",
        hint=f"name one with --adapter {names[first]}",
    )


def no_such_adapter(path: Path, wanted: str, names: Sequence[str]) -> InputError:
    """Return the error for an --adapter that is not in `names`. names: empty if the only adapter is unnamed."""
    shown = listed([name[:80] for name in names], LISTED)
    held = f"only {shown}" if names else "only one without a name"
    return InputError(
        f"{path}: contains no adapter called {wanted!r}, {held}",
        code="no-such-adapter",
        hint=f"use --adapter {names[0]}" if names else "leave --adapter out",
    )


PREFIX = "base_model.model."
DEFAULT_ADAPTER = "default"
"""Adapter name that `PeftModel.from_pretrained` uses by default."""

_SUFFIX: dict[Role, str] = {
    "A": ".lora_A.weight",
    "B": ".lora_B.weight",
    "embedding_A": ".lora_embedding_A",
    "embedding_B": ".lora_embedding_B",
    "magnitude": ".lora_magnitude_vector",
    "lora_bias": ".lora_B.bias",
}
_NAMED_AFTER = frozenset(("modules_to_save", "trainable_tokens_delta"))
"""Parts of a live model's names that the adapter's name follows; in a saved file it is gone."""


def peft_name(name: str, adapter: str | None = None) -> str:
    """Return the name of the tensor in a file saved by PEFT.

    >>> peft_name("_orig_mod.base_model.model.layers.0.q_proj.lora_A.ranking.weight", "ranking")
    'base_model.model.layers.0.q_proj.lora_A.weight'

    adapter: name of the tensor's adapter, if the file contains one.
    """
    key = parse_key(name)
    if key.role != "other":
        return PREFIX + key.module + ".base_layer" * key.depth + _SUFFIX[key.role]
    parts: list[str] = []
    for part in key.module.split("."):
        if parts and parts[-1] in _NAMED_AFTER and part in (adapter, DEFAULT_ADAPTER):
            continue
        parts.append(part)
    # `classifier.modules_to_save.default.weight` is saved as `classifier.weight`.
    return PREFIX + ".".join(
        part for index, part in enumerate(parts) if not index or part != "modules_to_save"
    )


def factor_name(tensor: str, module: str, kind: Kind, side: Side) -> str:
    """The name, in a file that PEFT saves, of a module's factor `side`, which another format calls `tensor`.

    >>> factor_name("layers.0.q_proj/down", "layers.0.q_proj", "linear", "A")
    'base_model.model.layers.0.q_proj.lora_A.weight'
    """
    if parse_key(tensor).role != "other":
        return peft_name(tensor)
    return PREFIX + module + (f".lora_embedding_{side}" if kind == "embedding" else f".lora_{side}.weight")


def is_applied(name: str, adapter: str | None = None) -> bool:
    """Return True if `PeftModel.from_pretrained` finds this name: PEFT's own, or a live model's with
    `default`.
    """
    key = parse_key(name)
    saved = peft_name(name, adapter)
    if key.role == "other":
        return name == saved
    names = (saved, saved + ".weight") if key.role == "magnitude" else (saved,)
    return (name.replace(f".{DEFAULT_ADAPTER}", "") if key.adapter == DEFAULT_ADAPTER else name) in names


# ---------------------------------------------------------------- module types and layer numbers

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
