"""What adapter_config.json must say once modules or tensors are left out: PEFT makes whatever the config names.

A module that the config names and the file does not hold is made anew by PEFT and does nothing (a LoRA module), or
loading fails (a module that is saved whole). So what is left out of the file is left out of the config, or refused.
Source: PEFT 0.21, tuners/tuners_utils.py, `check_target_module_exists`; utils/other.py, `_set_trainable`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from gradience.adapters.adapter import Adapter
from gradience.adapters.config import PeftConfig
from gradience.adapters.inventory import (
    BASE_BIAS_REASON,
    BIAS_REASON,
    DORA_REASON,
    LORA_BIAS_REASON,
    TOKENS_REASON,
    SkippedTensor,
)
from gradience.adapters.keys import path_ends
from gradience.adapters.locate import natural_key
from gradience.adapters.naming import PREFIX, peft_name
from gradience.errors import InputError

ALL_LINEAR = "all-linear"


class SavedModule(NamedTuple):
    """A module saved whole, the entry of `modules_to_save` that says so, and its tensors."""

    name: str
    entry: str
    tensors: Sequence[str]


def saved_modules(
    config: PeftConfig, notes: Iterable[SkippedTensor], adapter: str | None
) -> list[SavedModule]:
    """The modules that PEFT saves whole, as far as the file holds them."""
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    for note in notes:
        path = _path(note.tensor, adapter).rpartition(".")[0]
        saved = config.saved_whole(path)
        if saved:
            grouped[saved].append(note.tensor)
    return [SavedModule(name, entry, tensors) for (name, entry), tensors in grouped.items()]


def _path(tensor: str, adapter: str | None) -> str:
    """A tensor's path in the base model."""
    return peft_name(tensor, adapter).removeprefix(PREFIX)


# ---------------------------------------------------------------- tensors beside the factors


class Stripped(NamedTuple):
    """Changed fields, and the modules with parameters that PEFT no longer keeps its LoRA away from."""

    fields: Mapping[str, Any]
    bared: Collection[str]


def without_stripped(
    config: PeftConfig, others: Sequence[SkippedTensor], stripped: Set[str], adapter: str | None
) -> Stripped:
    """What the config says without the tensors in `stripped`.

    Raises InputError (strip-dora, strip-partly) where no config can say it.
    """
    if not stripped:
        return Stripped({}, ())
    by_reason: dict[str, list[str]] = defaultdict(list)
    for note in others:
        by_reason[note.reason].append(note.tensor)
    magnitudes = stripped & set(by_reason[DORA_REASON])
    if magnitudes:
        raise InputError(
            f"{config.path}: strip drops {min(magnitudes)}, a DoRA magnitude: without it the factors mean something "
            "else",
            code="strip-dora",
            hint="give strip a longer part of the other tensors' names",
        )
    fields: dict[str, Any] = {}
    for reason, field, without in (
        (LORA_BIAS_REASON, "lora_bias", False),
        (TOKENS_REASON, "trainable_token_indices", None),
    ):
        taken, left = _split(by_reason[reason], stripped)
        if taken and left:
            raise _partly(config, taken[0], left[0], f"{field} in the config covers both")
        if taken:
            fields[field] = without
    biases = [*by_reason[BASE_BIAS_REASON], *by_reason[BIAS_REASON]]
    taken, left = _split(biases, stripped)
    if taken and not left and config.bias != "none":
        fields["bias"] = "none"
    saved = saved_modules(config, others, adapter)
    gone = _gone(config, saved, stripped)
    if not gone:
        return Stripped(fields, ())
    fields |= _saved_fields(config, saved, gone)
    bared = {_path(name, adapter).rpartition(".")[0] for module in gone for name in module.tensors}
    return Stripped(fields, bared | {module.name for module in gone})


def _split(names: Iterable[str], stripped: Collection[str]) -> tuple[list[str], list[str]]:
    """Those taken, and those left."""
    names = sorted(names)
    return [name for name in names if name in stripped], [name for name in names if name not in stripped]


def _partly(config: PeftConfig, taken: str, left: str, why: str) -> InputError:
    return InputError(
        f"{config.path}: strip drops {taken} and keeps {left}: {why}",
        code="strip-partly",
        hint="strip both or neither",
    )


def _gone(config: PeftConfig, saved: Sequence[SavedModule], stripped: Collection[str]) -> list[SavedModule]:
    """Saved modules that are stripped as a whole. Raises InputError (strip-partly) for one that loses a part."""
    gone = []
    for module in saved:
        taken, left = _split(module.tensors, stripped)
        if taken and left:
            raise _partly(config, taken[0], left[0], f"PEFT loads all of {module.name} or nothing")
        if taken:
            gone.append(module)
    return gone


