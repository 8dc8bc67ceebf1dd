"""Ranks and scales -> what adapter_config.json says, and what B must absorb because it cannot. Pure.

`ENCODINGS` holds the ways to write an adapter whose modules have ranks r′ and scales s:
uniform   one r, one α, no patterns: the form that every runtime that was run reads.
patterns  rank_pattern and alpha_pattern for the modules that differ, r = the largest rank: PEFT, and vLLM from 0.32.
padded    every module padded with zeros to the largest rank, then as uniform: saves no memory when served.
folded    s multiplied into B, α = rank: a scale of 1 where the runtime reads the patterns, or where ranks agree.
          With ranks that differ, llama.cpp still computes another scale.
`use_rslora` is always written false; α is s·r′, which keeps the scale.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from gradience.adapters.keys import is_split_expert
from gradience.adapters.patterns import anchored_key
from gradience.errors import UsageError
from gradience.reports.compression import Encoding

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
    """What reports say of it."""
    encode: Callable[[Sequence[Target], str], Encoded]
    """(targets, why it was chosen) -> how to write them."""


def encode_modules(targets: Sequence[Target], encoding: Encoding | None) -> Encoded:
    """Write `targets` (not empty) by the rule `encoding`, or by the one that fits them where it is None."""
    encoding, reason = (encoding, "requested") if encoding else _fitting(targets)
    return rule_of(encoding).encode(targets, reason)


def rule_of(encoding: str) -> EncodingRule:
    """Return the rule called `encoding`. Raises UsageError (`unknown-encoding`)."""
    if encoding not in ENCODINGS:
        raise UsageError(
            f"no encoding is called {encoding!r}",
            code="unknown-encoding",
            hint=f"use one of {', '.join(ENCODINGS)}",
        )
    return ENCODINGS[encoding]


def _fitting(targets: Sequence[Target]) -> tuple[Encoding, str]:
    """The rule for these targets, and why."""
    equal_ranks = all(target.rank == targets[0].rank for target in targets)
    equal_scales = all(_same(target.scale, targets[0].scale) for target in targets)
    if equal_ranks and equal_scales:
        return "uniform", "all ranks and all scales agree"
    names = [name for name, equal in (("ranks", equal_ranks), ("scales", equal_scales)) if not equal]
    reason = f"{' and '.join(names)} differ between modules"
    if uneven_experts(targets):
        return "padded", f"{reason}, and PEFT stacks experts only at one rank and scale"
    return "patterns", reason


def uneven_experts(targets: Sequence[Target]) -> bool:
    """Whether an expert's own projection would get another rank or scale than the config says for all modules."""
    largest = _largest(targets)
    common = _commonest_scale([target for target in targets if target.rank == largest])
    return any(
        is_split_expert(target.name) and (target.rank != largest or not _same(target.scale, common))
        for target in targets
    )


def _largest(targets: Sequence[Target]) -> int:
    return max(target.rank for target in targets)


def _same(first: float, second: float) -> bool:
    return abs(first - second) <= INTEGER_SLACK * max(abs(first), abs(second))


def alpha_for(scale: float, rank: int) -> int | float:
    """α = s·r′, an integer where it is one to rounding."""
    alpha = scale * rank
    return round(alpha) if _same(alpha, round(alpha)) else alpha


def _commonest_scale(targets: Sequence[Target]) -> float:
    """The scale of most modules, the first among equals; 0 only where there is no other.

    One so small that another divided by it is infinite does not count.
    """
    counts = Counter(target.scale for target in targets if target.scale)
    largest = max(map(abs, counts), default=0.0)
    able = [scale for scale, _ in counts.most_common() if math.isfinite(largest / abs(scale))]
    return able[0] if able else 0.0


def _uniform(targets: Sequence[Target], reason: str) -> Encoded:
    largest = _largest(targets)
    if any(target.rank != largest for target in targets):
        return _one_alpha(
            "padded", targets, "uniform was requested; ranks differ, so smaller ones are padded with zeros"
        )
    return _one_alpha("uniform", targets, reason)


def _one_alpha(encoding: Encoding, targets: Sequence[Target], reason: str) -> Encoded:
    """One α for all: modules with another scale than the commonest fold the ratio into B."""
    largest = _largest(targets)
    alpha = alpha_for(_commonest_scale(targets), largest)
    written = alpha / largest
    fold = {target.name: _ratio(target.scale, written) for target in targets}
    if any(value != 1.0 for value in fold.values()):
        reason += "; scales differ, so the ratio is folded into B"
    return Encoded(
        encoding,
        reason,
        config_fields(largest, alpha),
        {target.name: largest for target in targets},
        fold,
        {target.name: written for target in targets},
    )


def _ratio(scale: float, written: float) -> float:
    return 1.0 if _same(scale, written) else scale / written


def _folded(targets: Sequence[Target], reason: str) -> Encoded:
    largest = _largest(targets)
    fields = config_fields(largest, largest)
    pattern = {anchored_key(target.name): target.rank for target in targets if target.rank != largest}
    fields |= {"rank_pattern": pattern, "alpha_pattern": dict(pattern)}
    return Encoded(
        "folded",
        reason,
        fields,
        {target.name: target.rank for target in targets},
        {target.name: _ratio(target.scale, 1.0) for target in targets},
        {target.name: 1.0 for target in targets},
    )


def _patterns(targets: Sequence[Target], reason: str) -> Encoded:
    """What the global r and α say already gets no entry: PEFT warns of keys for `target_parameters`."""
    largest = _largest(targets)
    alphas = {target.name: alpha_for(target.scale, target.rank) for target in targets}
    common = _commonest_scale([target for target in targets if target.rank == largest])
    fields = config_fields(largest, alpha_for(common, largest))
    fields["rank_pattern"] = {
        anchored_key(target.name): target.rank for target in targets if target.rank != largest
    }
    fields["alpha_pattern"] = {
        anchored_key(name): alpha for name, alpha in alphas.items() if alpha != fields["lora_alpha"]
    }
    return Encoded(
        "patterns",
        reason,
        fields,
        {target.name: target.rank for target in targets},
        {target.name: 1.0 for target in targets},
        {target.name: alphas[target.name] / target.rank for target in targets},
    )


def config_fields(rank: int, alpha: int | float) -> dict[str, Any]:
    """Fields of a config with one rank and one α."""
    return {"r": rank, "lora_alpha": alpha, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}


ENCODINGS: dict[Encoding, EncodingRule] = {
    "uniform": EncodingRule("one r and one α for all modules", _uniform),
    "patterns": EncodingRule(
        "rank_pattern and alpha_pattern for the modules that differ from r and α", _patterns
    ),
    "padded": EncodingRule(
        "zeros bring every module to one rank on disk, which saves no memory in a server",
        partial(_one_alpha, "padded"),
    ),
    "folded": EncodingRule("the scale is multiplied into B, and α is the rank", _folded),
}
