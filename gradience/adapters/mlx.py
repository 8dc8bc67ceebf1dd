"""An adapter of MLX-LM: `adapters.safetensors`, or a numbered checkpoint.

`lora_a` is (n, r) and `lora_b` (r, m): both are transposed relative to PEFT's, and ΔW = scale·(lora_a·lora_b)ᵀ.
Experts of one layer are stacked: lora_a (E, r, n), once (E·r, n), and lora_b (E, m, r). The scale is absolute, in
`lora_parameters` of adapter_config.json, a file with PEFT's name and different fields.
Source: mlx-lm 0.32.2, tuner/lora.py, tuner/dora.py and tuner/utils.py; 0.0.14 to 0.21 for what is old.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradience.adapters import adapter
from gradience.adapters.adapter import Adapter, Factor, LoraPair
from gradience.adapters.config import MAX_RANK, PeftConfig, is_alpha, is_rank
from gradience.adapters.files import read_object
from gradience.adapters.keys import Kind
from gradience.adapters.locate import CONFIG, INDEX, WEIGHTS, Location, listing, no_factors, single, sniff
from gradience.adapters.tensors import TensorFile
from gradience.errors import InputError

FINAL = "adapters.safetensors"
"""Name of the weights after training; `0000100_adapters.safetensors` is a checkpoint."""
_CHECKPOINT = re.compile(r"\d{1,12}_adapters\.safetensors")
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
    if path.name == FINAL or _CHECKPOINT.fullmatch(path.name):
        return True
    return any(_FACTOR.fullmatch(name) for name in sniff(path).shapes)


def _are_weights(folder: Path) -> Callable[[str], object]:
    """Return a test for the name of the final weights, or of a checkpoint's if there are no final ones."""
    return (lambda name: name == FINAL) if os.path.lexists(folder / FINAL) else _CHECKPOINT.fullmatch


def open_mlx(path: Path, name: str | None, stack: ExitStack) -> Adapter:
    """Open the adapter at `path`; weights without a config have no scale.

    Raises InputError: several-adapters, no-such-adapter, bad-config, no-lora-tensors, and what `tensors` raises.
    """
    fits = _CHECKPOINT.fullmatch if name and _CHECKPOINT.fullmatch(name) else _are_weights(path)
    weights = single(path, name, fits, "checkpoints of MLX-LM")
    beside = weights.parent / CONFIG
    location = Location(path, weights.parent, (weights,), beside if os.path.lexists(beside) else None)
    settings = read_settings(location) if location.config else None
    file = stack.enter_context(TensorFile.open(weights, root=location.root))
    places = adapter.places_in(file, _FACTOR, "a")
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
        return adapter.DORA_REASON if last == "m" and module in modules else None

    adapter.sort_tensors(opened, places, make, known)
    # Properties that PEFT's names cannot express.
    stacked = next((pair.module for pair in opened.pairs if pair.kind == "expert"), None)
    if stacked is not None:
        only = "which PEFT loads only with the base's parameter names"
        opened.unwritable = f"{stacked} holds experts in one tensor, {only}"
    elif opened.other:
        opened.unwritable = adapter.MAGNITUDES_ELSEWHERE
    if location.config is not None and settings is not None:
        opened.config = _as_peft(location.config, settings, opened, scale)
    return opened


def _pair(module: str, a: Factor, b: Factor) -> LoraPair | str:
    """The pair of lora_a and lora_b, as PEFT has it."""
    shape_a, shape_b = a.entry.shape, b.entry.shape
    if len(shape_b) == 3:
        experts, rows, rank = shape_b
        columns = shape_a[-1]
        if math.prod(shape_a[:-1]) != experts * rank or len(shape_a) > 3:
            return adapter.mismatch(a, b)
        flat = a.with_axes((experts * rank, columns), lambda words: words.reshape(experts * rank, columns))
        last = b.with_axes(
            (rows, rank * experts), lambda words: words.transpose(1, 2, 0)
        )  # (m, r, E), a view
        return LoraPair(module, "expert", flat, last, rank, rows, columns, experts=experts)
    if len(shape_a) != 2 or len(shape_b) != 2:
        return f"factors of {list(shape_a)} and {list(shape_b)}: not a layer that MLX-LM adapts"
    kind: Kind = "embedding" if module.rpartition(".")[2] in _EMBEDDINGS else "linear"
    pair = adapter.paired(module, kind, a.transposed(), b.transposed())
    return adapter.mismatch(a, b) if isinstance(pair, str) else pair


def read_settings(location: Location) -> Mapping[str, Any]:
    """Return the config beside the weights; empty if there is none. Raises InputError (bad-config)."""
    path = location.config
    if path is None:
        return {}
    fields = read_object(path, root=location.root)
    if not isinstance(fields.get("lora_parameters", {}), dict):
        raise _bad(path, "lora_parameters is not an object")
    if "peft_type" in fields:
        raise InputError(
            f"{path}: a PEFT config beside MLX-LM weights: one of the two is misplaced",
            code="bad-config",
            hint="put the adapter_config.json that mlx-lm wrote beside the weights",
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
    dora = fields.get("fine_tune_type") == "dora" or any(
        note.reason == adapter.DORA_REASON for note in opened.other
    )
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
