"""The ranks that an audit suggests. A suggestion is a plan: the ranks of a criterion, and what decided them. Pure.

median, p90: one rank for all modules, `ToRank`. per_layer: `ToEnergy` at the threshold of the audit, on the grid.
Each keeps its evidence before rounding.
"""

from collections.abc import Sequence
from typing import Any

from gradience.adapters.keys import config_name
from gradience.adapters.patterns import anchored_key
from gradience.plan.blocking import blocks_suggestions
from gradience.plan.criteria import ToEnergy, ToRank
from gradience.plan.modules import Grid, Module, Ranks, alphas_at, modules_of, size_at
from gradience.ranks import max_lora_rank_step, percentile, round_up
from gradience.reports.audit import AuditReport, PerLayer, Suggestion, Suggestions

WEIGHT_ENERGY = (
    "fewest directions that hold {tau:.6g} of the squared singular values of each module. Crude: it ignores what the "
    "directions do to the model's output. Worth testing, not recommended"
)


def suggest(report: AuditReport, grid: Sequence[int]) -> Suggestions | None:
    """Return median, 90th percentile and per-layer suggestions on the allowed ranks `grid`.

    None if a finding rules them out, or no module has been trained.
    """
    if blocks_suggestions(report.findings) or all(row.energy_rank_tau is None for row in report.layers):
        return None
    modules = modules_of(report)
    largest = max(module.rank for module in modules)
    return Suggestions(
        tau=report.tau,
        allowed_ranks=tuple(rank for rank in grid if rank <= largest) or (min(grid),),
        current_max_rank=largest,
        current_max_lora_rank=max_lora_rank_step(largest),
        median=_uniform(report, modules, 50, grid),
        p90=_uniform(report, modules, 90, grid),
        per_layer=_per_layer(report, modules, grid),
    )


def with_suggestions(report: AuditReport, grid: Sequence[int]) -> AuditReport:
    """Return the report with the suggestions of `suggest`, and their basis, in place of the earlier ones."""
    suggestions = suggest(report, grid)
    resting = {} if suggestions is None else {"weight_energy": WEIGHT_ENERGY.format(tau=report.tau)}
    return report.model_copy(
        update={
            "suggestions": suggestions,
            "suggested_r_global_median": suggestions and suggestions.median.rank,
            "suggested_r_global_90": suggestions and suggestions.p90.rank,
            "evidence": resting,
        }
    )


def _uniform(report: AuditReport, modules: Sequence[Module], percent: int, grid: Sequence[int]) -> Suggestion:
    """The percentile of the energy ranks (each expert counts), rounded up and never above the largest rank."""
    needed = [row.energy_rank_tau for row in report.layers if row.energy_rank_tau is not None]
    unrounded = percentile(needed, percent)
    rank, decided_by = round_up(unrounded, grid, ceiling=max(module.rank for module in modules))
    return Suggestion(
        unrounded=float(unrounded),
        rank=rank,
        decided_by=decided_by,
        max_lora_rank=max_lora_rank_step(rank),
        **_size(modules, ToRank(rank).choose(report, modules)),
    )


def _per_layer(report: AuditReport, modules: Sequence[Module], grid: Sequence[int]) -> PerLayer:
    """Return an explicit rank for every module, and the α that preserves its scale."""
    chosen = ToEnergy(report.tau).choose(report, modules, Grid(grid))
    alphas = alphas_at(modules, chosen, use_rslora=report.adapter.use_rslora)
    widest = max(chosen, key=lambda name: chosen[name])
    return PerLayer(
        rank_pattern={anchored_key(config_name(name)): rank for name, rank in chosen.items()},
        alpha_pattern={anchored_key(config_name(name)): alpha for name, alpha in alphas.items()},
        r=chosen[widest],
        lora_alpha=alphas.get(widest),
        max_lora_rank=max_lora_rank_step(chosen[widest]),
        **_size(modules, chosen),
    )


def _size(modules: Sequence[Module], chosen: Ranks) -> dict[str, Any]:
    params, stored = size_at(modules, chosen)
    return {
        "params": params,
        "bytes": stored,
        "reduction": 1 - params / sum(module.params for module in modules),
    }
