"""A LoRA for llama.cpp, as its convert_lora_to_gguf.py writes it; through the library `gguf`, which knows the names.

One number, adapter.lora.alpha, holds for the whole file: s = alpha/r of each tensor, so ranks may differ where s·r does
not. Rows of q and k of Llama lie in another order there (two halves of a head become pairs), so those of B do.
Source: llama.cpp in llama-cpp-python 0.3.36, convert_lora_to_gguf.py and conversion/llama.py (`permute`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gradience.adapters.adapter import Adapter, LoraPair
from gradience.adapters.dtypes import Words
from gradience.arguments import is_integer
from gradience.compress.forms.form import Side, not_held, refuse_beside
from gradience.convert.written import Written
from gradience.digests import sha256_file
from gradience.errors import InputError, require
from gradience.runtimes.architecture import model_config_of

WORDS = "GGUF LoRA"
NAME = "adapter.gguf"
_ONE = (
    "bring them to one first: gradience compress ADAPTER --rank R --encoding padded --output NEW; "
    "PEFT's format holds several"
)


_TIED = {"token_embd": "aborts when it computes with it", "output": "does not load it"}


class _Family(NamedTuple):
    """Architectures that llama.cpp's converter treats alike.

    arch: its name in gguf.MODEL_ARCH.   paired: rows of q and k are reordered.
    """

    arch: str
    paired: bool


FAMILIES = {
    "LlamaForCausalLM": _Family("LLAMA", True),
    "MistralForCausalLM": _Family("LLAMA", True),
    "Qwen2ForCausalLM": _Family("QWEN2", False),
    "Qwen3ForCausalLM": _Family("QWEN3", False),
}
"""Those whose files were compared with what llama.cpp's converter makes."""


def write_gguf(opened: Adapter, folder: Path, base: Path | None) -> Written:
    """Write adapter.gguf. base: folder of the base model, whose config.json names the architecture.

    Raises InputError: not-in-format, no-config, no-model-config; MissingExtra without the library.
    """
    library: Any = require("gguf", extra="gguf")
    alpha = _alpha(opened)
    left_out = refuse_beside(opened, WORDS)
    family, config = _family(opened, base)
    names = _names(opened, library, family, config)
    writer = library.GGUFWriter(folder / NAME, library.MODEL_ARCH_NAMES[library.MODEL_ARCH[family.arch]])
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    heads = _heads(opened, config) if family.paired else {}
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
        for side in ("A", "B"):
            words = _turned(pair, "A" if side == "A" else "B", heads.get(pair.module.rpartition(".")[2]))
            writer.write_tensor_data(np.ascontiguousarray(words).reshape(-1).view(np.uint8))
    writer.close()
    path = folder / NAME
    return Written(sha256_file(path), path.stat().st_size, 2 * len(names), 2 * len(names), left_out, names)


def _alpha(opened: Adapter) -> float:
    """s·r, which must be the same for all. Raises InputError (not-in-format)."""
    alphas = {pair.module: opened.scale_of(pair) * pair.rank for pair in opened.pairs}
    first, alpha = next(iter(alphas.items()))
    for module, other in alphas.items():
        if not math.isclose(other, alpha, rel_tol=1e-12):
            raise not_held(
                opened,
                WORDS,
                f"it has one α for all, and {first} has α {alpha:g}, {module} α {other:g} (scale times rank)",
                _ONE,
            )
    if alpha == 0 or not math.isclose(float(np.float32(alpha)), alpha, rel_tol=1e-6):
        raise not_held(
            opened, WORDS, f"{first} has α {alpha:g}, and llama.cpp takes 0 for a scale of 1", _ONE
        )
    return alpha


def _family(opened: Adapter, base: Path | None) -> tuple[_Family, Mapping[str, Any]]:
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


def _names(opened: Adapter, library: Any, family: _Family, config: Mapping[str, Any]) -> dict[str, str]:
    """Module -> its name in llama.cpp. Raises InputError (not-in-format)."""
    layers = config.get("num_hidden_layers")
    known = library.get_tensor_name_map(library.MODEL_ARCH[family.arch], layers if is_integer(layers) else 0)
    names = {}
    for pair in opened.pairs:
        name = known.get_name(pair.module) if pair.kind in ("linear", "embedding") else None
        if name is None or opened.format not in ("peft", "safetensors", "mlx"):
            raise not_held(
                opened,
                WORDS,
                f"llama.cpp has no name for {pair.module} ({pair.kind}) of this base model",
                "leave the module out of the adapter, or check --base-model",
            )
        names[pair.module] = name
    if config.get("tie_word_embeddings") is True:
        _refuse_tied(opened, names)
    return names


def _refuse_tied(opened: Adapter, names: Mapping[str, str]) -> None:
    """Where head and embedding are one matrix, llama.cpp cannot use an update of either (llama-cpp-python 0.3.36).

    It multiplies the head by what was turned for the embedding, and aborts; and of a head it knows no tensor.
    """
    for module, name in names.items():
        if name in ("token_embd", "output"):
            raise not_held(
                opened,
                WORDS,
                f"{module} is the head and the embedding of this base model at once (tie_word_embeddings), and"
                " llama.cpp as of llama-cpp-python 0.3.36 " + _TIED[name],
                "merge the adapter into the base with PEFT (merge_and_unload), and convert that",
            )


def _type(opened: Adapter, pair: LoraPair, library: Any) -> Any:
    types = {factor.entry.dtype.name for factor in (pair.a, pair.b)}
    if len(types) > 1 or not types <= {"F32", "F16", "BF16"}:
        raise not_held(
            opened,
            WORDS,
            f"{pair.module} is stored as {' and '.join(sorted(types))}, and written are F32, F16 or BF16",
            "gradience compress ADAPTER --rank R --dtype F32 --output NEW stores it so",
        )
    return library.GGMLQuantizationType[types.pop()]


def _heads(opened: Adapter, config: Mapping[str, Any]) -> dict[str, int]:
    """Last part of a module's name -> its heads, where rows are reordered. Raises InputError (not-in-format)."""
    heads = config.get("num_attention_heads")
    groups = config.get("num_key_value_heads") or heads
    sizes = {"q_proj": heads, "k_proj": groups}
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


def _turned(pair: LoraPair, side: Side, heads: int | None) -> Words:
    words = (pair.a if side == "A" else pair.b).read()
    if side == "A":
        return words.T if pair.kind == "embedding" else words
    if heads is None:
        return words
    return words.reshape(heads, 2, pair.rows // heads // 2, -1).swapaxes(1, 2).reshape(words.shape)
