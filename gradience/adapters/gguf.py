"""A LoRA in a GGUF file, as written by llama.cpp's convert_lora_to_gguf.py.

Tensors `blk.0.attn_q.weight.lora_a` (r, n) and `.lora_b` (m, r); lora_a of `token_embd` is transposed. One
number, `adapter.lora.alpha`, applies to all tensors: s = α/r of the tensor, or 1 if it is 0.
Gradience's own strict reader parses the header, because the `gguf` library memory-maps the file and trusts
its content.
Source: GGUF 3 (the page gguf.md of ggml); llama.cpp, convert_lora_to_gguf.py and llama-adapter.h.
"""

import math
import os
import re
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gradience.adapters.adapter import Adapter, Factor, LoraPair, of_one_file, paired, places_in, sort_tensors
from gradience.adapters.config import PeftConfig, is_alpha
from gradience.adapters.files import kept_open, refuse_placeholder
from gradience.adapters.locate import INDEX, WEIGHTS, listing, no_factors, single
from gradience.adapters.tensors import DTYPES, MAX_NAME, MAX_TENSORS, TensorEntry, TensorFile, Words
from gradience.errors import InputError, is_integer
from gradience.reading import pread

MAGIC = b"GGUF"
MAX_HEADER = 32 * 2**20
MAX_SETTINGS = 100_000
"""Settings, and values in one list of them."""
ALIGNMENT, MAX_ALIGNMENT = 32, 2**16
_TYPES = {0: DTYPES["F32"], 1: DTYPES["F16"], 28: DTYPES["F64"], 30: DTYPES["BF16"]}
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_FACTOR = re.compile(r"(?P<module>.+?)(\.weight)?\.lora_(?P<side>[ab])")
_HINT = "convert the adapter again with llama.cpp's convert_lora_to_gguf.py"
ARCHITECTURES = {"llama": True, "qwen2": False, "qwen3": False}
"""general.architecture -> True if rows of q and k are in another order than in transformers: those whose files were
compared with what llama.cpp's converter makes. In these, llama.cpp and transformers call the modules as follows."""
_IN_LAYERS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BESIDE = {"token_embd": "model.embed_tokens", "output": "lm_head"}


def llama_cpp_name(module: str) -> str | None:
    """Return what llama.cpp calls a module of Llama, Mistral, Qwen2 or Qwen3 in transformers; None if it has no name.

    >>> llama_cpp_name("model.layers.3.self_attn.q_proj")
    'blk.3.attn_q'
    """
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
    names, inner = (_IN_LAYERS, match[2]) if match else (_BESIDE, module)
    name = next((short for short, long in names.items() if long == inner), None)
    return f"blk.{match[1]}.{name}" if match and name else name


def heads_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many heads the rows of q and of k are, by a model's config.json: `q_proj`, `k_proj`."""
    heads = config.get("num_attention_heads")
    return {"q_proj": heads, "k_proj": config.get("num_key_value_heads") or heads}


def pairs_of_transformers(opened: Adapter, model_config: Mapping[str, Any] | None) -> dict[str, LoraPair]:
    """Return the pairs of a GGUF file by their names in transformers, rows of B in the order of transformers.

    Modules of another architecture keep llama.cpp's names.   model_config: config.json of the base, which says how many
    heads q and k have.   Raises InputError (no-model-config).
    """
    paired = ARCHITECTURES.get(opened.files[0].metadata.get("general.architecture", ""))
    pairs = {}
    for pair in opened.pairs:
        match = re.fullmatch(r"blk\.(\d+)\.(.+)", pair.module)
        inner = (
            (_IN_LAYERS.get(match[2]) if match else _BESIDE.get(pair.module)) if paired is not None else None
        )
        if inner is None:
            pairs[pair.module] = pair
            continue
        name = f"model.layers.{match[1]}.{inner}" if match else inner
        last = name.rpartition(".")[2]
        b = pair.b
        if paired and last in ("q_proj", "k_proj"):
            heads = heads_of(model_config or {})[last]
            if not is_integer(heads) or heads < 1 or pair.rows % (2 * heads):
                raise InputError(
                    f"{opened.location.path}: llama.cpp reorders the rows of {pair.module}, and the "
                    "number of heads is unknown",
                    code="no-model-config",
                    hint="put the base model's config.json beside the adapter it is compared with",
                )
            b = b.with_axes(b.entry.shape, partial(_in_halves, heads=heads))
        pairs[name] = replace(pair, module=name, b=b)
    return pairs


