"""An audit and a requested size -> the plan of a compression: a rank for every module, and what that costs. Pure.

With a calibration, a module's components have the effects that were measured. To second order, KL(reference ‖ smaller)
of a row is half the expected square of the change of its logits along a random direction whose covariance is the
softmax's Fisher information: ½·E(Σ over all that is left out of ⟨J, p·qᵀ⟩)². One half of the rows selects components,
the other half predicts their cost.
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradience.adapters.adapter import SkippedTensor, norm_overflow
from gradience.errors import InputError, UsageError, wrong_type
from gradience.files.shared_names import given_text
from gradience.plan import criteria
from gradience.plan.allocate import RankStep, fill, start_cost, steps_of
from gradience.plan.modules import EVERY_RANK, Effects, Grid, Module, Ranks, item_of, modules_of, size_at
from gradience.ranks import max_lora_rank_step
from gradience.reports.audit import AuditReport, TensorNote
from gradience.reports.base.prediction import RATIOS, ROUTED, Prediction
from gradience.reports.calibration import Calibration, CalibrationReport, CurvePoint
from gradience.reports.compression import CompressionPlan, ModulePlan
from gradience.settings import AboveZero, checked
from gradience.spectra import FloatArray, lost_energy, relative_error
from gradience.words import noun

# ---------------------------------------------------------------- components and predictions of a calibration

SCALE_TOLERANCE = 1e-9
NORMAL = 2.576
"""Normal quantile for an interval that covers 95 %: nominally 99 %, since rows with a large effect are rare
(docs/calibrate.md).
"""
NOT_CALIBRATED = "not in the calibration: {}"


def with_calibration(
    report: AuditReport, modules: Sequence[Module], calibration: Calibration
) -> list[Module]:
    """The modules with the effects of their components; those that the calibration leaves out keep their rank.

    Raises UsageError (`other-calibration`) for the calibration of another adapter, or of another scale.
    """
    facts = calibration.report
    here, there = report.adapter.sha256, facts.adapter_sha256
    if here != there:
        raise _other(calibration, f"made for sha256 {there[:12]}; {report.adapter.path} has {here[:12]}")
    scales = {row.name: row.scale for row in facts.modules}
    for module in modules:
        scale = scales.get(module.name)
        if scale is not None and not math.isclose(scale, module.scale or 0.0, rel_tol=SCALE_TOLERANCE):
            raise _other(
                calibration, f"{module.name} had the scale {scale:g} there, and has {module.scale} here"
            )
    if not any(module.name in calibration.modules for module in modules):
        raise _other(calibration, f"none of its modules is in {report.adapter.path}")
    reasons = {row.name: row.reason for row in facts.excluded}
    return [
        replace(module, effects=effects_of(calibration, module))
        if module.name in calibration.modules
        else replace(
            module, fixed=module.fixed or NOT_CALIBRATED.format(reasons.get(module.name, "unknown to it"))
        )
        for module in modules
    ]


def effects_of(calibration: Calibration, module: Module) -> Effects:
    """Return the calibrated effects of one module, at every rank up to its own."""
    moments, selects = calibration.modules[module.name], calibration.selection
    effects, svd = (_wide(measured, module.rank) for measured in (moments.effects, moments.svd_effects))
    whole = float(module.energies.sum())
    lost = np.append(moments.lost, np.zeros(module.rank + 1 - len(moments.lost))) * whole
    return Effects(
        scores=np.square(effects[selects]).mean(axis=0),
        lost=lost,
        predicting=effects[~selects],
        svd_predicting=svd[~selects],
        tokens=int(calibration.tokens[~selects].sum()),
    )


@checked
class ToKl:
    """The smallest adapter whose predicted KL per scored token, in nats, is at most this. Needs a calibration.

    >>> calibration = Calibration.read("calibration.safetensors")
    >>> plan = plan_compression(audit_adapter("my_adapter"), ToKl(0.001), calibration=calibration)
    >>> plan.prediction.kl_per_token < plan.prediction.high <= 0.001
    True

    Components are taken by effect per parameter. Ranks grow until the upper end of every prediction's 95 % interval is
    at or below the limit.
    """

    max_kl_per_token: AboveZero

    @property
    def words(self) -> str:
        return (
            f"predicted KL at most {self.max_kl_per_token:.6g} per token (upper end of its interval), allocated by"
            " effect per parameter"
        )

    def choose(self, report: AuditReport, modules: Sequence[Module], grid: Grid = EVERY_RANK) -> Ranks:
        if all(module.effects is None for module in modules):
            raise UsageError(
                "predicting a KL divergence needs a calibration",
                code="no-calibration",
                hint="give --calibration FILE, written by `gradience calibrate`",
            )
        items = [item_of(module, grid) for module in modules]
        chosen = {item.name: item.start for item in items}
        steps = steps_of(items)
        for step in steps[: _needed(modules, chosen, steps, self.max_kl_per_token)]:
            chosen[step.name] = step.rank
        return chosen


@dataclass(frozen=True, slots=True)
class ToSizeOfRank:
    """As many LoRA parameters as this rank of every module takes, allocated by effect. Needs a calibration.

    >>> calibration = Calibration.read("calibration.safetensors")
    >>> plan = plan_compression(audit_adapter("my_adapter"), ToSizeOfRank(4), calibration=calibration)
    >>> plan.new_params
    67584

    Modules that always keep their rank also keep it in the budget.
    """

    rank: int

    @property
    def words(self) -> str:
        return f"at most the parameters of rank {self.rank}, allocated by effect per parameter"

    def choose(self, report: AuditReport, modules: Sequence[Module], grid: Grid = EVERY_RANK) -> Ranks:
        params, _ = size_at(modules, uniform(modules, self.rank))
        return criteria.ToBudget(max_params=params, by="effect").choose(report, modules, grid)


def _needed(modules: Sequence[Module], start: Ranks, steps: Sequence[RankStep], limit: float) -> int:
    """Return how many of the steps keep the upper end of the prediction at or below `limit`, also with further ones."""
    effects = {module.name: module.effects for module in modules if module.effects is not None}
    ranks = dict(start)
    change = left_out(modules, start)
    (tokens,) = {effect.tokens for effect in effects.values()}
    needed = 0
    for taken, step in enumerate([None, *steps]):
        if step is not None and step.name in effects:
            change = change - effects[step.name].predicting[:, ranks[step.name] : step.rank].sum(axis=1)
            ranks[step.name] = step.rank
        if interval(change, tokens)[2] > limit:
            needed = taken + 1
    return min(needed, len(steps))


def calibrated(criterion: criteria.Criterion) -> criteria.Criterion:
    """Return the criterion to use with a calibration. Raises UsageError for one based on weight energies."""
    energy = isinstance(criterion, criteria.ToBudget) and criterion.max_error is not None
    if energy or isinstance(criterion, criteria.ToEnergy | criteria.ToSuggestion):
        raise UsageError(
            f"--calibration cannot be combined with a criterion on the weights' energy ({criterion.words})",
            code="calibrated-size",
            hint="use --max-kl-per-token, --reduction, --max-params or --rank, or leave --calibration out",
        )
    return replace(criterion, by="effect") if isinstance(criterion, criteria.ToBudget) else criterion


def predicted(modules: Sequence[Module], ranks: Ranks, facts: CalibrationReport) -> Prediction:
    """Return the predicted cost of these ranks. facts: facts of the calibration."""
    effects = [module.effects for module in modules if module.effects is not None]
    rows, tokens = effects[0].predicting.shape[0], effects[0].tokens
    kl, low, high, error = interval(left_out(modules, ranks), tokens)
    return Prediction(
        kl_per_token=kl,
        standard_error=error,
        low=low,
        high=high,
        rows=rows,
        scored_tokens=tokens,
        excluded_modules=len(modules) - len(effects),
        ratios=RATIOS,
        routing=facts.routing,
    )


def interval(change: FloatArray, tokens: int) -> tuple[float, float, float, float]:
    """Return ½·Σ change²/tokens, the lower and upper end of its interval, and its standard error over rows.

    A mean of squares is not normally distributed: if it is low by chance, so is its standard error. It is
    therefore modeled as a multiple of χ² with the degrees of freedom that match the variance (Satterthwaite
    1946), with the quantiles of Wilson and Hilferty (1931).

    >>> kl, low, high, error = interval(np.array([0.2, -0.1, 0.1, 0.3]), 4)
    >>> round(kl, 4), round(low, 4), round(high, 4), round(error, 4)
    (0.0188, 0.0068, 0.1193, 0.0094)

    change: of each row's logits along its random direction; of `tokens` scored tokens in all.
    """
    values = np.square(change) / 2 * len(change) / tokens
    kl, error = float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
    if not kl:
        return 0.0, 0.0, 0.0, 0.0
    spread = (error / kl) ** 2 / 9
    # error ≤ kl, since no value is below 0: so both ends are above 0.
    low, high = (kl / (1 - spread + sign * NORMAL * math.sqrt(spread)) ** 3 for sign in (1, -1))
    return kl, low, high, error


def smallest_rank(
    calibrated_modules: Sequence[Sequence[Module]], limit: float
) -> tuple[int, list[tuple[float, float]]]:
    """Return the smallest rank of plain SVD truncation whose predicted KL per token is within `limit`.

    calibrated_modules: of one adapter, once for each calibration. The upper end of every prediction's interval must be
    at or below the limit. Returns KL and upper end for each calibration, too.
    """
    for rank in range(1, max(module.rank for module in calibrated_modules[0]) + 1):
        predictions = []
        for modules in calibrated_modules:
            tokens = next(module.effects.tokens for module in modules if module.effects is not None)
            kl, _, high, _ = interval(left_out(modules, uniform(modules, rank), svd=True), tokens)
            predictions.append((kl, high))
        if all(high <= limit for _, high in predictions):
            break
    return rank, predictions


def uniform(modules: Sequence[Module], rank: int) -> dict[str, int]:
    """Return this rank for every module, or the module's own if that is smaller or must be kept."""
    return {module.name: module.rank if module.fixed else min(rank, module.rank) for module in modules}


