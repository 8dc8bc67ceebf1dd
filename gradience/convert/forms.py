"""Formats other than PEFT's that `gradience convert` writes: tensor names, axis order, settings and writer."""

import json
import math
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from gradience.adapters.adapter import BASE_REASON, Adapter, LoraPair, SkippedTensor
from gradience.adapters.diffusers import ALPHA_REASON, METADATA, NAME, configs_of, part_of, part_of_all
from gradience.adapters.keys import Side, is_split_expert
from gradience.adapters.locate import CONFIG
from gradience.adapters.mlx import FINAL, read_settings
from gradience.adapters.tensors import DType, Words, write_tensors
from gradience.compress.encodings import Target, encode_modules, write_config
from gradience.compress.layout import not_held, refuse_meaning, refuse_tied_embedding


class Written(NamedTuple):
    """The weights as written.

    sha256, bytes: of the file of weights.   tensors: in it.   renamed: number of tensors with a new name.
    left_out: tensors of the source that the target does not hold, with reasons.
    modules: each module -> its name in the written file, if that differs.
    """

    sha256: str
    bytes: int
    tensors: int
    renamed: int
    left_out: tuple[SkippedTensor, ...] = ()
    modules: Mapping[str, str] = MappingProxyType({})


Settings = tuple[Mapping[str, Any] | None, Mapping[str, str]]
"""adapter_config.json, if the format has one, and the metadata in the header of the weights."""


class Form(ABC):
    """Writer of adapters in one format.

    name: as in `Adapter.format`.   words: name in messages.   weights: name of the weights file.
    dtypes: storage types that the format's library reads.
    """

    name: ClassVar[str]
    words: ClassVar[str]
    weights: ClassVar[str]
    dtypes: ClassVar[frozenset[str]]

    @abstractmethod
    def module(self, opened: Adapter, name: str) -> str:
        """Return what the format calls a module of the adapter. Raises InputError (not-in-format)."""

    @abstractmethod
    def factor(self, module: str, side: Side) -> str:
        """Return the name of a tensor. module: as the format calls it."""

    @abstractmethod
    def settings(self, opened: Adapter, modules: Sequence[Target]) -> Settings:
        """Return the settings to write besides the factors of `modules`. Raises InputError (not-in-format)."""

    def turn(self, words: Words, side: Side, pair: LoraPair) -> Words:
        """Return a view, in the format's order of axes, of words in PEFT's order."""
        return words


def rewriting(opened: Adapter, options: str) -> str:
    """Return the command that writes an adapter again at its own ranks, with other options of compress."""
    rank = max((pair.rank for pair in opened.pairs), default=1)
    return f"gradience compress {opened.location.path} --rank {rank} {options} --output smaller"


def refuse_beside(opened: Adapter, form: str) -> tuple[SkippedTensor, ...]:
    """Return the tensors that are copies, or of another adapter in the file: they are left out.

    Raises InputError (not-in-format) for a tensor beside the factors that belongs to this adapter, for which the format
    has no place, and what `refuse_meaning` raises.
    """
    left_out = []
    for note in (*opened.unaudited, *opened.other):
        if note.reason == ALPHA_REASON:
            continue  # in the settings of what is written
        if note.reason == BASE_REASON or opened.is_foreign(note):
            left_out.append(note)
            continue
        raise not_held(
            opened,
            form,
            f"it cannot store {note.tensor[:120]} ({note.reason})",
            "the PEFT format can store it",
        )
    refuse_meaning(opened, form)
    return tuple(left_out)


def refuse_type(opened: Adapter, form: Form, module: str, dtype: DType) -> None:
    """Raise InputError (not-in-format) for the storage type of a factor that the format's library does not read."""
    if dtype.name not in form.dtypes:
        raise not_held(
            opened,
            form.words,
            f"{module} is stored as {dtype.name}, but {form.words} has only {', '.join(sorted(form.dtypes))}",
            f"change the type first: {rewriting(opened, '--dtype F32')}",
        )


