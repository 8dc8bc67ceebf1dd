"""An audit and a size that one asks for -> the plan of a compression: a rank for every module, and what that costs."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradience.arguments import wrong_type
from gradience.errors import UsageError
from gradience.files.shared_names import given_text
from gradience.plan.blocking import refuse_empty, refuse_uncompressible
from gradience.plan.calibrated import (
    ToKl,
    calibrated,
    predicted,
    with_calibration,
)
from gradience.plan.criteria import (
    Criterion,
    ToBudget,
    ToEnergy,
    ToHost,
    ToOwnRanks,
    ToPlan,
    ToRank,
    ToSuggestion,
)
from gradience.plan.hosts import limit_of
from gradience.plan.modules import Grid, Module, Ranks, modules_of, size_at
from gradience.ranks import max_lora_rank_step
from gradience.reports.audit import AuditReport
from gradience.reports.base.prediction import ROUTED
from gradience.reports.calibration import Calibration
from gradience.reports.compression import CompressionPlan, ModulePlan
from gradience.spectra import lost_energy, relative_error


def _plan(given: CompressionPlan | str | os.PathLike[str]) -> ToPlan:
    if isinstance(given, CompressionPlan):
        return ToPlan(given)
    return ToPlan(CompressionPlan.read(given), given_text(given))


def _budget(name: str) -> Callable[[Any], Criterion]:
    return lambda value: ToBudget(**{name: value})


def _host(target: str) -> Criterion:
    return ToHost(limit_of(target))


SIZES: dict[str, Callable[[Any], Criterion]] = {
    "rank": ToRank,
    "energy": ToEnergy,
    "suggested": ToSuggestion,
    "reduction": _budget("reduction"),
    "max_params": _budget("max_params"),
    "max_error": _budget("max_error"),
    "max_kl_per_token": ToKl,
    "host": _host,
    "plan": _plan,
}
"""The ways to ask for a size -> what makes a criterion of the value."""
MAX_STRENGTH = 10.0
"""The largest factor for an update; more is taken for a slip."""


def criterion_of(given: Mapping[str, Any], strength: float | None = None) -> Criterion:
    """Return the one criterion that was given; None means not given.

    given: name in SIZES -> value. strength: without a size, a new strength leaves the ranks as they are.
    Raises UsageError for none or several, InputError for a plan that cannot be read.
    """
    names = [name for name, value in given.items() if value is not None]
    flags = {name: "--for" if name == "host" else f"--{name.replace('_', '-')}" for name in SIZES}
    if not names and strength is not None:
        return ToOwnRanks()
    if len(names) != 1:
        several = f"give only one of {' and '.join(flags[name] for name in names)}"
        raise UsageError(
            several if names else "no target size given",
            code="several-criteria",
            hint=f"give exactly one of {', '.join(flags.values())}; or --strength X only",
        )
    return SIZES[names[0]](given[names[0]])


def plan_compression(
    report: AuditReport,
    criterion: Criterion,
    *,
    allowed_ranks: Sequence[int] | None = None,
    path: str | os.PathLike[str] | None = None,
    calibration: Calibration | None = None,
    allow_routed: bool = False,
    strength: float | None = None,
) -> CompressionPlan:
    """Plan a rank for every module of an audited adapter, and return the predicted cost.

    >>> plan = plan_compression(audit_adapter("my_adapter"), ToRank(4))
    >>> plan.old_params, plan.new_params, f"{plan.predicted_error:.1%}"
    (135168, 67584, '12.6%')

    allowed_ranks: every rank is one of these, or the module's own.
    path: path of the adapter for error messages, since a report omits parent folders.
    calibration: ranks components by their effect on the output instead of their energy, and adds a prediction.
    allow_routed: predict the KL, and accept a limit on it, even if the base routes tokens to experts.
    strength: factor for the update, above 0 and at most 10; by default that of an earlier plan, else 1.

    Raises InputError if the adapter must not be truncated (B·A is not the update, NaN, missing modules,
    untrained), UsageError for an invalid criterion or strength, or a budget that cannot be met.
    """
    if not isinstance(report, AuditReport):
        raise wrong_type("report", report, "an AuditReport", "audit_adapter(path) returns one")
    if not hasattr(criterion, "choose"):
        raise wrong_type("criterion", criterion, "a criterion, such as ToRank(16)")
    refuse_uncompressible(report, path=path)
    grid = Grid(allowed_ranks)
    modules: Sequence[Module] = modules_of(report)
    strength = _strength(strength, criterion, calibration)
    if isinstance(criterion, ToPlan):
        criterion.refuse_calibration(None if calibration is None else calibration.sha256)
    if calibration is None:
        chosen = criterion.choose(report, modules, grid)
        refuse_empty(chosen.values())
        return _described(report, modules, chosen, criterion.words + grid.words, strength)
    modules, criterion = with_calibration(report, modules, calibration), calibrated(criterion)
    routing = calibration.report.routing
    if routing and not allow_routed and isinstance(criterion, ToKl):
        raise UsageError(
            f"{calibration.path}: {ROUTED.format(routing)}",
            code="routed-base",
            hint="give --reduction, --max-params or --rank and evaluate the result, or add --allow-routed"
            " (Python: allow_routed=True)",
        )
    chosen = criterion.choose(report, modules, grid)
    refuse_empty(chosen.values())
    plan = _described(report, modules, chosen, criterion.words + grid.words)
    foreseen: dict[str, object] = {"prediction_withheld": ROUTED.format(routing)}
    if not routing or allow_routed:
        foreseen = {"prediction": predicted(modules, chosen, calibration.report)}
    return plan.model_copy(update={"calibration_sha256": calibration.sha256, **foreseen})


def _strength(given: float | None, criterion: Criterion, calibration: Calibration | None) -> float:
    """Return the factor for the update. Raises UsageError (`bad-strength`, `strength-and-calibration`)."""
    planned = criterion.plan.strength if isinstance(criterion, ToPlan) else 1.0
    strength = planned if given is None else given
    if not 0 < strength <= MAX_STRENGTH:
        raise UsageError(
            f"strength is {strength:g}, but must be above 0 and at most {MAX_STRENGTH:g}",
            code="bad-strength",
            hint="give a factor such as 0.8, which multiplies the update by 0.8",
        )
    if strength != 1 and calibration is not None:
        raise UsageError(
            "--strength with --calibration: the predicted KL does not cover a new strength",
            code="strength-and-calibration",
            hint="compress with the calibration first, then change the strength of the result",
        )
    return strength


def _described(
    report: AuditReport, modules: Sequence[Module], chosen: Ranks, criterion: str, strength: float = 1.0
) -> CompressionPlan:
    """The plan, with the sizes and the loss that the ranks `chosen` and the strength come to."""
    now = {module.name: module.rank for module in modules}
    old_params, old_bytes = size_at(modules, now)
    new_params, new_bytes = size_at(modules, chosen)
    rows, losses, totals = [], [], []
    for module in modules:
        rank = chosen[module.name]
        losses.append(module.lost(rank))
        totals.append(lost_energy(module.energies, 0))
        rows.append(_row(module, rank, losses[-1], totals[-1], strength))
    lost, total = math.fsum(losses), math.fsum(totals)
    largest = max(chosen.values())
    return CompressionPlan(
        adapter_path=report.adapter.path,
        adapter_sha256=report.adapter.sha256,
        criterion=criterion,
        strength=strength,
        modules=tuple(rows),
        old_params=old_params,
        new_params=new_params,
        old_bytes=old_bytes,
        new_bytes=new_bytes,
        reduction=1 - new_params / old_params,
        kept_energy=1 - lost / total if total else 1.0,
        predicted_error=relative_error(_changed(lost, total, strength), total) or 0.0,
        max_rank=largest,
        old_max_lora_rank=max_lora_rank_step(max(now.values())),
        new_max_lora_rank=max_lora_rank_step(largest),
    )


def _changed(lost: float, total: float, strength: float) -> float:
    """‖ΔW − α·ΔW_k‖² = Σ_{i>k}σ² + (1 − α)²·Σ_{i≤k}σ², with the strength α and `lost` the first sum."""
    return lost + (1 - strength) ** 2 * (total - lost)


def _row(module: Module, rank: int, lost: float, total: float, strength: float) -> ModulePlan:
    """One module at `rank`, which leaves out `lost` of its energy `total`."""
    return ModulePlan(
        name=module.name,
        old_rank=module.rank,
        new_rank=rank,
        old_params=module.params,
        new_params=module.cost * rank,
        old_bytes=module.bytes,
        new_bytes=module.stored_cost * rank,
        kept_energy=1 - lost / total if total else None,
        predicted_error=relative_error(_changed(lost, total, strength), total),
        norm=None if module.scale is None else module.unit * math.sqrt(total),
        scale=module.scale,
        fixed=module.fixed,
    )
