"""An adapter of MLX-LM: `adapters.safetensors`, a numbered checkpoint, or an old `adapters.npz`.

`lora_a` is (n, r) and `lora_b` (r, m): both lie transposed against PEFT's, and ΔW = scale·(lora_a·lora_b)ᵀ. Experts of
one layer are stacked: lora_a (E, r, n), once (E·r, n), and lora_b (E, m, r). The scale is absolute and stands in
`lora_parameters` of adapter_config.json, a file with PEFT's name and other fields.
Source: mlx-lm 0.32.2, tuner/lora.py, tuner/dora.py and tuner/utils.py; 0.0.14 to 0.21 for what is old.
"""

from __future__ import annotations

import math
import os
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gradience.adapters import strict_json
from gradience.adapters.adapter import (
    DORA_REASON,
    Adapter,
    Factor,
    LoraPair,
    Place,
    SkippedTensor,
    add_pairs,
    mismatch,
    shape_of,
)
from gradience.adapters.config import MAX_RANK, PeftConfig, is_alpha, is_rank
from gradience.adapters.files import refuse_disguise, refuse_placeholder
from gradience.adapters.foreign import no_factors
from gradience.adapters.keys import Kind
from gradience.adapters.locate import CONFIG, INDEX, WEIGHTS, Location, listing, single, sniff
from gradience.adapters.tensors import (
    DTYPES,
    MAX_DIMENSIONS,
    MAX_NAME,
    MAX_TENSORS,
    DType,
    TensorEntry,
    TensorFile,
    Words,
)
from gradience.errors import InputError
from gradience.reading import MAX_SETTINGS_BYTES, open_regular, pread, read_file

FINAL = ("adapters.safetensors", "adapters.npz")
"""Names of the weights after training; `0000100_adapters.safetensors` is a checkpoint."""
_CHECKPOINT = re.compile(r"\d{1,12}_adapters\.(safetensors|npz)")
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[ab])")
_EMBEDDINGS = frozenset(
    ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embedding", "embeddings")
)
HINT = "save the adapter again with mlx-lm"


def is_mlx(path: Path) -> bool:
    """Whether MLX-LM's weights lie at `path`: by their names, by the config beside them, by the tensors of a file."""
    if os.path.isdir(path):
        return not any(os.path.lexists(path / name) for name in (WEIGHTS, INDEX)) and any(
            map(_are_weights(path), listing(path))
        )
    if path.name in FINAL or _CHECKPOINT.fullmatch(path.name) or path.suffix == ".npz":
        return True
    return any(_FACTOR.fullmatch(name) for name in sniff(path).shapes)


def open_mlx(path: Path, adapter: str | None) -> Adapter:
    """Open the adapter at `path`; weights without a config have no scale.

    Raises InputError: several-adapters, no-such-adapter, bad-config, full-model, no-lora-tensors, and what `tensors`
    and `npz` raise.
    """
    location = _locate(path, adapter)
    settings = read_settings(location) if location.config else None
    weights = location.weights[0]
    with ExitStack() as stack:
        reader = open_npz if weights.suffix == ".npz" else TensorFile.open
        file = stack.enter_context(reader(weights, root=location.root))
        places = {
            name: Place(match["module"], "A" if match["side"] == "a" else "B")
            for name in file.entries
            if (match := _FACTOR.fullmatch(name))
        }
        if not places:
            raise no_factors(weights, file.entries)
        scale = None if settings is None else _scale(location.config, settings)
        opened = Adapter("mlx", location, None, [file], None)
        if isinstance(scale, str):
            scale, opened.no_scale = None, scale
        tensors = {name: (file, entry) for name, entry in file.entries.items()}
        add_pairs(opened, tensors, places, lambda module, a, b: _pair(module, a, b, scale))
        for name, entry in file.entries.items():
            if name not in places:
                module, _, last = name.rpartition(".")
                known = last == "m" and any(place.module == module for place in places.values())
                note = SkippedTensor(name, DORA_REASON if known else "unknown tensor", entry.params)
                (opened.other if known else opened.unaudited).append(note)
        opened.unwritable = _unwritable(opened)
        if settings is not None:
            opened.config = _as_peft(location.config, settings, opened, scale)
        opened.stack = stack.pop_all()
        return opened


