"""An audit and a criterion -> a rank for every module. Pure: another way of scoring components is another room.

Components of a module are taken in the order of their singular values, so that a plan is a number of leading
components per module. Over several modules they compete by energy per parameter (σ²/(m + n)), see `allocate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from gradience import ranks
from gradience.adapters.keys import config_name
from gradience.adapters.patterns import anchored_key
from gradience.artifacts.audit import AuditReport
from gradience.artifacts.compression import CompressionPlan, ModulePlan
from gradience.errors import InputError, UsageError
from gradience.plan.allocate import Item, cover, fill, start_cost
from gradience.plan.modules import Module, modules_of, refuse_uncompressible
from gradience.spectra import energy_rank


@dataclass(frozen=True, slots=True)
class ToRank:
    """Every module to this rank (or its own, where that is smaller)."""

    rank: int


@dataclass(frozen=True, slots=True)
class ToEnergy:
    """Every module to the smallest rank that holds this share of its energy."""

    tau: float


@dataclass(frozen=True, slots=True)
class ToSuggestion:
    """What the audit suggests."""

    which: Literal["median", "p90", "per-layer"]


@dataclass(frozen=True, slots=True)
class ToBudget:
    """The best allocation under one limit over all modules. Exactly one of the fields is set.

    reduction: share of the LoRA parameters to save.   max_params, max_bytes: of the LoRA factors.
    max_error: √(Σ‖ΔW − ΔW′‖²/Σ‖ΔW‖²) over the whole adapter.
    """

    reduction: float | None = None
    max_params: int | None = None
    max_bytes: int | None = None
    max_error: float | None = None


@dataclass(frozen=True, slots=True)
class ToRanks:
    """A rank chosen for every module by name, 0 to leave it out. words: what the plan says it follows."""

    ranks: Mapping[str, int]
    words: str = "a rank given for each module"


Criterion = ToRank | ToEnergy | ToSuggestion | ToBudget | ToRanks
EDITED = ", then edited"


def plan_compression(
    report: AuditReport,
    criterion: Criterion,
    *,
    allowed_ranks: Sequence[int] | None = None,
    multiple_of: int | None = None,
    allow_untrained: bool = False,
) -> CompressionPlan:
    """Ranks for every module of an audited adapter.

    allowed_ranks: every rank is one of these, or the module's own.
    multiple_of: every rank is a multiple of it, or the module's own.

    allow_untrained: plan for an adapter whose every B·A is 0 as well.

    Raises InputError where the adapter must not be truncated (B·A is not the update, NaN, missing modules, untrained),
    UsageError for a criterion that makes no sense or a budget that cannot be met.
    """
    refuse_uncompressible(report, allow_untrained=allow_untrained)
    if isinstance(criterion, ToRanks) and (allowed_ranks is not None or multiple_of is not None):
        raise UsageError(
            "every module's rank is given, so there is nothing for --allowed-ranks or --multiple-of to round",
            code="two-grids",
            hint="leave them out",
        )
    ladder = _ladder(allowed_ranks, multiple_of)
    peak = max((value for layer in report.layers for value in layer.singular_values[:1]), default=0.0)
    modules = modules_of(report, peak or 1.0)
    chosen = _choose(report, modules, criterion, ladder)
    chosen |= {module.name: module.rank for module in modules if module.fixed}
    if not isinstance(
        criterion, ToBudget | ToRanks
    ):  # elsewhere a larger rank would break the limit, or the order
        chosen = _shared(chosen)
    if not any(chosen.values()):
        raise UsageError(
            "this budget leaves no component of any module",
            code="empty-plan",
            hint="allow more parameters, or a smaller error",
        )
    return _describe(report, modules, chosen, _words(criterion, allowed_ranks, multiple_of), peak or 1.0)


def _shared(chosen: Mapping[str, int]) -> dict[str, int]:
    """Modules that share a name in the config share a rank, which is the largest of theirs."""
    largest: dict[str, int] = {}
    for module, rank in chosen.items():
        name = config_name(module)
        largest[name] = max(largest.get(name, 0), rank)
    return {module: largest[config_name(module)] for module in chosen}


def ranks_of_plan(plan: CompressionPlan, report: AuditReport) -> ToRanks:
    """The ranks of an earlier plan, which may have been edited: everything else in it is worked out anew.

    Raises UsageError (plan-mismatch) where the plan was made for other weights than the audited ones.
    """
    if plan.adapter_sha256 != report.adapter.sha256:
        raise UsageError(
            f"{report.adapter.path}: the plan was made for another adapter (sha256 {plan.adapter_sha256[:12]} there, "
            f"{report.adapter.sha256[:12]} here)",
            code="plan-mismatch",
            hint="make a plan for this adapter with --dry-run --json",
        )
    edited = any(row.new_params * row.old_rank != row.old_params * row.new_rank for row in plan.modules)
    words = plan.criterion.removesuffix(EDITED) + EDITED if edited else plan.criterion
    return ToRanks({row.name: row.new_rank for row in plan.modules}, words)


# ---------------------------------------------------------------- which ranks are allowed

Ladder = Callable[[int], Sequence[int]]
"""Allocated rank -> the ranks that its module may get, ascending, without 0; the last is the allocated one."""


def _ladder(allowed: Sequence[int] | None, multiple_of: int | None) -> Ladder:
    if allowed is not None and multiple_of is not None:
        raise UsageError(
            "--allowed-ranks and --multiple-of say two things", code="two-grids", hint="give one of them"
        )
    if (allowed is not None and (not allowed or min(allowed) < 1)) or (
        multiple_of is not None and multiple_of < 1
    ):
        raise UsageError("allowed ranks are integers from 1", code="bad-grid", hint="--allowed-ranks 4,8,16")

    def ladder(rank: int) -> Sequence[int]:
        if allowed is not None:
            return sorted({step for step in allowed if step < rank} | {rank})
        if multiple_of is not None:
            return sorted({*range(multiple_of, rank, multiple_of), rank})
        return range(1, rank + 1)

    return ladder


def _up(rank: int, steps: Sequence[int]) -> int:
    """The smallest allowed rank that covers `rank`; 0 stays 0."""
    return next((step for step in steps if step >= rank), steps[-1]) if rank else 0


# ---------------------------------------------------------------- criteria


def _choose(
    report: AuditReport, modules: Sequence[Module], criterion: Criterion, ladder: Ladder
) -> dict[str, int]:
    match criterion:
        case ToRank(rank):
            if rank < 1:
                raise UsageError(f"a rank of {rank} makes no sense", code="bad-rank", hint="--rank 16")
            return {module.name: _up(min(rank, module.rank), ladder(module.rank)) for module in modules}
        case ToEnergy(tau):
            if not 0 < tau <= 1:
                raise UsageError(f"energy is {tau}, not in (0, 1]", code="bad-tau", hint="--energy 0.95")
            return {module.name: _up(_energy_rank(module, tau), ladder(module.rank)) for module in modules}
        case ToSuggestion(which):
            return _suggested(report, modules, which, ladder)
        case ToBudget():
            return _allocate(modules, criterion, ladder)
        case ToRanks(given):
            return _given(modules, given)


def _given(modules: Sequence[Module], given: Mapping[str, int]) -> dict[str, int]:
    names = {module.name for module in modules}
    odd = sorted(names ^ given.keys())
    if odd:
        what = "has no rank in the plan" if odd[0] in names else "is in the plan, not in the adapter"
        raise UsageError(
            f"{odd[0]} {what} ({len(odd)} such modules)",
            code="plan-mismatch",
            hint="give a rank for every module of the adapter, and for no other",
        )
    for module in modules:
        rank = given[module.name]
        if not 0 <= rank <= module.rank:
            why = f"it has rank {module.rank}, and no other can be made than 0 to {module.rank}"
        elif module.fixed and rank != module.rank:
            why = f"it keeps its rank {module.rank} ({module.fixed})"
        elif rank == 0 and module.stays:
            why = "it cannot be left out: other tensors or experts need it"
        else:
            continue
        raise UsageError(
            f"rank {rank} for {module.name}: {why}", code="bad-rank", hint="correct its new_rank in the plan"
        )
    return dict(given)


def _energy_rank(module: Module, tau: float) -> int:
    """Over experts the largest; 1 for an untrained module."""
    needed = [energy_rank(values, tau) for values in module.spectra if values.any()]
    return max(needed, default=1)


def _suggested(report: AuditReport, modules: Sequence[Module], which: str, ladder: Ladder) -> dict[str, int]:
    found = report.suggestions
    if found is None:
        raise InputError(
            f"{report.adapter.path}: the audit suggests no rank for this adapter",
            code="no-suggestion",
            hint="`gradience audit` says why; --rank or --energy need no suggestion",
        )
    if which == "per-layer":
        ranks_of = {
            module.name: found.per_layer.rank_pattern[anchored_key(config_name(module.name))]
            for module in modules
        }
    else:
        rank = found.median.rank if which == "median" else found.p90.rank
        ranks_of = {module.name: min(rank, module.rank) for module in modules}
    return {module.name: _up(ranks_of[module.name], ladder(module.rank)) for module in modules}


def _allocate(modules: Sequence[Module], budget: ToBudget, ladder: Ladder) -> dict[str, int]:
    given = [name for name in _BUDGETS if getattr(budget, name) is not None]
    if len(given) != 1:
        raise UsageError(
            f"a budget is exactly one of {', '.join(_BUDGETS)}",
            code="several-criteria",
            hint="give one criterion",
        )
    _check_budget(given[0], getattr(budget, given[0]))
    if budget.max_error is not None:
        items = [_item(module, module.cost, ladder) for module in modules]
        total = sum(float(module.energies.sum()) for module in modules)
        return cover(items, budget.max_error**2 * total)
    if budget.max_bytes is not None:
        items = [_item(module, module.stored_cost, ladder) for module in modules]
        limit, unit = budget.max_bytes, "bytes"
    else:
        items = [_item(module, module.cost, ladder) for module in modules]
        limit, unit = _params_limit(modules, budget), "parameters"
    if start_cost(items) > limit:
        raise UsageError(
            f"this budget of {limit:,} {unit} cannot be met: modules that must stay need {start_cost(items):,}",
            code="bad-budget",
            hint="`gradience compress --dry-run --rank 1` shows the smallest plan",
        )
    return fill(items, limit)


def _item(module: Module, cost: int, ladder: Ladder) -> Item:
    if module.fixed:
        return Item(module.name, module.energies, cost, module.rank, ())
    steps = ladder(module.rank)
    return Item(module.name, module.energies, cost, steps[0] if module.stays else 0, steps)


_BUDGETS = ("reduction", "max_params", "max_bytes", "max_error")


def _check_budget(name: str, value: float) -> None:
    if name in ("max_params", "max_bytes"):
        if value < 1:
            raise UsageError("a budget is at least 1", code="bad-budget", hint="--max-params 1000000")
    elif not 0 <= value < 1:
        what = "a reduction" if name == "reduction" else "an error"
        raise UsageError(
            f"{what} of {value} is not in [0, 1)",
            code="bad-budget",
            hint="--reduction 0.5" if name == "reduction" else "--max-error 0.1",
        )


def _params_limit(modules: Sequence[Module], budget: ToBudget) -> int:
    if budget.max_params is not None:
        return budget.max_params
    # As it was typed: in binary, 10 % of 1,000 parameters are 99.99999999999998.
    kept = 1 - Fraction(str(budget.reduction))
    return math.floor(sum(module.params for module in modules) * kept)


# ---------------------------------------------------------------- description


def _describe(
    report: AuditReport, modules: Sequence[Module], chosen: dict[str, int], criterion: str, peak: float
) -> CompressionPlan:
    rows = tuple(_row(module, chosen[module.name], peak) for module in modules)
    total = math.fsum(float(module.energies[::-1].sum()) for module in modules)
    lost = math.fsum(float(module.energies[chosen[module.name] :][::-1].sum()) for module in modules)
    old_params = sum(row.old_params for row in rows)
    new_params = sum(row.new_params for row in rows)
    largest = max(chosen.values())
    return CompressionPlan(
        adapter_path=report.adapter.path,
        adapter_sha256=report.adapter.sha256,
        criterion=criterion,
        modules=rows,
        old_params=old_params,
        new_params=new_params,
        old_bytes=sum(row.old_bytes for row in rows),
        new_bytes=sum(row.new_bytes for row in rows),
        reduction=1 - new_params / old_params,
        kept_energy=1 - lost / total if total else 1.0,
        predicted_error=math.sqrt(lost / total) if total else 0.0,
        max_rank=largest,
        old_max_lora_rank=ranks.max_lora_rank_step(max(module.rank for module in modules)),
        new_max_lora_rank=ranks.max_lora_rank_step(largest),
    )


def _row(module: Module, rank: int, peak: float) -> ModulePlan:
    total = float(module.energies[::-1].sum())
    lost = float(module.energies[rank:][::-1].sum())
    return ModulePlan(
        name=module.name,
        old_rank=module.rank,
        new_rank=rank,
        old_params=module.params,
        new_params=module.cost * rank,
        old_bytes=module.bytes,
        new_bytes=module.stored_cost * rank,
        kept_energy=1 - lost / total if total else None,
        predicted_error=math.sqrt(lost / total) if total else None,
        norm=None if module.scale is None else peak * math.sqrt(total),
        scale=module.scale,
        fixed=module.fixed,
    )


def _words(criterion: Criterion, allowed: Sequence[int] | None, multiple_of: int | None) -> str:
    match criterion:
        case ToRank(rank):
            text = f"rank {rank}"
        case ToEnergy(tau):
            text = f"energy at least {tau:.6g} in every module"
        case ToSuggestion(which):
            text = f"suggested ({which})"
        case ToRanks(words=words):
            text = words
        case ToBudget(reduction, max_params, max_bytes, max_error):
            if reduction is not None:
                text = f"{reduction:.6g} of the parameters saved, allocated by energy per parameter"
            elif max_params is not None:
                text = f"at most {max_params:,} parameters, allocated by energy per parameter"
            elif max_bytes is not None:
                text = f"at most {max_bytes:,} bytes, allocated by energy per parameter"
            else:
                text = f"relative error at most {max_error:.6g}, allocated by energy per parameter"
    if allowed is not None:
        text += f", ranks from {', '.join(str(rank) for rank in sorted(set(allowed)))}"
    if multiple_of is not None:
        text += f", ranks a multiple of {multiple_of}"
    return text
