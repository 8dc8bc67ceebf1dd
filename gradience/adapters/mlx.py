"""An adapter of MLX-LM: `adapters.safetensors`, a numbered checkpoint, or an old `adapters.npz`.

`lora_a` is (n, r) and `lora_b` (r, m): both are transposed relative to PEFT's, and ΔW = scale·(lora_a·lora_b)ᵀ.
Experts of one layer are stacked: lora_a (E, r, n), once (E·r, n), and lora_b (E, m, r). The scale is absolute, in
`lora_parameters` of adapter_config.json, a file with PEFT's name and different fields.
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
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradience.adapters.adapter import (
    DORA_REASON,
    Adapter,
    Factor,
    LoraPair,
    Place,
    mismatch,
    paired,
    sort_tensors,
)
from gradience.adapters.config import MAX_RANK, PeftConfig, is_alpha, is_rank
from gradience.adapters.files import kept_open, refuse_disguise, refuse_placeholder
from gradience.adapters.foreign import no_factors
from gradience.adapters.keys import Kind
from gradience.adapters.locate import CONFIG, INDEX, WEIGHTS, Location, listing, single, sniff
from gradience.adapters.tensors import (
    DTYPES,
    MAX_DIMENSIONS,
    MAX_NAME,
    MAX_TENSORS,
    TensorEntry,
    TensorFile,
)
from gradience.errors import InputError
from gradience.files import strict_json
from gradience.reading import MAX_SETTINGS_BYTES, pread, read_file

FINAL = ("adapters.safetensors", "adapters.npz")
"""Names of the weights after training; `0000100_adapters.safetensors` is a checkpoint."""
_CHECKPOINT = re.compile(r"\d{1,12}_adapters\.(safetensors|npz)")
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[ab])")
_EMBEDDINGS = frozenset(
    ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embedding", "embeddings")
)
HINT = "save the adapter again with mlx-lm"


def is_mlx(path: Path) -> bool:
    """Return True if MLX-LM weights are at `path`, judged by file names, the config beside them or the tensor
    names.
    """
    if os.path.isdir(path):
        peft = any(os.path.lexists(path / name) for name in (WEIGHTS, INDEX))
        return not peft and any(map(_are_weights(path), listing(path)))
    if path.name in FINAL or _CHECKPOINT.fullmatch(path.name) or path.suffix == ".npz":
        return True
    return any(_FACTOR.fullmatch(name) for name in sniff(path).shapes)


def _are_weights(folder: Path) -> Callable[[str], object]:
    """Return a test for the names of the final weight files, or of a checkpoint's if there are no final
    ones.
    """
    final = next((name for name in FINAL if os.path.lexists(folder / name)), None)
    return _CHECKPOINT.fullmatch if final is None else lambda name: name == final


def open_mlx(path: Path, adapter: str | None) -> Adapter:
    """Open the adapter at `path`; weights without a config have no scale.

    Raises InputError: several-adapters, no-such-adapter, bad-config, full-model, no-lora-tensors, bad-archive, and what
    `tensors` raises.
    """
    fits = _CHECKPOINT.fullmatch if adapter and _CHECKPOINT.fullmatch(adapter) else _are_weights(path)
    weights = single(path, adapter, fits, "checkpoints of MLX-LM")
    beside = weights.parent / CONFIG
    location = Location(path, weights.parent, (weights,), beside if os.path.lexists(beside) else None)
    settings = read_settings(location) if location.config else None
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
        modules = {place.module for place in places.values()}

        def make(module: str, a: Factor, b: Factor) -> LoraPair | str:
            pair = _pair(module, a, b)
            if isinstance(pair, str) or scale is None:
                return pair
            return replace(pair, alpha=scale * pair.rank, scale=scale)

        def known(name: str) -> str | None:
            module, _, last = name.rpartition(".")
            return DORA_REASON if last == "m" and module in modules else None

        sort_tensors(opened, places, make, known)
        # What the same factors in PEFT's names would not say.
        stacked = next((pair.module for pair in opened.pairs if pair.kind == "expert"), None)
        if stacked is not None:
            only = "which PEFT reads only by the names of the base's parameters"
            opened.unwritable = f"{stacked} holds experts in one tensor, {only}"
        elif opened.other:
            opened.unwritable = "its DoRA magnitudes are supported only in PEFT's format"
        if location.config is not None and settings is not None:
            opened.config = _as_peft(location.config, settings, opened, scale)
        opened.stack = stack.pop_all()
        return opened


def _pair(module: str, a: Factor, b: Factor) -> LoraPair | str:
    """The pair of lora_a and lora_b, as PEFT has it."""
    shape_a, shape_b = a.entry.shape, b.entry.shape
    if len(shape_b) == 3:
        experts, rows, rank = shape_b
        columns = shape_a[-1]
        if math.prod(shape_a[:-1]) != experts * rank or len(shape_a) > 3:
            return mismatch(a, b)
        flat = a.turned((experts * rank, columns), lambda words: words.reshape(experts * rank, columns))
        last = b.turned((rows, rank * experts), lambda words: words.transpose(1, 2, 0))  # (m, r, E), a view
        return LoraPair(module, "expert", flat, last, rank, rows, columns, experts=experts)
    if len(shape_a) != 2 or len(shape_b) != 2:
        return f"factors of {list(shape_a)} and {list(shape_b)}: not a layer that MLX-LM adapts"
    kind: Kind = "embedding" if module.rpartition(".")[2] in _EMBEDDINGS else "linear"
    pair = paired(module, kind, a.transposed(), b.transposed())
    return mismatch(a, b) if isinstance(pair, str) else pair


def read_settings(location: Location) -> Mapping[str, Any]:
    """Return the config beside the weights; empty if there is none. Raises InputError (bad-config,
    full-model).
    """
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
            f"{path}: a PEFT config beside MLX-LM weights: one of the two is misplaced",
            code="bad-config",
            hint="put the adapter_config.json that mlx-lm wrote beside the weights",
        )
    if fields.get("fine_tune_type", "lora") not in ("lora", "dora"):
        raise InputError(
            f"{path}: fine_tune_type is {str(fields['fine_tune_type'])[:40]!r}: full weights, without LoRA factors",
            code="full-model",
            hint="point at an adapter that was trained with fine_tune_type lora or dora",
        )
    return fields


def _bad(path: Path | None, problem: str) -> InputError:
    return InputError(f"{path}: {problem}", code="bad-config", hint=HINT)


def _scale(path: Path | None, fields: Mapping[str, Any]) -> float | str:
    """Return the factor of B·A, or the reason why the config does not determine it.

    mlx-lm multiplied by scale·alpha/rank up to 0.14.1, and by scale only from 0.14.2 on, whatever alpha its
    config has. This was confirmed by running the layers of 0.12.1 to 0.19.0. The config keys did not change
    with it. Configs from 0.19.0 on have fine_tune_type and num_layers.
    """
    settings = fields.get("lora_parameters", {})
    scale, alpha, rank = (settings.get(name) for name in ("scale", "alpha", "rank"))
    if scale is None:
        return "the config has no lora_parameters.scale"
    if not is_alpha(scale):
        raise _bad(path, f"lora_parameters.scale is {str(scale)[:40]}, not a usable number")
    if rank is not None and not is_rank(rank):
        raise _bad(path, f"lora_parameters.rank is {str(rank)[:40]}, not an integer from 1 to {MAX_RANK}")
    if {"fine_tune_type", "num_layers"} & fields.keys() or alpha is None or alpha == rank:
        return float(scale)
    return (
        f"scale {scale:g}, alpha {str(alpha)[:40]} and rank {rank}: mlx-lm up to 0.14.1 multiplies by "
        "scale·alpha/rank, 0.14.2 and later only by scale, and the config does not show which version trained it"
    )


def _as_peft(path: Path, fields: Mapping[str, Any], opened: Adapter, scale: float | None) -> PeftConfig:
    """The settings in PEFT's words, with which the same update is written in PEFT's format."""
    rank = max((pair.rank for pair in opened.pairs), default=None)
    alpha = None if scale is None or rank is None else scale * rank
    dora = fields.get("fine_tune_type") == "dora" or any(note.reason == DORA_REASON for note in opened.other)
    base = fields.get("model") if isinstance(fields.get("model"), str) else None
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


# ---------------------------------------------------------------- arrays of an .npz archive


MAX_DIRECTORY = 32 * 2**20
"""Bytes of the list of members, as of a safetensors header."""
_LOCAL, _END = 30, 22
_MEMBER = 1024
"""Bytes of a member that are looked at: an array of 8 dimensions has a header of at most 256."""
_ARRAY = re.compile(
    rb"\{'descr': '(?P<descr>[<>|=]?[A-Za-z]\d{0,2})', 'fortran_order': (?P<fortran>True|False),"
    rb" 'shape': \((?P<shape>(?:\d{1,19}, ?)*(?:\d{1,19})?)\),? ?\} *\n?"
)
"""The dtype header that numpy and mlx write. numpy itself would evaluate it as Python."""
_NPZ_TYPES = {"f8": "F64", "f4": "F32", "f2": "F16", "V2": "BF16", "i8": "I64", "i4": "I32", "i2": "I16", "i1": "I8",
          "u8": "U64", "u4": "U32", "u2": "U16", "u1": "U8", "b1": "BOOL"}  # fmt: skip
"""numpy's names; mlx stores bfloat16, which numpy does not know, as words of two bytes without a type."""