def _saved_fields(
    config: PeftConfig, saved: Sequence[SavedModule], gone: Sequence[SavedModule]
) -> dict[str, Any]:
    """`modules_to_save`, and no task where the task alone would bring a head back."""
    kept = [module for module in saved if module not in gone]
    hit = {module.entry for module in gone}
    untasked = bool(hit.intersection(config.heads_of_task))
    names: list[str] = []
    for entry in dict.fromkeys((*config.modules_to_save, *(config.heads_of_task if untasked else ()))):
        held = [module.name for module in kept if module.entry == entry]
        if entry in hit:
            names += held
        elif held or entry in config.modules_to_save:
            names.append(entry)
    if not kept:
        names = []
    back = next((module.name for module in gone if any(module.name.endswith(name) for name in names)), None)
    if back is not None:
        raise InputError(
            f"{config.path}: strip drops {back}, and PEFT would look for it all the same: it matches the end of "
            f"names, and {', '.join(names)} must stay",
            code="strip-partly",
            hint="strip these as well, or none of them",
        )
    fields: dict[str, Any] = {"modules_to_save": names or None}
    return fields | {"task_type": None} if untasked else fields


# ---------------------------------------------------------------- targets


def init_fields(config: PeftConfig, ranks: Iterable[int]) -> dict[str, Any]:
    """Return what `init_lora_weights` must say of factors with these `ranks`.

    PEFT makes orthogonal factors of even ranks alone, also where it is about to load others.
    """
    odd = any(rank % 2 for rank in ranks)
    return {"init_lora_weights": True} if odd and config.init.lower() == "orthogonal" else {}


def target_fields(
    config: PeftConfig, kept: Sequence[str], dropped: Collection[str], bared: Collection[str]
) -> dict[str, Any]:
    """Targets that hit the modules `kept`, and nothing that was left out.

    dropped: modules left out.   bared: modules that were saved whole, and no longer are.
    `exclude_modules` stays: what it kept PEFT away from may end like a module that is named in full.
    """
    if not dropped and not _hits(config, bared):
        return {}
    names = sorted(kept, key=lambda name: (natural_key(name), name))
    endings = set(names)
    similar = any(endings.intersection(path_ends(name)) for name in (*dropped, *bared))
    expression = isinstance(config.target_modules, str) and config.target_modules.lower() != ALL_LINEAR
    if not names or not (similar or expression):
        return {"target_modules": names}
    # A list also hits every module that ends with `.name`; an expression is matched against the whole name.
    # PEFT refuses an expression beside the choice of layers, which it makes needless.
    only_for_lists = ("layers_to_transform", "layers_pattern")
    unset = {name: None for name in only_for_lists if config.fields.get(name) is not None}
    return {"target_modules": f"(?:{'|'.join(map(re.escape, names))})", **unset}


def _hits(config: PeftConfig, bared: Collection[str]) -> bool:
    """Whether the targets as they are may hit a module that is no longer saved whole."""
    if config.target_modules is None or not bared:
        return False
    if isinstance(config.target_modules, str):
        return True
    return any(not config.target_names.isdisjoint(path_ends(name)) for name in bared)


# ---------------------------------------------------------------- the file


def require_config(opened: Adapter) -> PeftConfig:
    """The config. Raises InputError (code no-config) where there is no config."""
    if opened.config is None:
        raise InputError(
            f"{opened.location.path}: no adapter_config.json beside the weights: without α no smaller adapter "
            "can be written",
            code="no-config",
            hint="put the adapter_config.json beside the weights",
        )
    return opened.config


def merged_fields(old: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in their order, with `changes`. An absent or empty field stays so where nothing else is meant."""
    changed = {name: value for name, value in changes.items() if value or old.get(name)}
    return {**old, **{name: value for name, value in changed.items() if not _equal(old.get(name), value)}}


def _equal(old: Any, new: Any) -> bool:
    """The same value of the same type: a written α of 16.0 becomes 16, which every runtime reads."""
    return type(old) is type(new) and bool(old == new)


def write_config(path: Path, fields: Mapping[str, Any]) -> None:
    """Write an adapter_config.json as PEFT does: ASCII, two spaces, fields in their order."""
    path.write_bytes(json.dumps(fields, indent=2).encode() + b"\n")


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Field -> `old -> new`, both shortened, for what differs."""
    return {
        name: f"{_short(old.get(name))} -> {_short(value)}"
        for name, value in new.items()
        if old.get(name) != value
    }


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict | list) and len(text) > 60:
        return f"{len(value)} entries"
    return text if len(text) <= 60 else text[:57] + "..."
