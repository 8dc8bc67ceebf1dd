"""MLX-LM's form: lora_a (n, r) and lora_b (r, m) of every module, one rank and one scale for all of them.

mlx-lm gives every module that `keys` names in the last `num_layers` layers (-1: in all) factors of `rank`, and then
puts those of the file in their place; a name or a shape that does not fit ends the loading.
Source: mlx-lm 0.32.2, tuner/utils.py (`linear_to_lora_layers`, `load_adapters`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from gradience.adapters.adapter import Adapter, LoraPair
from gradience.adapters.dtypes import Words
from gradience.adapters.keys import is_split_expert
from gradience.adapters.mlx import FINAL, read_settings
from gradience.compress.encodings import Target
from gradience.compress.forms.form import Form, Settings, Side, not_held, refuse_tied_embedding

WORDS = "MLX-LM LoRA"
_LAYER = re.compile(r"(?:.+\.)?(?:layers|h|blocks)\.\d+\.(?P<inner>.+)")
_KNOWN = re.compile(r"model\.layers\.\d+\..+|model\.embed_tokens|lm_head")
"""Modules that mlx-lm calls as transformers does."""
_ONE = (
    "bring them to one first: gradience compress ADAPTER --rank R --encoding padded --output NEW; "
    "PEFT's format holds several: --to peft"
)


def _module(opened: Adapter, name: str) -> str:
    if opened.format == "mlx":
        return name
    if is_split_expert(name) or not _KNOWN.fullmatch(name):
        raise not_held(
            opened,
            WORDS,
            f"what mlx-lm calls {name} is not known (known are model.layers.N.…, model.embed_tokens and lm_head)",
            "leave it out of the adapter, or train it with mlx-lm",
        )
    return name


def _factor(module: str, side: Side) -> str:
    return f"{module}.lora_{side.lower()}"


def _turn(words: Words, side: Side, pair: LoraPair) -> Words:
    if pair.kind != "expert":
        return words.T
    if side == "A":
        return words.reshape(pair.experts, -1, pair.columns)
    return words.reshape(pair.rows, -1, pair.experts).transpose(2, 0, 1)


def _settings(opened: Adapter, modules: Sequence[Target]) -> Settings:
    first = modules[0]
    for each in modules:
        if each.rank != first.rank or not math.isclose(each.scale, first.scale, rel_tol=1e-12):
            raise not_held(
                opened,
                WORDS,
                f"it has one rank and one scale, and {first.name} has rank {first.rank} and scale {first.scale:g}, "
                f"{each.name} rank {each.rank} and scale {each.scale:g}",
                _ONE,
            )
    foreign = next((pair.module for pair in opened.pairs if pair.kind == "conv"), None)
    if foreign is not None:
        raise not_held(opened, WORDS, f"{foreign} is a convolution", "PEFT's format holds it")
    if opened.format != "mlx":
        refuse_tied_embedding(opened, WORDS)
    old = read_settings(opened.location) if opened.format == "mlx" else {}
    base = opened.config.base_model if opened.config else None
    inner = {match["inner"] if (match := _LAYER.fullmatch(each.name)) else each.name for each in modules}
    before = old.get("lora_parameters", {})
    parameters = {
        "rank": first.rank,
        "scale": first.scale,
        "dropout": before.get("dropout", 0.0),
        "keys": sorted(inner),
    }
    layers = old.get("num_layers", old.get("lora_layers", -1))
    config = {**old, "fine_tune_type": "lora", "num_layers": layers, "lora_parameters": parameters}
    if not old and base is not None:
        config["model"] = base
    return Settings(config, old, config, {"format": "mlx"})


MLX = Form(
    "mlx", WORDS, FINAL[0], frozenset(("F32", "F16", "BF16")), _module, _factor, _turn, _settings, one_rank=True
)  # fmt: skip
