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
from gradience.adapters.keys import Side
from gradience.adapters.tensors import DTYPES, NewTensor, Words
from gradience.arguments import is_integer
from gradience.convert.forms import Form
from gradience.digests import sha256_file
from gradience.errors import InputError, require
from gradience.runtimes.architecture import model_config_of

FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""Class of the base -> general.architecture."""


class GgufForm(Form):
    """adapter.gguf of a base model whose config.json names the architecture."""

    words = "GGUF LoRA"
    weights = "adapter.gguf"

    def __init__(self, opened: Adapter, base: Path | None) -> None:
        """Raises InputError: not-in-format, no-config, no-model-config; MissingExtra without the library."""
        super().__init__(opened, base)
        self.library: Any = require("gguf", extra="gguf")
        self.alpha = self._alpha()
        self.family, self.config = self._family()
        self.heads: dict[str, int] = {}
        self.sides = _sides(self.config)

    def _alpha(self) -> float:
        """s·r, which must be the same for all."""
        hint = f"pad them to one rank first: {self.rewriting('--encoding padded')}; the PEFT format can store several"
        alphas = {pair.module: self.opened.scale_of(pair) * pair.rank for pair in self.opened.pairs}
        first, alpha = next(iter(alphas.items()))
        for module, other in alphas.items():
            if not math.isclose(other, alpha, rel_tol=1e-12):
                raise self.not_held(
                    f"it has one α for all, but {first} has α {alpha:g} and {module} α {other:g} (scale times rank)",
                    hint,
                )
        if alpha == 0 or not math.isclose(float(np.float32(alpha)), alpha, rel_tol=1e-6):
            raise self.not_held(f"{first} has α {alpha:g}, and llama.cpp takes 0 for a scale of 1", hint)
        return alpha

    def _family(self) -> tuple[str, Mapping[str, Any]]:
        """general.architecture, and config.json of the base."""
        assert self.opened.config is not None  # a scale is known
        config = model_config_of(self.opened.config, self.opened.location.root, self.base)
        if config is None:
            raise InputError(
                f"{self.opened.location.path}: llama.cpp's names depend on the base model, and no config.json of it "
                "is here",
                code="no-model-config",
                hint="give the base model's folder or its name on the hub: --base-model NAME (Python: base_model=)",
            )
        names = config.get("architectures")
        name = names[0] if isinstance(names, list) and names else None
        family = FAMILIES.get(name) if isinstance(name, str) else None
        if family is None:
            known = ", ".join(FAMILIES)
            raise self.not_held(
                f"the base model is {str(name)[:80]}, and only for {known} was this compared with llama.cpp",
                "llama.cpp's own convert_lora_to_gguf.py reads PEFT's format: --to peft",
            )
        return family, config

    def _heads(self) -> dict[str, int]:
        """Last part of a module's name -> its heads, if rows are reordered."""
        sizes = heads_of(self.config)
        for pair in self.opened.pairs:
            size = sizes.get(pair.module.rpartition(".")[2], 1)
            if not is_integer(size) or size < 1 or pair.rows % (2 * size if size != 1 else 1):
                problem = f"{pair.module} has {pair.rows} rows, which are not those of {size} heads"
                raise self.not_held(problem, "check --base-model")
        return {name: int(size) for name, size in sizes.items() if is_integer(size)}

    def module(self, pair: LoraPair) -> str:
        """Raises InputError (not-in-format) for a module that the base model does not have."""
        name = llama_cpp_name(pair.module) if pair.kind in ("linear", "embedding") else None
        last, layer = pair.module.rpartition(".")[2], layer_of(pair.module)[1]
        layers = self.config.get("num_hidden_layers")
        problem = None
        if name is None or self.opened.format not in ("peft", "safetensors", "mlx"):
            problem = f"llama.cpp has no name for {pair.module} ({pair.kind}) of this base model"
        elif layer is not None and is_integer(layers) and layer >= layers:
            problem = f"{pair.module} is beyond the {layers} layers of the base model"
        else:
            sides = self.sides.get(last, (None, None))
            for side, has, wants in zip(("rows", "columns"), (pair.rows, pair.columns), sides, strict=True):
                if wants not in (None, has):
                    problem = f"{pair.module} has {has} {side}, and {wants} in the base model"
        if problem is not None:
            raise self.not_held(
                problem, "give the adapter's own base: --base-model NAME (Python: base_model=)"
            )
        # Where head and embedding are one matrix, llama.cpp cannot use an update of either: it multiplies the head by
        # what was turned for the embedding, and aborts; and of a head it knows no tensor.
        if self.config.get("tie_word_embeddings") is True and name in _TIED:
            raise self.not_held(
                f"{pair.module} is both head and embedding of this base model (tie_word_embeddings), and llama.cpp as "
                f"of llama-cpp-python 0.3.36 {_TIED[name]}",
                "merge the adapter into the base with PEFT (merge_and_unload), and convert that",
            )
        return str(name)

    def factor(self, pair: LoraPair, side: Side) -> str:
        return f"{self.module(pair)}.weight.lora_{side.lower()}"

    def turn(self, words: Words, side: Side, pair: LoraPair) -> Words:
        """A of an embedding is transposed; rows of q and k of B are in llama.cpp's order."""
        if side == "A":
            return words.T if pair.kind == "embedding" else words
        count = self.heads.get(pair.module.rpartition(".")[2])
        if count is None:
            return words
        return words.reshape(count, 2, pair.rows // count // 2, -1).swapaxes(1, 2).reshape(words.shape)

    def settings(self) -> tuple[None, Mapping[str, Any]]:
        if ARCHITECTURES[self.family]:
            self.heads = self._heads()
        return None, {}

    def write(
        self, path: Path, tensors: Mapping[str, NewTensor], settings: Mapping[str, Any]
    ) -> tuple[str, int]:
        """Write the file through the library."""
        writer = self.library.GGUFWriter(path, self.family)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", self.alpha)
        for name, tensor in tensors.items():
            kind = self.library.GGMLQuantizationType[tensor.dtype]
            size = math.prod(tensor.shape) * DTYPES[tensor.dtype].bits // 8
            writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), size, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors.values():
            writer.write_tensor_data(np.frombuffer(b"".join(tensor.data), np.uint8))
        writer.close()
        return sha256_file(path), path.stat().st_size


_TIED = {"token_embd": "aborts when it computes with it", "output": "does not load it"}


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
