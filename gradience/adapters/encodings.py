"""Ranks and scales -> what adapter_config.json says, and what B must absorb because it cannot. Pure.

Four ways to write an adapter whose modules have ranks r′ and scales s (adapter_formats: E1, E2, E4 and folding):
uniform   one r, one α, no patterns: understood everywhere.
patterns  rank_pattern and alpha_pattern for every module, r = the largest rank: PEFT, and vLLM from 0.32.
padded    every module padded with zeros to the largest rank, then as uniform: loads everywhere, saves no memory.
folded    s multiplied into B, α = rank, so that every runtime computes a scale of 1.
`use_rslora` is always written false; α is s·r′, which keeps the scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gradience.adapters.patterns import anchored_key
from gradience.artifacts.compression import Encoding

INTEGER_SLACK = 1e-12
"""s·r′ this close (relatively) to an integer is that integer: s itself came from a division."""


class Target(NamedTuple):
    """One module that is written: its rank and the scale it must keep."""

    name: str
    rank: int
    scale: float


@dataclass(frozen=True, slots=True)
class Encoded:
    """How to write the modules.

    fields: changes of adapter_config.json.   stored_rank: module -> rank on disk.
    fold: module -> factor for B (1.0: none).
    """

    encoding: Encoding
    reason: str
    fields: Mapping[str, Any]
    stored_rank: Mapping[str, int]
    fold: Mapping[str, float]


def encode_modules(targets: Sequence[Target], encoding: Encoding | None) -> Encoded:
    """Choose (`None`) or apply an encoding. `targets` is not empty."""
    largest = max(targets, key=lambda target: target.rank)
    equal_ranks = all(target.rank == largest.rank for target in targets)
    equal_scales = all(_same(target.scale, largest.scale) for target in targets)
    if encoding is None:
        encoding = "uniform" if equal_ranks and equal_scales else "patterns"
        reason = (
            "all ranks and all scales agree" if encoding == "uniform" else _differ(equal_ranks, equal_scales)
        )
    else:
        reason = "asked for"
    match encoding:
        case "uniform" if not equal_ranks:
            return _one_alpha(
                targets, largest, "padded", "uniform was asked for; ranks differ, so zeros fill them up"
            )
        case "uniform" | "padded":
            return _one_alpha(targets, largest, encoding, reason)
        case "folded":
            return _folded(targets, largest, reason)
        case "patterns":
            return _patterns(targets, largest, reason)


def _differ(equal_ranks: bool, equal_scales: bool) -> str:
    names = [name for name, equal in (("ranks", equal_ranks), ("scales", equal_scales)) if not equal]
    return f"{' and '.join(names)} differ between modules"


def _same(first: float, second: float) -> bool:
    return abs(first - second) <= INTEGER_SLACK * max(abs(first), abs(second))


def alpha_for(scale: float, rank: int) -> int | float:
    """α = s·r′, an integer where it is one to rounding."""
    alpha = scale * rank
    return round(alpha) if _same(alpha, round(alpha)) else alpha


def _one_alpha(targets: Sequence[Target], largest: Target, encoding: Encoding, reason: str) -> Encoded:
    """One α for all: modules with another scale than the largest's fold the ratio into B."""
    alpha = alpha_for(largest.scale, largest.rank)
    fold = {target.name: _ratio(target.scale, largest.scale) for target in targets}
    if any(value != 1.0 for value in fold.values()):
        reason += "; scales differ, so the ratio is folded into B"
    return Encoded(
        encoding,
        reason,
        _fields(largest.rank, alpha),
        {target.name: largest.rank for target in targets},
        fold,
    )


def _ratio(scale: float, written: float) -> float:
    return 1.0 if _same(scale, written) else scale / written


def _folded(targets: Sequence[Target], largest: Target, reason: str) -> Encoded:
    ranks = {target.name: target.rank for target in targets}
    fields = _fields(largest.rank, largest.rank)
    if any(rank != largest.rank for rank in ranks.values()):
        pattern = {anchored_key(name): rank for name, rank in ranks.items()}
        fields |= {"rank_pattern": pattern, "alpha_pattern": dict(pattern)}
    return Encoded(
        "folded", reason, fields, ranks, {target.name: _ratio(target.scale, 1.0) for target in targets}
    )


def _patterns(targets: Sequence[Target], largest: Target, reason: str) -> Encoded:
    fields = _fields(largest.rank, alpha_for(largest.scale, largest.rank))
    fields["rank_pattern"] = {anchored_key(target.name): target.rank for target in targets}
    fields["alpha_pattern"] = {
        anchored_key(target.name): alpha_for(target.scale, target.rank) for target in targets
    }
    return Encoded(
        "patterns",
        reason,
        fields,
        {target.name: target.rank for target in targets},
        {target.name: 1.0 for target in targets},
    )


def _fields(rank: int, alpha: int | float) -> dict[str, Any]:
    return {"r": rank, "lora_alpha": alpha, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
