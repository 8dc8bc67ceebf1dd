"""Measured modules -> suggested ranks (DESIGN: hypotheses, each with its unrounded evidence). Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from gradience import ranks
from gradience.adapters.keys import config_name
from gradience.adapters.patterns import anchored_key
from gradience.artifacts.audit import LayerAudit, PerLayer, Suggestion, Suggestions


class ModuleEvidence(NamedTuple):
    """One module as PEFT configures it: all experts of a stacked tensor share one rank."""

    name: str
    size: ranks.ModuleSize
    experts: int
    evidence: int | None
    """The largest energy rank of its experts; None for an untrained module."""
    alpha: float | None
    keeps_rank: bool
    """True where the module could not be measured, or is a grouped convolution: PEFT needs a multiple of its groups,
    and an energy rank says nothing about the rank of each group."""


def collect(layers: Iterable[LayerAudit]) -> list[ModuleEvidence]:
    """Group the rows of a report by module, in their order."""
    grouped: dict[str, list[LayerAudit]] = {}
    for layer in layers:
        grouped.setdefault(layer.name, []).append(layer)
    modules = []
    for name, rows in grouped.items():
        first = rows[0]
        found = [row.energy_rank_tau for row in rows if row.energy_rank_tau is not None]
        itemsize = first.bytes / first.params
        modules.append(
            ModuleEvidence(
                name,
                ranks.ModuleSize(first.r, first.shape[0], first.shape[1], itemsize, first.groups),
                len(rows),
                max(found) if found else None,
                first.alpha,
                keeps_rank=first.groups > 1 or any(row.status not in ("ok", "untrained") for row in rows),
            )
        )
    return modules


def suggest(
    layers: Sequence[LayerAudit], *, tau: float, grid: Sequence[int], use_rslora: bool
) -> Suggestions | None:
    """Median, 90th percentile and per-module suggestions; None where no module has been trained."""
    evidence = [layer.energy_rank_tau for layer in layers if layer.energy_rank_tau is not None]
    if not evidence:
        return None
    modules = collect(layers)
    largest = max(module.size.rank for module in modules)
    return Suggestions(
        tau=tau,
        grid=tuple(rank for rank in grid if rank <= largest) or (min(grid),),
        current_max_rank=largest,
        current_max_lora_rank=ranks.max_lora_rank_step(largest),
        median=_uniform(modules, ranks.percentile(evidence, 50), grid, largest),
        p90=_uniform(modules, ranks.percentile(evidence, 90), grid, largest),
        per_layer=per_layer(modules, grid=grid, use_rslora=use_rslora),
    )


def _uniform(
    modules: Sequence[ModuleEvidence], unrounded: Fraction, grid: Sequence[int], largest: int
) -> Suggestion:
    rank, decided_by = ranks.round_up(unrounded, grid, ceiling=largest)
    chosen = {
        module.name: module.size.rank if module.keeps_rank else min(rank, module.size.rank)
        for module in modules
    }
    params, stored = cost(modules, chosen)
    return Suggestion(
        unrounded=float(unrounded),
        rank=rank,
        params=params,
        bytes=stored,
        reduction=1 - params / _current_params(modules),
        decided_by=decided_by,
        max_lora_rank=ranks.max_lora_rank_step(rank),
    )


def per_layer(modules: Sequence[ModuleEvidence], *, grid: Sequence[int], use_rslora: bool) -> PerLayer:
    """An explicit rank for every module, and the α that leaves its scale alone.

    An untrained module gets the smallest rank of the grid; one that `keeps_rank` its own.
    """
    largest: dict[str, int] = {}
    for module in modules:
        name = config_name(module.name)
        largest[name] = max(largest.get(name, 0), _rank_for(module, grid))
    chosen = {module.name: largest[config_name(module.name)] for module in modules}
    alphas = {
        module.name: scaled_alpha(module.alpha, module.size.rank, chosen[module.name], use_rslora=use_rslora)
        for module in modules
        if module.alpha is not None
    }
    params, stored = cost(modules, chosen)
    widest = max(chosen, key=lambda name: chosen[name])
    return PerLayer(
        rank_pattern={anchored_key(config_name(name)): rank for name, rank in chosen.items()},
        alpha_pattern={anchored_key(config_name(name)): alpha for name, alpha in alphas.items()},
        r=chosen[widest],
        lora_alpha=alphas.get(widest),
        params=params,
        bytes=stored,
        reduction=1 - params / _current_params(modules),
        max_lora_rank=ranks.max_lora_rank_step(chosen[widest]),
    )


def _rank_for(module: ModuleEvidence, grid: Sequence[int]) -> int:
    if module.keeps_rank:
        return module.size.rank
    evidence = module.evidence if module.evidence is not None else min(grid)
    return ranks.round_up(evidence, grid, ceiling=module.size.rank)[0]


def cost(modules: Iterable[ModuleEvidence], chosen: dict[str, int]) -> tuple[int, int]:
    """Parameters and bytes of the LoRA factors when each module has its `chosen` rank."""
    params = stored = 0
    for module in modules:
        params += module.experts * module.size.params(chosen[module.name])
        stored += module.experts * module.size.bytes(chosen[module.name])
    return params, stored


def _current_params(modules: Iterable[ModuleEvidence]) -> int:
    return sum(module.experts * module.size.params(module.size.rank) for module in modules)


def scaled_alpha(alpha: float, rank: int, new_rank: int, *, use_rslora: bool) -> int | float:
    """α′ that keeps the scale: α·r′/r, with rsLoRA α·√(r′/r). An integer where it is one."""
    ratio = new_rank / rank
    value = alpha * math.sqrt(ratio) if use_rslora else alpha * new_rank / rank
    return int(value) if float(value).is_integer() else value