# ---------------------------------------------------------------- where it lies


def _are_weights(folder: Path) -> Callable[[str], object]:
    """Whether a name in the folder is that of its final weights; of a checkpoint, where there are none."""
    final = next((name for name in FINAL if os.path.lexists(folder / name)), None)
    return _CHECKPOINT.fullmatch if final is None else lambda name: name == final


def _locate(path: Path, adapter: str | None) -> Location:
    fits = _CHECKPOINT.fullmatch if adapter and _CHECKPOINT.fullmatch(adapter) else _are_weights(path)
    weights = single(path, adapter, fits, "checkpoints of MLX-LM")
    config = weights.parent / CONFIG
    return Location(path, weights.parent, (weights,), config if os.path.lexists(config) else None)


# ---------------------------------------------------------------- what it says


def read_settings(location: Location) -> Mapping[str, Any]:
    """The config beside the weights; empty where there is none. Raises InputError (bad-config, full-model)."""
    path = location.config
    if path is None:
        return {}
    text = read_file(path, MAX_SETTINGS_BYTES, root=location.root)
    refuse_disguise(path, text[:1024])
    fields = strict_json.loads(text, path, path.name)
    if not isinstance(fields, dict) or not isinstance(fields.get("lora_parameters", {}), dict):
        raise _bad(path, "it is not a JSON object with an object lora_parameters")
    if "peft_type" in fields:
        raise InputError(
            f"{path}: a config of PEFT beside weights of MLX-LM: one of the two belongs elsewhere",
            code="bad-config",
            hint="put the adapter_config.json that mlx-lm wrote beside the weights",
        )
    if fields.get("fine_tune_type", "lora") not in ("lora", "dora"):
        raise InputError(
            f"{path}: fine_tune_type is {str(fields['fine_tune_type'])[:40]!r}: whole weights and no LoRA factors",
            code="full-model",
            hint="point at an adapter that was trained with fine_tune_type lora or dora",
        )
    return fields


def _bad(path: Path | None, what: str) -> InputError:
    return InputError(f"{path}: {what}", code="bad-config", hint=HINT)


def _scale(path: Path | None, fields: Mapping[str, Any]) -> float | str:
    """Return the factor of B·A, or the reason why the config does not determine it.

    mlx-lm multiplied by scale·alpha/rank up to 0.14.1 and by scale alone from 0.14.2 on, whatever alpha its config has:
    the layers of 0.12.1 to 0.19.0 were run. The keys of its configs did not change with that. Configs from 0.19.0 on
    have fine_tune_type and num_layers.
    """
    settings = fields.get("lora_parameters", {})
    scale, alpha, rank = (settings.get(name) for name in ("scale", "alpha", "rank"))
    if scale is None:
        return "the config has no lora_parameters.scale"
    if not is_alpha(scale):
        raise _bad(path, f"lora_parameters.scale is {str(scale)[:40]}, not a number of a usable size")
    if rank is not None and not is_rank(rank):
        raise _bad(path, f"lora_parameters.rank is {str(rank)[:40]}, not an integer from 1 to {MAX_RANK}")
    if {"fine_tune_type", "num_layers"} & fields.keys() or alpha is None or alpha == rank:
        return float(scale)
    return (
        f"scale {scale:g}, alpha {str(alpha)[:40]} and rank {rank}: mlx-lm up to 0.14.1 multiplies by "
        "scale·alpha/rank, 0.14.2 and later by scale alone, and the config does not tell which of them trained it"
    )


def _as_peft(
    path: Path | None, fields: Mapping[str, Any], opened: Adapter, scale: float | None
) -> PeftConfig:
    """The settings in PEFT's words, with which the same update is written in PEFT's format."""
    assert path is not None
    rank = max((pair.rank for pair in opened.pairs), default=None)
    alpha = None if scale is None or rank is None else scale * rank
    dora = fields.get("fine_tune_type") == "dora" or any(note.reason == DORA_REASON for note in opened.other)
    model = fields.get("model")
    base = model if isinstance(model, str) else None
    targets = [pair.module for pair in opened.pairs]
    written = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "use_dora": dora,
        "bias": "none",
        "target_modules": targets,
    }
    return PeftConfig(
        path, written, r=rank, lora_alpha=alpha, use_dora=dora, target_modules=tuple(targets), base_model=base
    )


