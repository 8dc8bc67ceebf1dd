"""PEFT's form: every tensor under the name by which PEFT finds it, bytes as they are stored, and the config.

Tensors that have PEFT's shapes are copied. Those of another format are turned: A (r, n), B (m, r).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gradience.adapters.adapter import Adapter, Factor, LoraPair
from gradience.adapters.headers import NewTensor
from gradience.adapters.inventory import GHOST_REASON, SkippedTensor
from gradience.adapters.keys import parse_key
from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.adapters.naming import factor_name, peft_name
from gradience.adapters.tensors import TensorFile
from gradience.compress.reconfigure import require_config, write_config
from gradience.compress.weights import WeightsWriter, pieces
from gradience.convert.written import Written
from gradience.errors import InputError


class _Tensor(NamedTuple):
    old: str
    new: str
    header: NewTensor
    pieces: Callable[[], Iterable[bytes | bytearray]]


def write_peft(opened: Adapter, folder: Path) -> Written:
    """Write adapter_config.json and adapter_model.safetensors, and return what was written.

    Raises InputError: no-config, same-tensor, not-in-peft.
    """
    config = require_config(opened)
    left_out = tuple(note for note in opened.other if _of_another(opened, note))
    tensors: dict[str, _Tensor] = {}
    for tensor in _tensors(opened, {note.tensor for note in left_out}):
        if tensor.new in tensors:
            raise InputError(
                f"{opened.location.path}: {tensors[tensor.new].old[:80]!r} and {tensor.old[:80]!r} are one to PEFT",
                code="same-tensor",
                hint="name one of several adapters with --adapter, or save it again with PEFT",
            )
        tensors[tensor.new] = tensor
    headers = {name: tensor.header for name, tensor in tensors.items()}
    with WeightsWriter(folder / WEIGHTS, headers, {"format": "pt"}) as writer:
        for name in writer.names:
            for piece in tensors[name].pieces():
                writer.put(piece)
        digest = writer.close()
    write_config(folder / CONFIG, config.fields)
    renamed = sum(tensor.old != tensor.new for tensor in tensors.values())
    return Written(digest, writer.size, len(tensors), renamed, left_out)


def _of_another(opened: Adapter, note: SkippedTensor) -> bool:
    """A copy that PEFT does not read, or a tensor of another adapter in the same file."""
    return note.reason == GHOST_REASON or parse_key(note.tensor).adapter not in (None, opened.adapter_name)


def _tensors(opened: Adapter, without: set[str]) -> Iterator[_Tensor]:
    factors = set()
    for pair in opened.pairs:
        for side, factor in (("A", pair.a), ("B", pair.b)):
            factors.add(factor.tensor)
            if parse_key(factor.tensor).role == "other":
                yield _turned(opened, pair, factor, is_a=side == "A")
            else:
                yield _copied(factor.file, factor.tensor, peft_name(factor.tensor, opened.adapter_name))
    for file in opened.files:
        for name in file.entries:
            if name not in factors and name not in without:
                yield _copied(file, name, peft_name(name, opened.adapter_name))


def _copied(file: TensorFile, name: str, new: str) -> _Tensor:
    entry = file.entries[name]
    return _Tensor(name, new, NewTensor(entry.dtype.name, entry.shape), partial(pieces, file, name))


def _turned(opened: Adapter, pair: LoraPair, factor: Factor, *, is_a: bool) -> _Tensor:
    """A factor of another format, as PEFT stores that of a linear layer. Raises InputError (not-in-peft)."""
    if pair.kind != "linear":
        raise InputError(
            f"{opened.location.path}: {pair.module} is no linear layer: of this format only those are written",
            code="not-in-peft",
            hint="`gradience audit` reads it as it is",
        )

    def data() -> Iterator[bytes]:
        loaded = pair.load()
        yield np.ascontiguousarray(loaded.words_A().T if is_a else loaded.words_B()).tobytes()

    shape = (pair.rank, pair.columns) if is_a else (pair.rows, pair.rank)
    new = factor_name(factor.tensor, pair.module, pair.kind, "A" if is_a else "B")
    return _Tensor(factor.tensor, new, NewTensor(factor.entry.dtype.name, shape), data)