def left_out(modules: Sequence[Module], ranks: Ranks, *, svd: bool = False) -> FloatArray:
    """(rows,) change of each row's logits along its random direction: what all components beyond `ranks` do to it.

    svd: components of plain SVD truncation.
    """
    changes = []
    for module in modules:
        if module.effects is not None:
            effects = module.effects.svd_predicting if svd else module.effects.predicting
            changes.append(effects[:, ranks[module.name] :].sum(axis=1))
    return np.sum(changes, axis=0)  # type: ignore[no-any-return]


def curve(modules: Sequence[Module], facts: CalibrationReport) -> tuple[CurvePoint, ...]:
    """Predictions at the parameters of uniform ranks: powers of two below the largest rank. facts: see `predicted`."""
    largest = max(module.rank for module in modules)
    (tokens,) = {module.effects.tokens for module in modules if module.effects is not None}
    points = []
    for rank in (2**power for power in range(largest.bit_length()) if 2**power < largest):
        ranks = uniform(modules, rank)
        params, _ = size_at(modules, ranks)
        items = [item_of(module, EVERY_RANK) for module in modules]
        if start_cost(items) <= params:
            prediction = predicted(modules, fill(items, params), facts)
            points.append(
                CurvePoint(
                    rank=rank,
                    params=params,
                    calibrated_kl_per_token=prediction.kl_per_token,
                    svd_kl_per_token=float(np.square(left_out(modules, ranks, svd=True)).sum() / 2 / tokens),
                )
            )
    return tuple(reversed(points))


