"""adapter_config.json of a smaller adapter: ranks and scales, targets, and omitted modules. Pure.

`ENCODINGS` holds the ways to write an adapter whose modules have ranks r′ and scales s:
uniform   one r, one α, no patterns: the form that every runtime that was run reads.
patterns  rank_pattern and alpha_pattern for the modules that differ, r = the largest rank: PEFT, and vLLM from 0.32.
padded    every module padded with zeros to the largest rank, then as uniform: saves no memory when served.
folded    s multiplied into B, α = rank: a scale of 1 if the runtime reads the patterns, or if ranks agree.
          With ranks that differ, llama.cpp still computes another scale.
`use_rslora` is always written false; α is s·r′, which keeps the scale.

A module that the config names and the file does not hold is made anew by PEFT and does nothing (a LoRA module), or
loading fails (a module that is saved whole). So what is left out of the file is left out of the config, or refused.
Source: PEFT 0.21, tuners/tuners_utils.py, `check_target_module_exists`; utils/other.py, `_set_trainable`.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gradience.adapters.adapter import Adapter
from gradience.adapters.config import PeftConfig
from gradience.adapters.keys import is_split_expert, path_ends
from gradience.adapters.locate import natural_key
from gradience.adapters.patterns import anchored_key
from gradience.errors import InputError, UsageError
from gradience.reports.base.encodings import Encoding

INTEGER_SLACK = 1e-12
"""s·r′ this close (relatively) to an integer is that integer: s itself came from a division."""


class Target(NamedTuple):
    """One module that is written: its rank and the scale it must keep."""

    name: str
    rank: int
    scale: float


Written = tuple[int, float]
"""Rank on disk and α of one module."""


@dataclass(frozen=True, slots=True)
class EncodedModules:
    """Encoding of the modules.

    fields: changes of adapter_config.json.   stored_rank: module -> rank on disk.
    fold: module -> factor for B (1.0: none).   scale: module -> scale that the fields give it; s = fold · scale.
    """

    encoding: Encoding
    reason: str
    fields: Mapping[str, Any]
    stored_rank: Mapping[str, int]
    fold: Mapping[str, float]
    scale: Mapping[str, float]


class EncodingRule(NamedTuple):
    """One way to write an adapter."""

    meaning: str
    """Description in reports."""
    write: Callable[[Sequence[Target]], Sequence[Written]]
    """Return rank on disk and α of each target. What its scale then lacks is folded into B."""


def encode_modules(targets: Sequence[Target], encoding: Encoding | None) -> EncodedModules:
    """Write `targets` (not empty) by the rule `encoding`, or by the one that fits them if it is None."""
    encoding, reason = (encoding, "requested") if encoding else _fitting(targets)
    if encoding == "uniform" and any(target.rank != targets[0].rank for target in targets):
        encoding, reason = (
            "padded",
            "uniform was requested; ranks differ, so smaller ones are padded with zeros",
        )
    names = [target.name for target in targets]
    written = dict(zip(names, rule_of(encoding).write(targets), strict=True))
    scale = {name: alpha / rank for name, (rank, alpha) in written.items()}
    fold = {target.name: _ratio(target.scale, scale[target.name]) for target in targets}
    if encoding != "folded" and any(factor != 1.0 for factor in fold.values()):
        reason += "; scales differ, so the ratio is folded into B"
    largest = max(rank for rank, _ in written.values())
    common = _commonest([alpha for rank, alpha in written.values() if rank == largest])
    fields = {
        "r": largest,
        "lora_alpha": common,
        "use_rslora": False,
        "rank_pattern": {anchored_key(name): rank for name, (rank, _) in written.items() if rank != largest},
        "alpha_pattern": {
            anchored_key(name): alpha for name, (_, alpha) in written.items() if alpha != common
        },
    }
    return EncodedModules(
        encoding, reason, fields, {name: rank for name, (rank, _) in written.items()}, fold, scale
    )


def rule_of(encoding: str) -> EncodingRule:
    """Return the rule called `encoding`. Raises UsageError (`unknown-encoding`)."""
    if encoding not in ENCODINGS:
        raise UsageError(
            f"unknown encoding {encoding!r}",
            code="unknown-encoding",
            hint=f"use one of {', '.join(ENCODINGS)}",
        )
    return ENCODINGS[encoding]


def _fitting(targets: Sequence[Target]) -> tuple[Encoding, str]:
    """The rule for these targets, and why."""
    equal_ranks = all(target.rank == targets[0].rank for target in targets)
    equal_scales = all(_same(target.scale, targets[0].scale) for target in targets)
    if equal_ranks and equal_scales:
        return "uniform", "all modules agree"
    names = [name for name, equal in (("ranks", equal_ranks), ("scales", equal_scales)) if not equal]
    reason = f"{' and '.join(names)} differ between modules"
    if uneven_experts(targets):
        return "padded", f"{reason}, and PEFT stacks experts only at one rank and scale"
    return "patterns", reason


def uneven_experts(targets: Sequence[Target]) -> bool:
    """Return True if an expert's own projection would need a different rank or scale than the config's global ones."""
    largest = max(target.rank for target in targets)
    common = _commonest([target.scale for target in targets if target.rank == largest])
    return any(
        is_split_expert(target.name) and (target.rank != largest or not _same(target.scale, common))
        for target in targets
    )


def _same(first: float, second: float) -> bool:
    return abs(first - second) <= INTEGER_SLACK * max(abs(first), abs(second))


def _ratio(scale: float, written: float) -> float:
    return 1.0 if _same(scale, written) else scale / written


def alpha_for(scale: float, rank: int) -> int | float:
    """α = s·r′, an integer if it is one to rounding."""
    alpha = scale * rank
    return round(alpha) if _same(alpha, round(alpha)) else alpha


def _commonest(values: Sequence[float]) -> float:
    """The commonest value, the first among equals; 0 only if there is no other.

    One so small that another divided by it is infinite does not count.
    """
    counts = Counter(filter(None, values))
    largest = max(map(abs, counts), default=0.0)
    able = (value for value, _ in counts.most_common() if math.isfinite(largest / abs(value)))
    return next(able, 0)


def _one_alpha(targets: Sequence[Target]) -> list[Written]:
    largest = max(target.rank for target in targets)
    return [(largest, alpha_for(_commonest([target.scale for target in targets]), largest))] * len(targets)


ENCODINGS: dict[Encoding, EncodingRule] = {
    "uniform": EncodingRule("one r and one α for all modules", _one_alpha),
    "patterns": EncodingRule(
        "rank_pattern and alpha_pattern for the modules that differ from r and α",
        lambda targets: [(target.rank, alpha_for(target.scale, target.rank)) for target in targets],
    ),
    "padded": EncodingRule(
        "zeros bring every module to one rank on disk, which saves no memory in a server", _one_alpha
    ),
    "folded": EncodingRule(
        "the scale is multiplied into B, and α is the rank",
        lambda targets: [(target.rank, target.rank) for target in targets],
    ),
}


# ---------------------------------------------------------------- targets


def init_fields(config: PeftConfig, ranks: Iterable[int]) -> dict[str, Any]:
    """Return what `init_lora_weights` must say of factors with these `ranks`.

    PEFT makes orthogonal factors only for even ranks, even if it will then load others.
    """
    odd = any(rank % 2 for rank in ranks)
    return {"init_lora_weights": True} if odd and config.init.lower() == "orthogonal" else {}


def target_fields(config: PeftConfig, kept: Iterable[str], dropped: Collection[str]) -> dict[str, Any]:
    """Targets that hit the modules `kept`, and none of those `dropped`.

    `exclude_modules` stays: what it kept PEFT away from may end like a module that is named in full.
    """
    if not dropped:
        return {}
    names = sorted(kept, key=lambda name: (natural_key(name), name))
    endings = set(names)
    similar = any(endings.intersection(path_ends(name)) for name in dropped)
    expression = isinstance(config.target_modules, str) and config.target_modules.lower() != "all-linear"
    if not names or not (similar or expression):
        return {"target_modules": names}
    # A list also hits every module that ends with `.name`; an expression is matched against the whole name.
    # PEFT refuses an expression beside the choice of layers, which it makes needless.
    only_for_lists = ("layers_to_transform", "layers_pattern")
    unset = {name: None for name in only_for_lists if config.fields.get(name) is not None}
    return {"target_modules": f"(?:{'|'.join(map(re.escape, names))})", **unset}


# ---------------------------------------------------------------- the file


def require_config(opened: Adapter) -> PeftConfig:
    """The config. Raises InputError (code no-config) if there is no config."""
    if opened.config is None:
        raise InputError(
            f"{opened.location.path}: no adapter_config.json beside the weights: without α no smaller adapter "
            "can be written",
            code="no-config",
            hint="put the adapter_config.json beside the weights",
        )
    return opened.config


def merged_fields(old: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in their order, with `changes`. An absent or empty field stays so if nothing else is meant."""

    def differs(name: str, value: Any) -> bool:
        """A written α of 16.0 becomes 16, which every runtime reads."""
        before = old.get(name)
        return bool(value or before) and not (type(before) is type(value) and before == value)

    return {**old, **{name: value for name, value in changes.items() if differs(name, value)}}


def write_config(path: Path, fields: Mapping[str, Any]) -> None:
    """Write an adapter_config.json as PEFT does: ASCII, two spaces, fields in their order."""
    path.write_bytes(json.dumps(fields, indent=2).encode() + b"\n")


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Field -> `old -> new`, both shortened, for what differs."""

    def short(value: Any) -> str:
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, dict | list) and len(text) > 60:
            return f"{len(value)} entries"
        return text if len(text) <= 60 else text[:57] + "..."

    return {
        name: f"{short(old.get(name))} -> {short(value)}"
        for name, value in new.items()
        if old.get(name) != value
    }