def _unwritable(opened: Adapter) -> str | None:
    """What the same factors in PEFT's names would not say."""
    stacked = next((pair.module for pair in opened.pairs if pair.kind == "expert"), None)
    if stacked is not None:
        return f"{stacked} holds experts in one tensor, which PEFT reads only by the names of the base's parameters"
    return "its DoRA magnitudes are kept in PEFT's format alone" if opened.other else None


# ---------------------------------------------------------------- the factors


def _transposed(words: Words) -> Words:
    return words.T


def _output_first(words: Words) -> Words:
    """lora_b of experts, (E, m, r), as (m, r, E): a view."""
    return words.transpose(1, 2, 0)


def _pair(module: str, a: Factor, b: Factor, scale: float | None) -> LoraPair | str:
    if len(b.entry.shape) == 3:
        return _expert_pair(module, a, b, scale)
    if len(a.entry.shape) != 2 or len(b.entry.shape) != 2:
        return f"factors of {list(a.entry.shape)} and {list(b.entry.shape)}: not a layer that MLX-LM adapts"
    kind: Kind = "embedding" if module.rpartition(".")[2] in _EMBEDDINGS else "linear"
    turned_A, turned_B = (factor.turned(factor.entry.shape[::-1], _transposed) for factor in (a, b))
    shape = shape_of(kind, turned_A, turned_B)
    if isinstance(shape, str):
        return mismatch(a, b)
    alpha = None if scale is None else scale * shape.rank
    return LoraPair(
        module,
        shape.kind,
        turned_A,
        turned_B,
        shape.rank,
        shape.rows,
        shape.columns,
        alpha=alpha,
        scale=scale,
    )


def _expert_pair(module: str, a: Factor, b: Factor, scale: float | None) -> LoraPair | str:
    experts, rows, rank = b.entry.shape
    columns = a.entry.shape[-1]
    if math.prod(a.entry.shape[:-1]) != experts * rank or len(a.entry.shape) > 3:
        return mismatch(a, b)
    flat_A = a.turned((experts * rank, columns), lambda words: words.reshape(experts * rank, columns))
    last_B = b.turned((rows, rank * experts), _output_first)
    alpha = None if scale is None else scale * rank
    return LoraPair(
        module, "expert", flat_A, last_B, rank, rows, columns, experts=experts, alpha=alpha, scale=scale
    )


MAX_DIRECTORY = 32 * 2**20
"""Bytes of the list of members, as of a safetensors header."""
_LOCAL, _END = 30, 22
_MEMBER = 1024
"""Bytes of a member that are looked at: an array of 8 dimensions has a header of at most 256."""
_ARRAY = re.compile(
    rb"\{'descr': '(?P<descr>[<>|=]?[A-Za-z]\d{0,2})', 'fortran_order': (?P<fortran>True|False),"
    rb" 'shape': \((?P<shape>(?:\d{1,19}, ?)*(?:\d{1,19})?)\),? ?\} *\n?"
)
"""What numpy and mlx write; numpy itself would evaluate it as Python."""
_NPZ_TYPES = {"f8": "F64", "f4": "F32", "f2": "F16", "V2": "BF16", "i8": "I64", "i4": "I32", "i2": "I16", "i1": "I8",
          "u8": "U64", "u4": "U32", "u2": "U16", "u1": "U8", "b1": "BOOL"}  # fmt: skip
"""numpy's names; mlx stores bfloat16, which numpy does not know, as words of two bytes without a type."""


def open_npz(path: Path, *, root: Path | None = None) -> TensorFile:
    """Open an .npz archive of stored arrays. Close it with `with`.

    Raises InputError: bad-archive, unknown-dtype, and what `open_regular` raises.
    """
    handle = open_regular(path, root=root)
    try:
        size = os.fstat(handle).st_size
        refuse_placeholder(path, bytes(pread(handle, min(size, 1024), 0, path)))
        entries = {
            info.filename.removesuffix(".npy"): _npz_entry(path, handle, info, size)
            for info in _members(path, handle, size)
        }
    except BaseException:  # Ctrl-C as well: nobody else knows the handle yet
        os.close(handle)
        raise
    ordered = dict(sorted(entries.items(), key=lambda item: item[1].start))
    return TensorFile(path, handle, size, ordered, {})