def _wide(effects: NDArray[np.float32], rank: int) -> FloatArray:
    """(rows, rank): components that B·A does not have do nothing."""
    return np.pad(effects.astype(np.float64), ((0, 0), (0, rank - effects.shape[1])))


def _other(calibration: Calibration, why: str) -> UsageError:
    return UsageError(
        f"{calibration.path}: is for another adapter ({why})",
        code="other-calibration",
        hint="calibrate this adapter with `gradience calibrate`",
    )


# ---------------------------------------------------------------- the plan


def _plan(given: CompressionPlan | str | os.PathLike[str]) -> criteria.ToPlan:
    if isinstance(given, CompressionPlan):
        return criteria.ToPlan(given)
    return criteria.ToPlan(CompressionPlan.read(given), given_text(given))


def _budget(name: str) -> Callable[[Any], criteria.Criterion]:
    return lambda value: criteria.ToBudget(**{name: value})


def _host(target: str) -> criteria.Criterion:
    return criteria.ToHost(criteria.limit_of(target))


SIZES: dict[str, Callable[[Any], criteria.Criterion]] = {
    "rank": criteria.ToRank,
    "energy": criteria.ToEnergy,
    "suggested": criteria.ToSuggestion,
    "reduction": _budget("reduction"),
    "max_params": _budget("max_params"),
    "max_error": _budget("max_error"),
    "max_kl_per_token": ToKl,
    "host": _host,
    "plan": _plan,
}
"""The ways to ask for a size -> what makes a criterion of the value."""


