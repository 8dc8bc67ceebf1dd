"""An audit and a criterion -> a rank for every module. Pure: another way of scoring components is another room.

Components of a module are taken in the order of their singular values, so that a plan is a number of leading
components per module. Over several modules they compete by energy per parameter (σ²/(m + n)): with steps of equal
or growing size that density never rises along a module, which makes the greedy choice the best one per budget.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gradience import ranks
from gradience.adapters.inventory import LORA_BIAS_REASON
from gradience.adapters.keys import parse_key
from gradience.adapters.patterns import anchored_key
from gradience.artifacts.audit import AuditReport, LayerAudit
from gradience.artifacts.compression import CompressionPlan, ModulePlan
from gradience.errors import InputError, UsageError
from gradience.findings import BLOCKING
from gradience.ranks import ModuleSize
from gradience.spectra import ENERGY_SLACK, FloatArray


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


Criterion = ToRank | ToEnergy | ToSuggestion | ToBudget


@dataclass(frozen=True, slots=True)
class Module:
    """One module as the allocation sees it.

    energies: (r,) σ² of its components, summed over experts, in units of ‖ΔW‖² (with s where it is known).
    floor: smallest rank it may get.   fixed: why it must keep its rank.
    """

    name: str
    size: ModuleSize
    experts: int
    energies: FloatArray
    spectra: tuple[FloatArray, ...]
    floor: int
    fixed: str

    @property
    def cost(self) -> int:
        """Parameters of one component."""
        return self.experts * (self.size.rows + self.size.columns)


def plan_compression(
    report: AuditReport,
    criterion: Criterion,
    *,
    allowed_ranks: Sequence[int] | None = None,
    multiple_of: int | None = None,
) -> CompressionPlan:
    """Ranks for every module of an audited adapter.

    allowed_ranks: every rank is one of these (or the module's own where none fits below it).
    multiple_of: every rank is a multiple of it (or the module's own).

    Raises InputError where the adapter must not be truncated (B·A is not the update, NaN, missing modules),
    UsageError for a criterion that makes no sense.
    """
    _refuse(report)
    modules = _modules(report)
    ladder = _ladder(allowed_ranks, multiple_of)
    chosen = _choose(report, modules, criterion, ladder)
    chosen = {
        module.name: module.size.rank if module.fixed else max(module.floor, chosen[module.name])
        for module in modules
    }
    if not any(chosen.values()):
        raise UsageError(
            "this budget leaves no component of any module",
            code="empty-plan",
            hint="allow more parameters, or a larger error",
        )
    return _describe(report, modules, chosen, _words(criterion, allowed_ranks, multiple_of))


def _refuse(report: AuditReport) -> None:
    path = report.adapter.path
    blocking = next((finding for finding in report.findings if finding.code in BLOCKING), None)
    if blocking is not None:
        raise InputError(
            f"{path}: cannot be compressed: {blocking.message}", code=blocking.code, hint=blocking.hint
        )
    if report.coverage.unaudited:
        first = report.coverage.unaudited[0]
        raise InputError(
            f"{path}: cannot be compressed: {len(report.coverage.unaudited)} tensors were not understood, "
            f"the first is {first.tensor} ({first.reason})",
            code="unaudited",
            hint="see `gradience audit` for all of them",
        )
    if not report.layers:
        raise InputError(f"{path}: has no LoRA modules", code="no-lora-tensors", hint="nothing to compress")


def _modules(report: AuditReport) -> list[Module]:
    """The rows of the audit, grouped: experts of a stacked tensor share one rank."""
    grouped: dict[str, list[LayerAudit]] = defaultdict(list)
    for layer in report.layers:
        grouped[layer.name].append(layer)
    biased = {
        parse_key(note.tensor).module for note in report.coverage.other if note.reason == LORA_BIAS_REASON
    }
    keep = report.adapter.use_dora  # without its factors a DoRA layer would lose its magnitude as well
    return [_module(name, rows, floor=int(keep or name in biased)) for name, rows in grouped.items()]


def _module(name: str, rows: Sequence[LayerAudit], *, floor: int) -> Module:
    first = rows[0]
    spectra = tuple(_spectrum(row) for row in rows)
    energies = np.zeros(first.r)
    for values in spectra:
        energies[: len(values)] += np.square(values)
    stacked = first.kind == "expert"
    return Module(
        name=name,
        size=ModuleSize(first.r, first.shape[0], first.shape[1], first.bytes / first.params),
        experts=len(rows),
        energies=energies,
        spectra=spectra,
        floor=1 if stacked else floor,
        fixed="block-diagonal B of a grouped convolution" if first.groups > 1 else "",
    )


def _spectrum(layer: LayerAudit) -> FloatArray:
    return np.asarray(layer.singular_values, dtype=np.float64)


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
            return {
                module.name: _up(min(rank, module.size.rank), ladder(module.size.rank)) for module in modules
            }
        case ToEnergy(tau):
            if not 0 < tau <= 1:
                raise UsageError(f"energy is {tau}, not in (0, 1]", code="bad-tau", hint="--energy 0.95")
            return {
                module.name: _up(_energy_rank(module, tau), ladder(module.size.rank)) for module in modules
            }
        case ToSuggestion(which):
            return _suggested(report, modules, which, ladder)
        case ToBudget():
            return _allocate(modules, criterion, ladder)


def _energy_rank(module: Module, tau: float) -> int:
    """Over experts the largest; 1 for an untrained module."""
    needed = 1
    for values in module.spectra:
        total = float(np.square(values).sum())
        if total > 0:
            held = np.square(values).cumsum() / total
            needed = max(needed, int((held < tau - ENERGY_SLACK).sum()) + 1)
    return min(needed, module.size.rank)


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
            module.name: found.per_layer.rank_pattern[anchored_key(module.name)] for module in modules
        }
    else:
        rank = found.median.rank if which == "median" else found.p90.rank
        ranks_of = {module.name: min(rank, module.size.rank) for module in modules}
    return {module.name: _up(ranks_of[module.name], ladder(module.size.rank)) for module in modules}


def _allocate(modules: Sequence[Module], budget: ToBudget, ladder: Ladder) -> dict[str, int]:
    """Steps of all modules in the order of energy per parameter, until the limit is reached."""
    limits = (budget.reduction, budget.max_params, budget.max_bytes, budget.max_error)
    if sum(value is not None for value in limits) != 1:
        raise UsageError(
            "a budget is exactly one of reduction, max_params, max_bytes, max_error",
            code="several-criteria",
            hint="give one criterion",
        )
    chosen = {module.name: module.size.rank if module.fixed else module.floor for module in modules}
    used = {
        "params": float(sum(module.cost * chosen[module.name] for module in modules)),
        "bytes": sum(module.cost * module.size.itemsize * chosen[module.name] for module in modules),
    }
    unit, limit = _limit(modules, budget)
    lost = sum(float(module.energies[chosen[module.name] :].sum()) for module in modules)
    total = sum(float(module.energies.sum()) for module in modules)
    allowed_loss = (budget.max_error or 0.0) ** 2 * total
    heap: list[tuple[float, int, int]] = []
    for index, module in enumerate(modules):
        if not module.fixed:
            _push(heap, index, module, chosen[module.name], ladder)
    while heap and not (unit == "error" and lost <= allowed_loss):
        _, index, target = heapq.heappop(heap)
        module = modules[index]
        step = target - chosen[module.name]
        price = step * module.cost * (module.size.itemsize if unit == "bytes" else 1.0)
        if unit != "error" and used[unit] + price > limit:
            continue  # nothing larger of this module fits either; cheaper modules still may
        if unit != "error":
            used[unit] += price
        lost -= float(module.energies[chosen[module.name] : target].sum())
        chosen[module.name] = target
        _push(heap, index, module, target, ladder)
    return chosen


def _push(heap: list[tuple[float, int, int]], index: int, module: Module, rank: int, ladder: Ladder) -> None:
    """The next step of a module, keyed by its energy per parameter; none where no energy is left."""
    target = next((step for step in ladder(module.size.rank) if step > rank), None)
    if target is None:
        return
    gain = float(module.energies[rank:target].sum())
    if gain > 0:
        heapq.heappush(heap, (-gain / (module.cost * (target - rank)), index, target))


def _limit(modules: Sequence[Module], budget: ToBudget) -> tuple[str, float]:
    if budget.reduction is not None:
        if not 0 <= budget.reduction < 1:
            raise UsageError(
                f"a reduction of {budget.reduction} is not in [0, 1)",
                code="bad-budget",
                hint="--reduction 0.5",
            )
        now = sum(module.cost * module.size.rank for module in modules)
        return "params", now * (1 - budget.reduction)
    if budget.max_error is not None:
        if not 0 <= budget.max_error < 1:
            raise UsageError(
                f"an error of {budget.max_error} is not in [0, 1)", code="bad-budget", hint="--max-error 0.1"
            )
        return "error", math.inf
    limit = budget.max_params if budget.max_params is not None else budget.max_bytes
    if limit is None or limit < 1:
        raise UsageError("a budget is at least 1", code="bad-budget", hint="--max-params 1000000")
    return ("params" if budget.max_params is not None else "bytes"), float(limit)


# ---------------------------------------------------------------- description


def _describe(
    report: AuditReport, modules: Sequence[Module], chosen: dict[str, int], criterion: str
) -> CompressionPlan:
    rows = tuple(_row(report, module, chosen[module.name]) for module in modules)
    total = sum(float(module.energies.sum()) for module in modules)
    lost = sum(float(module.energies[chosen[module.name] :][::-1].sum()) for module in modules)
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
        old_max_lora_rank=ranks.max_lora_rank_step(max(module.size.rank for module in modules)),
        new_max_lora_rank=ranks.max_lora_rank_step(largest),
    )


def _row(report: AuditReport, module: Module, rank: int) -> ModulePlan:
    total = float(module.energies[::-1].sum())
    lost = float(module.energies[rank:][::-1].sum())
    size = module.size
    return ModulePlan(
        name=module.name,
        old_rank=size.rank,
        new_rank=rank,
        old_params=module.experts * size.params(size.rank),
        new_params=module.experts * size.params(rank),
        old_bytes=module.experts * size.bytes(size.rank),
        new_bytes=module.experts * size.bytes(rank),
        kept_energy=1 - lost / total if total else None,
        predicted_error=math.sqrt(lost / total) if total else None,
        norm=math.sqrt(total) if report.gain is not None or total == 0 else None,
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