class MlxForm(Form):
    """lora_a (n, r) and lora_b (r, m) of every module, one rank and one scale for all of them.

    mlx-lm gives every module that `keys` names in the last `num_layers` layers (-1: in all) factors of `rank`, and then
    puts those of the file in their place; a name or a shape that does not fit ends the loading.
    Source: mlx-lm 0.32.2, tuner/utils.py (`linear_to_lora_layers`, `load_adapters`).
    """

    name = "mlx"
    words = "MLX-LM LoRA"
    weights = FINAL
    dtypes = frozenset(("F32", "F16", "BF16"))
    _layer = re.compile(r"(?:.+\.)?(?:layers|h|blocks)\.\d+\.(?P<inner>.+)")
    _known = re.compile(r"model\.layers\.\d+\..+|model\.embed_tokens|lm_head")
    """Modules that mlx-lm calls as transformers does."""

    def module(self, opened: Adapter, name: str) -> str:
        if opened.format == "mlx":
            return name
        if is_split_expert(name) or not self._known.fullmatch(name):
            some = any(self._known.fullmatch(pair.module) for pair in opened.pairs)
            raise not_held(
                opened,
                self.words,
                f"mlx-lm has no known name for {name} (known: model.layers.N.…, model.embed_tokens, lm_head)",
                "leave it out of the adapter, or train it with mlx-lm" if some else "keep the PEFT format",
            )
        return name

    def factor(self, module: str, side: Side) -> str:
        return f"{module}.lora_{side.lower()}"

    def turn(self, words: Words, side: Side, pair: LoraPair) -> Words:
        if pair.kind != "expert":
            return words.T
        if side == "A":
            return words.reshape(pair.experts, -1, pair.columns)
        return words.reshape(pair.rows, -1, pair.experts).transpose(2, 0, 1)

    def settings(self, opened: Adapter, modules: Sequence[Target]) -> Settings:
        first = modules[0]
        for module in modules:
            if module.rank != first.rank or not math.isclose(module.scale, first.scale, rel_tol=1e-12):
                raise not_held(
                    opened,
                    self.words,
                    f"it has one rank and one scale, but {first.name} has rank {first.rank} and scale {first.scale:g}, "
                    f"and {module.name} has rank {module.rank} and scale {module.scale:g}",
                    f"pad them to one rank first: {rewriting(opened, '--encoding padded')}; the PEFT format "
                    "can store several: --to peft",
                )
        convolution = next((pair.module for pair in opened.pairs if pair.kind == "conv"), None)
        if convolution is not None:
            raise not_held(
                opened, self.words, f"{convolution} is a convolution", "the PEFT format can store it"
            )
        if opened.format != "mlx":
            refuse_tied_embedding(opened, self.words)
        old = read_settings(opened.location) if opened.format == "mlx" else {}
        keys = {
            match["inner"] if (match := self._layer.fullmatch(module.name)) else module.name
            for module in modules
        }
        config = {
            **old,
            "fine_tune_type": "lora",
            "num_layers": old.get("num_layers", old.get("lora_layers", -1)),
            "lora_parameters": {
                "rank": first.rank,
                "scale": first.scale,
                "dropout": old.get("lora_parameters", {}).get("dropout", 0.0),
                "keys": sorted(keys),
            },
        }
        if not old and opened.config and opened.config.base_model is not None:
            config["model"] = opened.config.base_model
        return config, {"format": "mlx"}


class DiffusersForm(Form):
    """`<part>.<module>.lora_A.weight`, and a config of PEFT for each part in the header.

    Source: diffusers 0.42.1, loaders/lora_base.py (`_save_lora_weights`), loaders/peft.py (`load_lora_adapter`).
    """

    name = "diffusers"
    words = "diffusers LoRA"
    weights = NAME
    dtypes = frozenset(("F32", "F16", "BF16", "F64"))

    def module(self, opened: Adapter, name: str) -> str:
        """The name behind its part of the pipeline, which the modules tell if the adapter names none."""
        if opened.format == "diffusers" and part_of(name):
            return name
        part = part_of_all(pair.module for pair in opened.pairs)
        if not part:
            raise not_held(
                opened,
                self.words,
                f"{name} is not a module of a UNet or a transformer of diffusers (down_blocks.…, transformer_blocks.…)",
                "load it into its own model with PEFT, and save it with the pipeline's save_lora_weights",
            )
        return part + name

    def factor(self, module: str, side: Side) -> str:
        return f"{module}.lora_{side}.weight"

    def settings(self, opened: Adapter, modules: Sequence[Target]) -> Settings:
        foreign = next((pair for pair in opened.pairs if pair.kind not in ("linear", "conv")), None)
        if foreign is not None:
            raise not_held(
                opened,
                self.words,
                f"{foreign.module} is of the kind {foreign.kind}",
                "the PEFT format can store it",
            )
        parts: dict[str, list[Target]] = defaultdict(list)
        for module in modules:
            part, _, inner = self.module(opened, module.name).partition(".")
            parts[part].append(module._replace(name=inner))
        configs = configs_of(opened.files[0]) if opened.format == "diffusers" else {}
        header: dict[str, Any] = {}
        for part, inside in sorted(parts.items()):
            fields = {
                **(configs[part].fields if part in configs else {}),
                **encode_modules(inside, "patterns").fields,
                "target_modules": sorted(target.name for target in inside),
            }
            header |= {f"{part}.{name}": value for name, value in fields.items()}
        text = json.dumps(header, indent=2, sort_keys=True)
        return None, {"format": "pt", METADATA: text}


FORMS: dict[str, Form] = {form.name: form for form in (MlxForm(), DiffusersForm())}
"""Name of a format, as in `Adapter.format` -> its writer."""


def write_form(form: Form, opened: Adapter, folder: Path, base: Path | None = None) -> Written:
    """Write the weights, and the config if the form has one. Raises InputError: not-in-format, no-config."""
    targets = [Target(pair.module, pair.rank, opened.scale_of(pair)) for pair in opened.pairs]
    names = {pair.module: form.module(opened, pair.module) for pair in opened.pairs}
    left_out = refuse_beside(opened, form.words)
    for pair in opened.pairs:
        for factor in (pair.a, pair.b):
            refuse_type(opened, form, pair.module, factor.entry.dtype)
    config, metadata = form.settings(opened, targets)
    tensors, renamed = {}, 0
    for pair in opened.pairs:
        for side, factor in pair.factors.items():
            name = form.factor(names[pair.module], side)
            tensors[name] = factor.through(partial(form.turn, side=side, pair=pair)).to_write()
            renamed += name != factor.tensor
    digest, size = write_tensors(folder / form.weights, tensors, metadata)
    if config is not None:
        write_config(folder / CONFIG, config)
    return Written(digest, size, len(tensors), renamed, left_out, names)
