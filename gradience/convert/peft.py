"""PEFT's form: every tensor under the name by which PEFT finds it, bytes as they are stored, and the config."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gradience.adapters.adapter import Adapter, Factor, LoraPair, SkippedTensor, tensors_of
from gradience.adapters.diffusers import part_of
from gradience.adapters.keys import Side, factor_name, peft_name
from gradience.adapters.locate import WEIGHTS
from gradience.adapters.peft import fields_in_peft_order
from gradience.adapters.tensors import DTYPES
from gradience.compress.encodings import encode_modules, require_config
from gradience.compress.layout import refuse_tied_embedding
from gradience.convert.forms import Form


class PeftForm(Form):
    """adapter_config.json and adapter_model.safetensors. Tensors that have PEFT's shapes are copied."""

    words = "PEFT LoRA"
    weights = WEIGHTS
    dtypes = frozenset(DTYPES)

    def __init__(self, opened: Adapter, base: Path | None) -> None:
        """Raises InputError: no-config, not-in-format."""
        super().__init__(opened, base)
        self.config = require_config(opened)
        if opened.unwritable is not None:
            raise self.not_held(opened.unwritable, "audit and compare it as it is")
        if opened.format == "mlx":
            refuse_tied_embedding(opened, self.words)

    def module(self, pair: LoraPair) -> str:
        """The module without the part of a pipeline that diffusers puts before it."""
        part = None if self.opened.loads_in_peft else part_of(pair.module)
        return pair.module if part is None else pair.module.removeprefix(f"{part}.")

    def factor(self, pair: LoraPair, side: Side) -> str:
        if self.opened.loads_in_peft:
            return peft_name(pair.factors[side].tensor, self.opened.adapter_name)
        if pair.kind == "expert":
            problem = (
                f"{pair.module} holds experts in one tensor; PEFT needs the names of the base's parameters"
            )
            raise self.not_held(problem, "audit and compare it as it is")
        return factor_name("", self.module(pair), pair.kind, side)

    def tensors(self) -> Iterator[tuple[str, Factor]]:
        """Yield the factors, and every other tensor of an adapter of PEFT, understood or not."""
        yield from super().tensors()
        opened = self.opened
        if opened.loads_in_peft:
            done = {factor.tensor for pair in opened.pairs for factor in pair.factors.values()}
            done |= {note.tensor for note in self.left_out()}
            for name, tensor in tensors_of(opened.files).items():
                if name not in done:
                    yield peft_name(name, opened.adapter_name), tensor

    def left_out(self) -> tuple[SkippedTensor, ...]:
        return tuple(note for note in self.opened.other if self.opened.is_foreign(note))

    def settings(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        fields = self.config.fields or {
            "peft_type": "LORA",
            "base_model_name_or_path": self.config.base_model,
            "bias": "none",
            **encode_modules(self.targets, "patterns").fields,
            "target_modules": [target.name for target in self.targets],
        }
        if self.opened.packed("grouped_by_expert"):
            fields = {**fields, **fields_in_peft_order(fields)}
        return fields, {"format": "pt"}
