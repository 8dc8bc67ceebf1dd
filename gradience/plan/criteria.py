"""Criteria: an audit -> a rank for every module. Pure: another way of scoring components is another criterion.

Components of a module are taken in the order of their singular values, so that a plan is a number of leading
components per module. Under a budget those of all modules compete by energy per parameter (σ²/(m + n)), see `allocate`.
The audit's suggestions are plans of these criteria, too: median and p90 are one rank for all modules (`ToRank`),
per_layer is `ToEnergy` at the audit's threshold, on the grid. Each keeps its evidence before rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import TypeAdapter

from gradience.adapters.config import anchored_key
from gradience.adapters.keys import config_name
from gradience.errors import InputError, UsageError
from gradience.files.artifact import artifact_row
from gradience.plan.allocate import cover, fill, start_cost
from gradience.plan.modules import EVERY_RANK, Grid, Module, Ranks, alphas_at, item_of, modules_of, size_at
from gradience.ranks import Suggested, max_lora_rank_step, percentile, round_up
from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.reports.audit import AuditReport, PerLayer, Suggestion, Suggestions
from gradience.reports.base.report import Finding
from gradience.reports.compression import CompressionPlan
from gradience.settings import Part, Positive, Share, checked
from gradience.words import counted

EDITED = ", then edited"


class Criterion(Protocol):
    """One way of choosing the ranks."""

    @property
    def words(self) -> str:
        """Return the description of the criterion in a plan."""

    def choose(self, report: AuditReport, modules: Sequence[Module], grid: Grid = EVERY_RANK) -> Ranks:
        """Return a rank for each of `modules`, the modules of `report`.

        Raises UsageError for a criterion that is invalid or cannot be met.
        """


@checked
class ToRank:
    """Truncate every module to this rank (or keep its own, if smaller).

    >>> plan_compression(audit_adapter("my_adapter"), ToRank(4)).max_rank
    4
    """

    rank: Positive

    @property
    def words(self) -> str:
        return f"rank {self.rank}"

    def choose(self, report: AuditReport, modules: Sequence[Module], grid: Grid = EVERY_RANK) -> Ranks:
        return _each(modules, grid, lambda module: min(self.rank, module.rank))


@dataclass(frozen=True, slots=True)
class ToHost:
    """Truncate every module to the rank that a host documents as its maximum.

    >>> ToHost(limit_of("wandb")).words.partition(",")[0]
    'rank at most 16'
    """

    limit: HostLimit

    @property
    def words(self) -> str:
        return self.limit.words

    def choose(self, report: AuditReport, modules: Sequence[Module], grid: Grid = EVERY_RANK) -> Ranks:
        limit = self.limit
        for module in modules:
            if limit.modules and not module.name.endswith(limit.modules):
                problem = f"{module.name}: {limit.name} documents LoRA only on {', '.join(limit.modules)}"
            elif module.rank < limit.min_rank:
                problem = f"{module.name}: rank {module.rank}, and {limit.name} documents {limit.words}"
            else:
                continue
            hint = (
                f"{limit.name} is not documented to serve this adapter: choose another host, or give --rank K"
            )
            raise InputError(problem, code="host-limit", hint=hint)
        return ToRank(limit.max_rank).choose(report, modules, grid)


@dataclass(frozen=True, slots=True)
class ToOwnRanks:
    """Every module keeps its rank: for a new strength only.

    >>> plan_compression(audit_adapter("my_adapter"), ToOwnRanks(), strength=0.8).max_rank
    8
    """

    words: str = "ranks unchanged"

    def choose(self, report: AuditReport, modules: Sequence[Module], grid: Grid = EVERY_RANK) -> Ranks:
        return {module.name: module.rank for module in modules}


@checked
class ToEnergy:
    """Truncate every module to the smallest rank that keeps this share of its energy.

    >>> plan = plan_compression(audit_adapter("my_adapter"), ToEnergy(0.9))
    >>> min(module.kept_energy for module in plan.modules) >= 0.9
    True
    """

    tau: Share

    @property
    def words(self) -> str:
        return f"energy at least {self.tau:.6g} in every module"

    def choose(self, report: AuditReport, modules: Sequence[Module], grid: Grid = EVERY_RANK) -> Ranks:
        return _each(modules, grid, lambda module: module.energy_rank(self.tau))


@checked
class ToSuggestion:
    """Follow one of the audit's suggestions: "uniform_median", "uniform_p90" or "per_layer".

    >>> plan_compression(audit_adapter("my_adapter"), ToSuggestion("uniform_median")).criterion
    'suggested (uniform_median)'
    """

    which: Suggested

    @property
    def words(self) -> str:
        return f"suggested ({self.which})"

    def choose(self, report: AuditReport, modules: Sequence[Module], grid: Grid = EVERY_RANK) -> Ranks:
        suggestions = suggestions_of(report)
        if self.which == "per_layer":
            suggested = ToEnergy(suggestions.tau).choose(report, modules, Grid(suggestions.allowed_ranks))
            return _each(modules, grid, lambda module: suggested[module.name])
        uniform = suggestions.median if self.which == "uniform_median" else suggestions.p90
        return ToRank(uniform.rank).choose(report, modules, grid)


@checked
class ToBudget:
    """Allocate ranks over all modules under one limit. Give exactly one of the three limits.

    >>> plan_compression(audit_adapter("my_adapter"), ToBudget(max_params=50_000)).new_params <= 50_000
    True

    reduction: share of the LoRA parameters to save.   max_params: maximum LoRA parameters.
    max_error: √(Σ‖ΔW − ΔW′‖²/Σ‖ΔW‖²) over the whole adapter.
    by: measure that ranks components: energy or, with a calibration, effect on the output.
    """

    reduction: Part | None = None
    max_params: Positive | None = None
    max_error: Part | None = None
    by: Literal["energy", "effect"] = "energy"

    def __post_init__(self) -> None:
        if sum(getattr(self, name) is not None for name in _LIMITS) != 1:
            raise UsageError(
                f"a budget needs exactly one of {', '.join(_LIMITS)}",
                code="several-criteria",
                hint="leave the others out",
            )

    @property
    def _limit(self) -> tuple[str, Any]:
        """Name and value of the limit that is set."""
        return next((name, value) for name in _LIMITS if (value := getattr(self, name)) is not None)

    @property
    def words(self) -> str:
        name, value = self._limit
        target = _LIMITS[name].format(value if name == "max_params" else 100 * value)
        return f"target: {target}, allocated by {self.by} per parameter"

    def choose(self, report: AuditReport, modules: Sequence[Module], grid: Grid = EVERY_RANK) -> Ranks:
        name, value = self._limit
        items = [item_of(module, grid) for module in modules]
        if name == "max_error":
            return cover(items, value**2 * sum(float(module.energies.sum()) for module in modules))
        limit = value
        if name == "reduction":
            # As it was typed: in binary, 10 % of 1,000 parameters are 99.99999999999998.
            limit = math.floor(sum(module.params for module in modules) * (1 - Fraction(str(value))))
        if start_cost(items) > limit:
            raise UsageError(
                f"this budget of {limit:,} parameters cannot be met: modules that must be kept need "
                f"{start_cost(items):,}",
                code="bad-budget",
                hint="raise the budget; `gradience compress --dry-run --rank 1` shows the smallest plan",
            )
        return fill(items, limit)


_LIMITS = {
    "reduction": "{:.6g} % fewer parameters",
    "max_params": "at most {:,} parameters",
    "max_error": "error at most {:.6g} %",
}
"""Field of a budget -> its description in a plan."""


@dataclass(frozen=True, slots=True)
class ToRanks:
    """A rank chosen for every module by name, 0 to leave it out.

    >>> report = audit_adapter("my_adapter")
    >>> ranks = {layer.name: 2 if layer.family.endswith("query") else 4 for layer in report.layers}
    >>> plan_compression(report, ToRanks(ranks)).max_rank
    4

    words: the criterion's description in the plan. source: origin of the ranks, for error messages.
    """

    ranks: Ranks
    words: str = "a rank given for each module"
    source: str = "the ranks"

    def choose(self, report: AuditReport, modules: Sequence[Module], grid: Grid = EVERY_RANK) -> Ranks:
        if grid.allowed is not None:
            raise UsageError(
                "the plan gives every rank, so --allowed-ranks has nothing to round",
                code="two-grids",
                hint="leave --allowed-ranks out (Python: allowed_ranks=)",
            )
        names = {module.name for module in modules}
        odd = sorted(names ^ self.ranks.keys())
        if odd:
            problem = f"no rank for {odd[0]}" if odd[0] in names else f"{odd[0]} is no module of the adapter"
            more = (
                f" (and {counted(len(odd) - 1, 'more module differs', 'more modules differ')})"
                if len(odd) > 1
                else ""
            )
            raise UsageError(
                f"{self.source}: {problem}{more}",
                code="plan-mismatch",
                hint="give a rank for every module of the adapter, and for no other",
            )
        for module in modules:
            _refuse_rank(module, self.ranks[module.name], self.source)
        return self.ranks


@dataclass(frozen=True, slots=True)
class ToPlan:
    """The ranks of an earlier plan for the same weights; UsageError (plan-mismatch) if the weights differ."""

    plan: CompressionPlan
    source: str = "the plan"

    @property
    def words(self) -> str:
        rows, words = self.plan.modules, self.plan.criterion
        edited = any(row.new_params * row.old_rank != row.old_params * row.new_rank for row in rows)
        return words.removesuffix(EDITED) + EDITED if edited else words

    def refuse_calibration(self, sha256: str | None) -> None:
        """Raise UsageError (plan-mismatch) if the plan was made with a different calibration."""
        wanted = self.plan.calibration_sha256
        if wanted != sha256:
            basis = "without a calibration" if wanted is None else f"with the calibration {wanted[:12]}"
            raise UsageError(
                f"{self.source}: was made {basis}",
                code="plan-mismatch",
                hint="leave --calibration out"
                if wanted is None
                else "use the --calibration file that the plan was made with",
            )

    def choose(self, report: AuditReport, modules: Sequence[Module], grid: Grid = EVERY_RANK) -> Ranks:
        here, there = report.adapter.sha256[:12], self.plan.adapter_sha256[:12]
        if self.plan.adapter_sha256 != report.adapter.sha256:
            raise UsageError(
                f"{self.source}: is for another adapter (made for sha256 {there}; {report.adapter.path} has {here})",
                code="plan-mismatch",
                hint="make a plan for this adapter: --dry-run --json (Python: dry_run=True)",
            )
        ranks = {row.name: row.new_rank for row in self.plan.modules}
        return ToRanks(ranks, self.words, self.source).choose(report, modules, grid)


def suggestions_of(report: AuditReport) -> Suggestions:
    """Return the suggestions of an audit. Raises InputError (no-suggestion) if it made none."""
    if report.suggestions is None:
        raise InputError(
            f"{report.adapter.path}: the audit suggests no rank for this adapter",
            code="no-suggestion",
            hint="give --rank or --energy (Python: rank=, energy=) instead; `gradience audit` shows the reason",
        )
    return report.suggestions


def _each(modules: Sequence[Module], grid: Grid, needed: Callable[[Module], int]) -> dict[str, int]:
    """Return the needed rank of each module, rounded up, or its own if that must be kept.

    Modules that share a name in the config share the largest of their ranks. (Not under a budget, where a
    larger rank would break the limit.)
    """
    chosen = {
        module.name: module.rank if module.fixed else grid.up(needed(module), module.rank)
        for module in modules
    }
    largest: dict[str, int] = {}
    for module, rank in chosen.items():
        name = config_name(module)
        largest[name] = max(largest.get(name, 0), rank)
    return {module: largest[config_name(module)] for module in chosen}


def _refuse_rank(module: Module, rank: int, source: str) -> None:
    """Raise UsageError (bad-rank) for a rank that a module cannot get."""
    if not 0 <= rank <= module.rank:
        why = f"its rank is {module.rank}, so only 0 to {module.rank} is possible"
    elif module.fixed and rank != module.rank:
        why = f"it keeps its rank {module.rank} ({module.fixed})"
    elif rank == 0 and module.stays:
        why = "it cannot be left out: other tensors, experts or target_parameters need it"
    else:
        return
    raise UsageError(
        f"{source}: rank {rank} for {module.name}: {why}",
        code="bad-rank",
        hint="correct its new_rank in the plan",
    )


# ---------------------------------------------------------------- documented limits of hosts, none of them run


@artifact_row
class HostLimit:
    """Limits of one host, for all its models or for one."""

    host: str
    name: str
    model: str | None
    """Model family with a limit of its own; null for all others."""
    max_rank: int
    source: str
    """Address of the page, or of the thread that quotes it."""
    date: str
    """Date on which the source was read."""
    fine_tuning: bool = False
    """True if the source states the limit for training on the host, and none for serving."""
    min_rank: int = 1
    adapters_per_base: int | None = None
    modules: tuple[str, ...] = ()
    """Module types that may have LoRA; empty if the source names none."""

    @property
    def words(self) -> str:
        """Name the limit and its source."""
        model = f" for {self.model}" if self.model else ""
        ranks = (
            f"rank {self.min_rank} to {self.max_rank}"
            if self.min_rank > 1
            else f"rank at most {self.max_rank}"
        )
        model += " in fine-tuning on this host" if self.fine_tuning else ""
        return f"{ranks}{model}, documented by {self.name} ({self.source}, read {self.date}; not run)"


@cache
def host_limits() -> tuple[HostLimit, ...]:
    """Return every documented limit."""
    data = read_file(Path(__file__).with_name("hosts.json"), MAX_SETTINGS_BYTES)
    return TypeAdapter(tuple[HostLimit, ...]).validate_json(data)


def limit_of(target: str) -> HostLimit:
    """Return the limit of `HOST` or `HOST:MODEL`; a model without a row has the host's.

    Raises UsageError (`unknown-host`).
    """
    host, _, model = target.lower().partition(":")
    rows = [row for row in host_limits() if row.host == host]
    if not rows:
        known = ", ".join(sorted({row.host for row in host_limits()}))
        raise UsageError(
            f"{target}: no documented limits", code="unknown-host", hint=f"use one of {known}, or --rank K"
        )
    general = next(row for row in rows if row.model is None)
    return next(
        (row for row in rows if row.model and model and row.model in model.replace("_", "-")), general
    )


# ---------------------------------------------------------------- suggestions of an audit

WEIGHT_ENERGY = (
    "fewest directions that hold {tau:.6g} of the squared singular values of each module. Crude: it ignores what the "
    "directions do to the model's output. Worth testing, not recommended"
)


NOT_THE_UPDATE = frozenset(("init-not-update", "variant-not-update", "expert-order-unknown", "non-finite"))
"""Findings with which nothing is compressed or suggested: B·A is not the learned update, or holds NaN or infinity."""
UNCONVINCING = frozenset(("looks-random", "init-noise"))
"""Findings with which no rank is suggested: the spectra say nothing about a smaller one. Truncating is allowed."""


def blocks_suggestions(findings: Iterable[Finding]) -> bool:
    """Return True if a finding rules out suggesting a rank."""
    return any(finding.code in NOT_THE_UPDATE | UNCONVINCING for finding in findings)


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
