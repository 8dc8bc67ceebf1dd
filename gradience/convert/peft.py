"""PEFT's form: every tensor under the name by which PEFT finds it, bytes as they are stored, and the config.

Tensors that have PEFT's shapes are copied. Those of another format are turned: A (r, n), B (m, r).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradience.adapters.adapter import Adapter, Factor, tensors_of
from gradience.adapters.config import PeftConfig
from gradience.adapters.diffusers import part_of
from gradience.adapters.keys import factor_name, peft_name
from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.adapters.peft import fields_in_peft_order
from gradience.adapters.tensors import write_tensors
from gradience.compress.encodings import Target, encode_modules, require_config, write_config
from gradience.compress.layout import not_held, refuse_tied_embedding
from gradience.convert.forms import Written
from gradience.errors import InputError


def write_peft(opened: Adapter, folder: Path, base: Path | None = None) -> Written:
    """Write adapter_config.json and adapter_model.safetensors, and return what was written.

    Raises InputError: no-config, same-tensor, not-in-format.
    """
    config = require_config(opened)
    if opened.unwritable is not None:
        raise not_held(opened, "PEFT LoRA", opened.unwritable, "audit and compare it as it is")
    if opened.format == "mlx":
        refuse_tied_embedding(opened, "PEFT LoRA")
    left_out = tuple(note for note in opened.other if opened.is_foreign(note))
    tensors: dict[str, Factor] = {}
    for name, tensor in _tensors(opened, {note.tensor for note in left_out}):
        if name in tensors:
            raise InputError(
                f"{opened.location.path}: PEFT loads {tensors[name].tensor[:80]!r} and {tensor.tensor[:80]!r} as one",
                code="same-tensor",
                hint="name one of several adapters with --adapter, or save it again with PEFT",
            )
        tensors[name] = tensor
    stored = {name: tensor.to_write() for name, tensor in tensors.items()}
    digest, size = write_tensors(folder / WEIGHTS, stored, {"format": "pt"})
    fields = config.fields or _fields(opened, config)
    if opened.packed("grouped_by_expert"):
        fields = {**fields, **fields_in_peft_order(fields)}
    write_config(folder / CONFIG, fields)
    renamed = sum(tensor.tensor != name for name, tensor in tensors.items())
    names = {pair.module: _inside(pair.module) for pair in opened.pairs if not opened.loads_in_peft}
    return Written(digest, size, len(tensors), renamed, left_out, names)


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


def _tensors(opened: Adapter, without: set[str]) -> Iterator[tuple[str, Factor]]:
    """Yield every tensor with its new name."""
    factors = set()
    for pair in opened.pairs:
        for side, factor in pair.factors.items():
            factors.add(factor.tensor)
            if opened.loads_in_peft:
                yield peft_name(factor.tensor, opened.adapter_name), factor
                continue
            if pair.kind == "expert":
                problem = f"{pair.module} holds experts in one tensor; PEFT needs the names of the base's parameters"
                raise not_held(opened, "PEFT LoRA", problem, "audit and compare it as it is")
            yield factor_name("", _inside(pair.module), pair.kind, side), factor
    for name, tensor in tensors_of(opened.files).items():
        if opened.loads_in_peft and name not in factors and name not in without:
            yield peft_name(name, opened.adapter_name), tensor