def _bad_archive(path: Path, what: str) -> InputError:
    return InputError(
        f"{path}: {what}", code="bad-archive", hint="download it again, or save it with numpy.savez"
    )


def _members(path: Path, handle: int, size: int) -> list[zipfile.ZipInfo]:
    """The archive's list of members, whose length is looked at before it is read."""
    tail = bytes(pread(handle, min(size, _END + 2**16), max(0, size - _END - 2**16), path))
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + _END:
        raise _bad_archive(path, "not a zip archive, or one that is cut off")
    length = struct.unpack_from("<I", tail, end + 12)[0]
    if length > MAX_DIRECTORY:
        raise _bad_archive(
            path, f"its list of members has {length:,} bytes (at most {MAX_DIRECTORY:,} are read)"
        )
    try:
        with os.fdopen(os.dup(handle), "rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
        raise _bad_archive(path, f"its list of members cannot be read: {error}") from None
    if len(members) > MAX_TENSORS:
        raise _bad_archive(path, f"{len(members):,} members (at most {MAX_TENSORS:,} are read)")
    names = [info.filename.removesuffix(".npy") for info in members]
    if len(set(names)) != len(names):
        raise _bad_archive(path, "two of its members have one name")
    return members


def _npz_entry(path: Path, handle: int, info: zipfile.ZipInfo, size: int) -> TensorEntry:
    """Where one array lies. Raises InputError."""
    name = repr(info.filename[:200])
    if len(info.filename) > MAX_NAME:
        raise _bad_archive(path, f"a member with a name of {len(info.filename):,} characters")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
        raise _bad_archive(path, f"{name} is compressed or encrypted, and only stored arrays are read")
    if not 0 <= info.header_offset <= size - _LOCAL:
        raise _bad_archive(path, f"{name} lies outside of the file")
    head = bytes(pread(handle, _LOCAL, info.header_offset, path))
    named, extra = struct.unpack_from("<HH", head, 26)
    start = info.header_offset + _LOCAL + named + extra
    if not head.startswith(b"PK\x03\x04") or start + info.file_size > size:
        raise _bad_archive(path, f"{name} does not lie where the list of members says")
    text = bytes(pread(handle, min(info.file_size, _MEMBER), start, path))
    array = _array_header(text)
    if array is None:
        raise _bad_archive(path, f"{name} is not a numpy array of numbers")
    descr, fortran, shape, offset = array
    stored = _stored_type(path, name, descr)
    if len(shape) > MAX_DIMENSIONS:
        raise _bad_archive(path, f"{name} has a shape of {len(shape)} dimensions that is not read")
    if fortran and len(shape) > 1:
        raise _bad_archive(path, f"{name} is stored column by column (Fortran order)")
    length = math.prod(shape) * stored.bits // 8
    if offset + length != info.file_size:
        raise _bad_archive(
            path,
            f"{name} has {info.file_size - offset:,} bytes, its shape {list(shape)} needs {length:,}",
        )
    return TensorEntry(stored, shape, start + offset, length)


def _array_header(text: bytes) -> tuple[str, bool, tuple[int, ...], int] | None:
    """Type, whether it is stored by columns, shape, and where the values begin; None for what is no plain array."""
    if not text.startswith(b"\x93NUMPY") or text[6:7] not in (b"\1", b"\2", b"\3"):
        return None
    begin = 10 if text[6] == 1 else 12
    length = int.from_bytes(text[8:begin], "little")
    match = _ARRAY.fullmatch(text[begin : begin + length])
    if match is None or len(text) < begin + length:
        return None
    sides = tuple(int(side) for side in re.findall(rb"\d+", match["shape"]))
    return match["descr"].decode(), match["fortran"] == b"True", sides, begin + length


def _stored_type(path: Path, name: str, descr: str) -> DType:
    known = _NPZ_TYPES.get(descr.lstrip("<|"))
    if known is None:
        raise InputError(
            f"{path}: {name} has the type {descr!r}, which is not read",
            code="unknown-dtype",
            hint="save it as float32, float16 or bfloat16, little-endian",
        )
    return DTYPES[known]