def open_npz(path: Path, *, root: Path | None = None) -> TensorFile:
    """Open an .npz archive of stored arrays. Close it with `with`.

    `numpy.savez` and `mlx.core.savez` store their members as they are, so each array is a range of bytes of the
    archive, and nothing is unpacked. Compressed members are refused: their true size is unknown beforehand.
    Format: a zip archive of .npy files; numpy, lib/format.py.
    Raises InputError: bad-archive, unknown-dtype, and what `open_regular` raises.
    """
    with kept_open(path, root) as handle:
        size = os.fstat(handle).st_size
        refuse_placeholder(path, pread(handle, min(size, 1024), 0, path))
        # The length of the list of members is looked at before it is read.
        tail = pread(handle, min(size, _END + 2**16), max(0, size - _END - 2**16), path)
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
        if len({info.filename.removesuffix(".npy") for info in members}) != len(members):
            raise _bad_archive(path, "two of its members have one name")
        entries = {
            info.filename.removesuffix(".npy"): _npz_entry(path, handle, info, size) for info in members
        }
        ordered = dict(sorted(entries.items(), key=lambda item: item[1].start))
        return TensorFile(path, handle, size, ordered, {})


def _npz_entry(path: Path, handle: int, info: zipfile.ZipInfo, size: int) -> TensorEntry:
    """Return the entry for one array, with its file offset. Raises InputError."""
    name = repr(info.filename[:200])
    if len(info.filename) > MAX_NAME:
        raise _bad_archive(path, f"a member with a name of {len(info.filename):,} characters")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
        raise _bad_archive(path, f"{name} is compressed or encrypted, and only stored arrays are read")
    if not 0 <= info.header_offset <= size - _LOCAL:
        raise _bad_archive(path, f"{name} is outside the file")
    head = pread(handle, _LOCAL, info.header_offset, path)
    named, extra = struct.unpack_from("<HH", head, 26)
    start = info.header_offset + _LOCAL + named + extra
    if not head.startswith(b"PK\x03\x04") or start + info.file_size > size:
        raise _bad_archive(path, f"{name} is not at the offset given in the archive index")
    text = pread(handle, min(info.file_size, _MEMBER), start, path)
    begin = 10 if text[6:7] == b"\1" else 12
    offset = begin + int.from_bytes(text[8:begin], "little")
    array = _ARRAY.fullmatch(text[begin:offset])
    plain = text.startswith(b"\x93NUMPY") and text[6:7] in (b"\1", b"\2", b"\3") and len(text) >= offset
    if not plain or array is None:
        raise _bad_archive(path, f"{name} is not a numpy array of numbers")
    descr = array["descr"].decode()
    stored = _NPZ_TYPES.get(descr.lstrip("<|"))
    if stored is None:
        raise InputError(
            f"{path}: {name} has the type {descr!r}, which is not supported",
            code="unknown-dtype",
            hint="save it as float32, float16 or bfloat16, little-endian",
        )
    shape = tuple(int(side) for side in re.findall(rb"\d+", array["shape"]))
    if len(shape) > MAX_DIMENSIONS:
        raise _bad_archive(path, f"{name} has a shape of {len(shape)} dimensions that is not read")
    if array["fortran"] == b"True" and len(shape) > 1:
        raise _bad_archive(path, f"{name} is stored column by column (Fortran order)")
    length = math.prod(shape) * DTYPES[stored].bits // 8
    if offset + length != info.file_size:
        held = info.file_size - offset
        raise _bad_archive(path, f"{name} has {held:,} bytes, its shape {list(shape)} needs {length:,}")
    return TensorEntry(DTYPES[stored], shape, start + offset, length)


def _bad_archive(path: Path, problem: str) -> InputError:
    return InputError(
        f"{path}: {problem}", code="bad-archive", hint="download it again, or save it with numpy.savez"
    )
