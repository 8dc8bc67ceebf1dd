"""A LoRA for llama.cpp, as its convert_lora_to_gguf.py writes it, through the library `gguf`.

One number, adapter.lora.alpha, holds for the whole file: s = alpha/r of each tensor, so ranks may differ if s·r does
not. Rows of q and k of Llama have another order there (two halves of a head become pairs), so those of B do.
Source: llama.cpp in llama-cpp-python 0.3.36, convert_lora_to_gguf.py and conversion/llama.py (`permute`).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gradience.adapters.adapter import Adapter, LoraPair
from gradience.adapters.families import layer_of
from gradience.adapters.gguf import ARCHITECTURES, heads_of, llama_cpp_name
from gradience.arguments import is_integer
from gradience.compress.layout import not_held
from gradience.convert.forms import Written, refuse_beside, rewriting
from gradience.digests import sha256_file
from gradience.errors import InputError, require
from gradience.runtimes.architecture import model_config_of

WORDS = "GGUF LoRA"
NAME = "adapter.gguf"

_TIED = {"token_embd": "aborts when it computes with it", "output": "does not load it"}


FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""Class of the base -> general.architecture."""


def write_gguf(opened: Adapter, folder: Path, base: Path | None) -> Written:
    """Write adapter.gguf. base: folder of the base model, whose config.json names the architecture.

    Raises InputError: not-in-format, no-config, no-model-config; MissingExtra without the library.
    """
    library: Any = require("gguf", extra="gguf")
    alpha = _alpha(opened)
    left_out = refuse_beside(opened, WORDS)
    family, config = _family(opened, base)
    names = _names(opened, config)
    writer = library.GGUFWriter(folder / NAME, family)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    heads = _heads(opened, config) if ARCHITECTURES[family] else {}
    for pair in opened.pairs:
        kind = _type(opened, pair, library)
        for side, factor in (("a", pair.a), ("b", pair.b)):
            shape = factor.entry.shape
            turned = shape[::-1] if side == "a" and pair.kind == "embedding" else shape
            writer.add_tensor_info(
                f"{names[pair.module]}.weight.lora_{side}",
                turned,
                np.dtype(np.float32),
                factor.entry.size,
                kind,
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for pair in opened.pairs:
        first, second = pair.a.read(), pair.b.read()
        if pair.kind == "embedding":
            first = first.T
        count = heads.get(pair.module.rpartition(".")[2])
        if count is not None:
            halves = second.reshape(count, 2, pair.rows // count // 2, -1)
            second = halves.swapaxes(1, 2).reshape(second.shape)
        for words in (first, second):
            writer.write_tensor_data(np.ascontiguousarray(words).reshape(-1).view(np.uint8))
    writer.close()
    path = folder / NAME
    return Written(sha256_file(path), path.stat().st_size, 2 * len(names), 2 * len(names), left_out, names)


def _alpha(opened: Adapter) -> float:
    """s·r, which must be the same for all. Raises InputError (not-in-format)."""
    hint = f"pad them to one rank first: {rewriting(opened, '--encoding padded')}; the PEFT format can store several"
    alphas = {pair.module: opened.scale_of(pair) * pair.rank for pair in opened.pairs}
    first, alpha = next(iter(alphas.items()))
    for module, other in alphas.items():
        if not math.isclose(other, alpha, rel_tol=1e-12):
            raise not_held(
                opened,
                WORDS,
                f"it has one α for all, but {first} has α {alpha:g} and {module} α {other:g} (scale times rank)",
                hint,
            )
    if alpha == 0 or not math.isclose(float(np.float32(alpha)), alpha, rel_tol=1e-6):
        raise not_held(
            opened, WORDS, f"{first} has α {alpha:g}, and llama.cpp takes 0 for a scale of 1", hint
        )
    return alpha


def _family(opened: Adapter, base: Path | None) -> tuple[str, Mapping[str, Any]]:
    """general.architecture, and config.json of the base."""
    assert opened.config is not None  # a scale is known
    config = model_config_of(opened.config, opened.location.root, base)
    if config is None:
        raise InputError(
            f"{opened.location.path}: llama.cpp's names depend on the base model, and no config.json of it is here",
            code="no-model-config",
            hint="give the base model's folder or its name on the hub: --base-model NAME (Python: base_model=)",
        )
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise not_held(
            opened,
            WORDS,
            f"the base model is {str(name)[:80]}, and only for {', '.join(FAMILIES)} was this compared with llama.cpp",
            "llama.cpp's own convert_lora_to_gguf.py reads PEFT's format: --to peft",
        )
    return family, config


def _names(opened: Adapter, config: Mapping[str, Any]) -> dict[str, str]:
    """Module -> its name in llama.cpp. Raises InputError (not-in-format) for one that the base model does not have."""
    sides = _sides(config)
    names = {}
    for pair in opened.pairs:
        name = llama_cpp_name(pair.module) if pair.kind in ("linear", "embedding") else None
        if name is None or opened.format not in ("peft", "safetensors", "mlx"):
            raise _unfit(opened, f"llama.cpp has no name for {pair.module} ({pair.kind}) of this base model")
        layer, layers = layer_of(pair.module)[1], config.get("num_hidden_layers")
        if layer is not None and is_integer(layers) and layer >= layers:
            raise _unfit(opened, f"{pair.module} is beyond the {layers} layers of the base model")
        expected = sides.get(pair.module.rpartition(".")[2], (None, None))
        for side, has, wants in zip(("rows", "columns"), (pair.rows, pair.columns), expected, strict=True):
            if wants not in (None, has):
                raise _unfit(opened, f"{pair.module} has {has} {side}, and {wants} in the base model")
        names[pair.module] = name
    # Where head and embedding are one matrix, llama.cpp cannot use an update of either: it multiplies the head by what
    # was turned for the embedding, and aborts; and of a head it knows no tensor.
    for module, name in names.items():
        if config.get("tie_word_embeddings") is True and name in _TIED:
            raise not_held(
                opened,
                WORDS,
                f"{module} is both head and embedding of this base model (tie_word_embeddings), and"
                " llama.cpp as of llama-cpp-python 0.3.36 " + _TIED[name],
                "merge the adapter into the base with PEFT (merge_and_unload), and convert that",
            )
    return names


def _unfit(opened: Adapter, part: str) -> InputError:
    return not_held(
        opened, WORDS, part, "give the adapter's own base: --base-model NAME (Python: base_model=)"
    )


def _sides(config: Mapping[str, Any]) -> dict[str, tuple[int | None, int | None]]:
    """Last part of a module's name -> rows and columns of its weight, as far as config.json says."""

    def number(name: str) -> int | None:
        value = config.get(name)
        return value if is_integer(value) and value > 0 else None

    hidden, inner, vocabulary = map(number, ("hidden_size", "intermediate_size", "vocab_size"))
    heads = number("num_attention_heads")
    head = number("head_dim") or (hidden // heads if hidden and heads else None)
    groups = number("num_key_value_heads") or heads
    q, kv = (count * head if count and head else None for count in (heads, groups))
    return {
        "q_proj": (q, hidden),
        "k_proj": (kv, hidden),
        "v_proj": (kv, hidden),
        "o_proj": (hidden, q),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
        "embed_tokens": (hidden, vocabulary),
        "lm_head": (vocabulary, hidden),
    }


def _type(opened: Adapter, pair: LoraPair, library: Any) -> Any:
    types = {factor.entry.dtype.name for factor in (pair.a, pair.b)}
    if len(types) > 1 or not types <= {"F32", "F16", "BF16"}:
        raise not_held(
            opened,
            WORDS,
            f"{pair.module} is stored as {' and '.join(sorted(types))}, but GGUF holds F32, F16 or BF16 here",
            f"change the type first: {rewriting(opened, '--dtype F32')}",
        )
    return library.GGMLQuantizationType[types.pop()]


def _heads(opened: Adapter, config: Mapping[str, Any]) -> dict[str, int]:
    """Last part of a module's name -> its heads, if rows are reordered. Raises InputError (not-in-format)."""
    sizes = heads_of(config)
    for pair in opened.pairs:
        size = sizes.get(pair.module.rpartition(".")[2], 1)
        if not is_integer(size) or size < 1 or pair.rows % (2 * size if size != 1 else 1):
            raise not_held(
                opened,
                WORDS,
                f"{pair.module} has {pair.rows} rows, which are not those of {size} heads",
                "check --base-model",
            )
    return {name: int(size) for name, size in sizes.items() if is_integer(size)}
