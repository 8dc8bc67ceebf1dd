"""diffusers' form: `<part>.<module>.lora_A.weight`, and a config of PEFT for each part in the header.

Source: diffusers 0.42.1, loaders/lora_base.py (`_save_lora_weights`), loaders/peft.py (`load_lora_adapter`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from gradience.adapters.adapter import Adapter, LoraPair
from gradience.adapters.diffusers import METADATA, NAME, configs_of, part_of, part_of_all
from gradience.adapters.dtypes import Words
from gradience.compress.encodings import Target, encode_modules
from gradience.compress.forms.form import Form, Settings, Side, not_held

WORDS = "diffusers LoRA"


def _module(opened: Adapter, name: str) -> str:
    """The name with its part in front; of an adapter that names no part, the model that has modules like its own."""
    if opened.format == "diffusers" and part_of(name):
        return name
    part = part_of_all(pair.module for pair in opened.pairs)
    if part:
        return part + name
    raise not_held(
        opened,
        WORDS,
        f"{name} is no module of a UNet or a transformer of diffusers (down_blocks.…, transformer_blocks.…)",
        "load it into its own model with PEFT, and save it with the pipeline's save_lora_weights",
    )


def _factor(module: str, side: Side) -> str:
    return f"{module}.lora_{side}.weight"


def _turn(words: Words, side: Side, pair: LoraPair) -> Words:
    return words


def _settings(opened: Adapter, modules: Sequence[Target]) -> Settings:
    foreign = next((pair for pair in opened.pairs if pair.kind not in ("linear", "conv")), None)
    if foreign is not None:
        raise not_held(
            opened, WORDS, f"{foreign.module} is of the kind {foreign.kind}", "PEFT's format holds it"
        )
    parts: dict[str, list[Target]] = defaultdict(list)
    for each in modules:
        part, _, inner = _module(opened, each.name).partition(".")
        parts[part].append(each._replace(name=inner))
    configs = configs_of(opened.files[0]) if opened.format == "diffusers" else {}
    old = {f"{part}.{name}": value for part, each in configs.items() for name, value in each.fields.items()}
    header: dict[str, Any] = {}
    for part, inside in sorted(parts.items()):
        fields = {
            **(configs[part].fields if part in configs else {}),
            **encode_modules(inside, "patterns").fields,
            "target_modules": sorted(each.name for each in inside),
        }
        header |= {f"{part}.{name}": value for name, value in fields.items()}
    text = json.dumps(header, indent=2, sort_keys=True)
    return Settings(None, old, header, {"format": "pt", METADATA: text})


DIFFUSERS = Form(
    "diffusers", WORDS, NAME, frozenset(("F32", "F16", "BF16", "F64")), _module, _factor, _turn, _settings
)  # fmt: skip
