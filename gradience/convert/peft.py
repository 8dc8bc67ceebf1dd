"""PEFT's form: every tensor under the name by which PEFT finds it, bytes as they are stored, and the config.

Tensors that have PEFT's shapes are copied. Those of another format are turned: A (r, n), B (m, r).
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gradience.adapters.adapter import Adapter, Factor
from gradience.adapters.config import PeftConfig
from gradience.adapters.diffusers import part_of
from gradience.adapters.keys import PREFIX, peft_name
from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.adapters.peft import fields_in_peft_order
from gradience.adapters.tensors import NewTensor, TensorFile, WeightsWriter, pieces
from gradience.compress.encodings import Target, encode_modules, require_config, write_config
from gradience.compress.layout import not_held, refuse_tied_embedding
from gradience.convert.forms import Written
from gradience.errors import InputError


class _Tensor(NamedTuple):
    old: str
    new: str
    header: NewTensor
    pieces: Callable[[], Iterable[bytes | bytearray]]


def write_peft(opened: Adapter, folder: Path, base: Path | None = None) -> Written:
    """Write adapter_config.json and adapter_model.safetensors, and return what was written.

    Raises InputError: no-config, same-tensor, not-in-format.
    """
    config = require_config(opened)
    if opened.unwritable is not None:
        raise not_held(
            opened,
            "PEFT LoRA",
            opened.unwritable,
            "audit and compare it as it is",
        )
    if opened.format == "mlx":
        refuse_tied_embedding(opened, "PEFT LoRA")
    left_out = tuple(note for note in opened.other if opened.is_foreign(note))
    tensors: dict[str, _Tensor] = {}
    for tensor in _tensors(opened, {note.tensor for note in left_out}):
        if tensor.new in tensors:
            raise InputError(
                f"{opened.location.path}: PEFT loads {tensors[tensor.new].old[:80]!r} and {tensor.old[:80]!r} as one",
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
    fields = config.fields or _fields(opened, config)
    if opened.packed("grouped_by_expert"):
        fields = {**fields, **fields_in_peft_order(fields)}
    write_config(folder / CONFIG, fields)
    renamed = sum(tensor.old != tensor.new for tensor in tensors.values())
    names = {pair.module: _inside(pair.module) for pair in opened.pairs if not opened.loads_in_peft}
    return Written(digest, writer.size, len(tensors), renamed, left_out, names)


def _inside(module: str) -> str:
    """The module without the part of a pipeline that diffusers puts before it."""
    part = part_of(module)
    return module if part is None else module.removeprefix(f"{part}.")


def _fields(opened: Adapter, config: PeftConfig) -> dict[str, Any]:
    """A config for factors that came without one of PEFT's."""
    targets = [Target(_inside(pair.module), pair.rank, opened.scale_of(pair)) for pair in opened.pairs]
    fields = {"peft_type": "LORA", "base_model_name_or_path": config.base_model, "bias": "none"}
    return {
        **fields,
        **encode_modules(targets, "patterns").fields,
        "target_modules": [t.name for t in targets],
    }


def _tensors(opened: Adapter, without: set[str]) -> Iterator[_Tensor]:
    factors = set()
    for pair in opened.pairs:
        for side, factor in pair.factors.items():
            factors.add(factor.tensor)
            if opened.loads_in_peft and factor.to_peft_axes is None:
                yield _copied(opened, factor.file, factor.tensor)
                continue
            if opened.loads_in_peft:  # experts in Unsloth's order
                new = peft_name(factor.tensor, opened.adapter_name)
            elif pair.kind == "expert":
                raise not_held(
                    opened,
                    "PEFT LoRA",
                    f"{pair.module} holds experts in one tensor, which PEFT reads only by the names of the base's "
                    "parameters",
                    "`gradience audit` and `gradience compress` take it as it is",
                )
            else:
                ending = f"lora_embedding_{side}" if pair.kind == "embedding" else f"lora_{side}.weight"
                new = f"{PREFIX}{_inside(pair.module)}.{ending}"
            header = NewTensor(factor.entry.dtype.name, factor.entry.shape)
            yield _Tensor(factor.tensor, new, header, partial(_words, factor))
    for file in opened.files:
        for name in file.entries:
            if opened.loads_in_peft and name not in factors and name not in without:
                yield _copied(opened, file, name)


def _copied(opened: Adapter, file: TensorFile, name: str) -> _Tensor:
    header = NewTensor(file.entries[name].dtype.name, file.entries[name].shape)
    return _Tensor(name, peft_name(name, opened.adapter_name), header, partial(pieces, file, name))


def _words(factor: Factor) -> Iterator[bytes]:
    yield np.ascontiguousarray(factor.read()).tobytes()