def _in_halves(words: Words, heads: int) -> Words:
    """Reorder each head's rows from llama.cpp's interleaved pairs to transformers' two halves."""
    return words.reshape(heads, len(words) // heads // 2, 2, -1).swapaxes(1, 2).reshape(words.shape)


def is_gguf(path: Path) -> bool:
    """Return True if `path` is a GGUF file, by its name."""
    if not os.path.isdir(path):
        return path.suffix.lower() == ".gguf"
    names = listing(path)
    return not {WEIGHTS, INDEX} & set(names) and any(name.lower().endswith(".gguf") for name in names)


def open_gguf(path: Path, name: str | None, stack: ExitStack) -> Adapter:
    """Open the GGUF LoRA at `path`. Raises InputError: bad-gguf, full-model, no-lora-tensors, several-adapters."""
    weights = single(path, name, lambda name: name.lower().endswith(".gguf"), "GGUF files")
    file, settings = _open_file(weights, path.parent if weights == path else path)
    stack.enter_context(file)
    kind, method = (str(settings.get(name))[:40] for name in ("general.type", "adapter.type"))
    if kind != "adapter":
        raise InputError(
            f"{weights}: a GGUF model, not an adapter (general.type is {kind!r})",
            code="full-model",
            hint="point at the GGUF file of the adapter, or at the PEFT adapter that it was converted from",
        )
    if method != "lora":
        raise InputError(
            f"{weights}: an adapter of the type {method!r}, not LoRA",
            code="other-method",
            hint="only LoRA adapters can be read",
        )
    alpha = settings.get("adapter.lora.alpha", 0.0)
    if not is_alpha(alpha):
        raise _bad(weights, f"adapter.lora.alpha is {str(alpha)[:40]}, not a usable number")
    places = places_in(file, _FACTOR, "a")
    if not places:
        raise no_factors(file.path, file.entries)

    def make(module: str, a: Factor, b: Factor) -> LoraPair | str:
        embedding = module.endswith("token_embd")
        if embedding and len(a.entry.shape) == 2:
            a = a.transposed()
        return paired(module, "embedding" if embedding else "linear", a, b, float(alpha or a.entry.shape[0]))

    def known(name: str) -> str | None:
        norm = "norm" in name and name.endswith((".weight", ".bias"))
        return "whole weights of a norm" if norm else None

    opened = of_one_file("gguf", path, file)
    opened.unwritable = "its modules have llama.cpp's names, which PEFT cannot match"
    sort_tensors(opened, places, make, known)
    rank = max((pair.rank for pair in opened.pairs), default=None)
    opened.config = PeftConfig(weights, {}, r=rank, lora_alpha=float(alpha) or rank)
    return opened


# ---------------------------------------------------------------- the file


class _Reader:
    """Reads values from the header, and reports the offset if it ends early."""

    def __init__(self, path: Path, text: bytes) -> None:
        self.path, self.text, self.at = path, text, 0

    def numbers(self, form: str) -> tuple[Any, ...]:
        size = struct.calcsize("<" + form)
        if self.at + size > len(self.text):
            raise _bad(
                self.path, f"its header ends at byte {len(self.text):,}, or is longer than {MAX_HEADER:,}"
            )
        values = struct.unpack_from("<" + form, self.text, self.at)
        self.at += size
        return values

    def string(self, most: int = MAX_HEADER) -> str:
        (length,) = self.numbers("Q")
        if length > most:
            raise _bad(self.path, f"a name of {length:,} bytes (at most {most:,} are read)")
        (raw,) = self.numbers(f"{length}s")
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise _bad(self.path, "a name that is not UTF-8") from None

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.string()
        if kind in _SCALARS:
            return self.numbers(_SCALARS[kind])[0]
        if kind != _ARRAY or depth > 1:
            raise _bad(self.path, f"a setting of the unknown type {kind}")
        inner, length = self.numbers("IQ")
        if inner in _SCALARS:
            if length > MAX_HEADER:
                raise _bad(self.path, f"a setting with {length:,} values")
            self.at += length * struct.calcsize("<" + _SCALARS[inner])
            return None  # no list of numbers says anything about a LoRA
        if length > MAX_SETTINGS:
            raise _bad(self.path, f"a setting with {length:,} values (at most {MAX_SETTINGS:,} are read)")
        return [self.value(inner, depth + 1) for _ in range(length)]


def _open_file(path: Path, root: Path) -> tuple[TensorFile, Mapping[str, Any]]:
    """Open and check the header. Raises InputError (bad-gguf, and what `open_regular` raises)."""
    with kept_open(path, root) as handle:
        size = os.fstat(handle).st_size
        text = pread(handle, min(size, MAX_HEADER), 0, path)
        refuse_placeholder(path, text[:1024])
        reader = _Reader(path, text)
        (magic,) = reader.numbers("4s")
        if magic != MAGIC:
            raise _bad(path, "it does not start with GGUF")
        version, tensors, count = reader.numbers("IQQ")
        if version not in (2, 3):
            raise _bad(path, f"version {version:,} of GGUF (2 and 3 are read, in little-endian order)")
        if tensors > MAX_TENSORS or count > MAX_SETTINGS:
            raise _bad(path, f"{tensors:,} tensors and {count:,} settings, more than are read")
        settings: dict[str, Any] = {}
        for _ in range(count):
            name = reader.string(MAX_NAME)
            if name in settings:
                raise _bad(path, f"the setting {name[:80]!r} twice")
            settings[name] = reader.value(*reader.numbers("I"))
        described: dict[str, tuple[tuple[int, ...], int, int]] = {}
        """Name -> shape, type, offset."""
        for _ in range(tensors):
            name = reader.string(MAX_NAME)
            (dimensions,) = reader.numbers("I")
            if dimensions > 4 or name in described:
                raise _bad(path, f"tensor {name[:80]!r} twice, or of more than 4 dimensions")
            sides = reader.numbers(f"{dimensions}Q")
            described[name] = (sides[::-1], *reader.numbers("IQ"))
        alignment = settings.get("general.alignment", ALIGNMENT)
        if not (type(alignment) is int and 0 < alignment <= MAX_ALIGNMENT):
            raise _bad(path, "general.alignment is not a usable number")
        start = -(-reader.at // alignment) * alignment
        entries = {}
        for name, (shape, kind, offset) in described.items():
            dtype, params = _TYPES.get(kind), math.prod(shape)
            if dtype is None:
                entries[name] = TensorEntry(replace(DTYPES["U8"], name=f"ggml type {kind}"), shape, start, 0)
                continue
            stored = params * dtype.bits // 8
            if start + offset + stored > size:
                raise _bad(path, f"tensor {name[:80]!r} is beyond the end of the file")
            entries[name] = TensorEntry(dtype, shape, start + offset, stored)
        ordered = dict(sorted(entries.items(), key=lambda item: item[1].start))
        metadata = {"general.architecture": str(settings.get("general.architecture"))}
        return TensorFile(path, handle, size, ordered, metadata), settings


def _bad(path: Path, problem: str) -> InputError:
    return InputError(f"{path}: {problem}", code="bad-gguf", hint=_HINT)