def criterion_of(given: Mapping[str, Any], strength: float | None = None) -> criteria.Criterion:
    """Return the one criterion that was given; None means not given.

    given: name in SIZES -> value. strength: without a size, a new strength leaves the ranks as they are.
    Raises UsageError for none or several, InputError for a plan that cannot be read.
    """
    names = [name for name, value in given.items() if value is not None]
    flags = {name: "--for" if name == "host" else f"--{name.replace('_', '-')}" for name in SIZES}
    if not names and strength is not None:
        return criteria.ToOwnRanks()
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
    criterion: criteria.Criterion,
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
    if isinstance(criterion, criteria.ToPlan):
        criterion.refuse_calibration(None if calibration is None else calibration.sha256)
        strength = criterion.plan.strength if strength is None else strength
    routing = "" if calibration is None else calibration.report.routing
    if calibration is not None:
        if strength not in (None, 1):
            raise UsageError(
                "--strength with --calibration: the predicted KL does not cover a new strength",
                code="strength-and-calibration",
                hint="compress with the calibration first, then change the strength of the result",
            )
        modules, criterion = with_calibration(report, modules, calibration), calibrated(criterion)
        if routing and not allow_routed and isinstance(criterion, ToKl):
            raise UsageError(
                f"{calibration.path}: {ROUTED.format(routing)}",
                code="routed-base",
                hint="give --reduction, --max-params or --rank and evaluate the result, or add --allow-routed"
                " (Python: allow_routed=True)",
            )
    chosen = criterion.choose(report, modules, grid)
    refuse_empty(chosen.values())
    words, by = criterion.words + grid.words, 1.0 if strength is None else strength
    plan = _described(report, modules, chosen, words, by)
    if calibration is None:
        return plan
    foreseen: dict[str, object] = {"prediction_withheld": ROUTED.format(routing)}
    if not routing or allow_routed:
        foreseen = {"prediction": predicted(modules, chosen, calibration.report)}
    return plan.model_copy(update={"calibration_sha256": calibration.sha256, **foreseen})


def refuse_uncompressible(report: AuditReport, *, path: str | os.PathLike[str] | None = None) -> None:
    """Raise InputError if no smaller adapter can be equivalent. path: for messages, by default the report's.

    Codes: those of NOT_THE_UPDATE, unaudited, no-lora-tensors, untrained, overflow.
    """
    path = report.adapter.path if path is None else given_text(path)
    finding = next((finding for finding in report.findings if finding.code in criteria.NOT_THE_UPDATE), None)
    if finding is not None:
        raise InputError(
            f"{path}: cannot be compressed: {finding.message}", code=finding.code, hint=finding.hint
        )
    refuse_unread(path, report.coverage.unaudited)
    if not report.layers:
        raise InputError(
            f"{path}: has no LoRA modules to compress", code="no-lora-tensors", hint="check the path"
        )
    if all(layer.status == "untrained" for layer in report.layers):
        raise InputError(
            f"{path}: untrained: B·A = 0 in every module, so there is no update to compress",
            code="untrained",
            hint="check that the trained weights were saved",
        )
    trained = (row for row in report.layers if row.status == "ok" and row.scale)  # None: there is no config
    for row in trained:
        if not row.singular_values or (row.fro_norm is not None and row.fro_norm < SMALLEST_NORM):
            raise norm_overflow(path, row.name)


def refuse_unread(path: object, unread: Sequence[SkippedTensor | TensorNote]) -> None:
    """Raise InputError (unaudited) for tensors that were not understood, whose meaning at another rank is
    unknown.
    """
    if unread:
        were = noun(len(unread), "tensor was", "tensors were")
        raise InputError(
            f"{path}: cannot be compressed: {len(unread)} {were} not understood, the first is {unread[0].tensor} "
            f"({unread[0].reason})",
            code="unaudited",
            hint="`gradience audit` lists all of them",
        )


def refuse_empty(ranks: Iterable[int]) -> None:
    """Raise UsageError (empty-plan) if no module keeps a component."""
    if not any(ranks):
        raise UsageError(
            "this plan removes every module",
            code="empty-plan",
            hint="allow more parameters or bytes, or a smaller error or KL divergence",
        )


SMALLEST_NORM = 1e-290
"""Smallest norm of an update that can be truncated, so that the remainder keeps full precision."""


def _described(
    report: AuditReport, modules: Sequence[Module], chosen: Ranks, criterion: str, strength: float
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
