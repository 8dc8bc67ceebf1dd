"""The modules of an audited adapter, what their components are worth and cost, and the ranks that they may get."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradience.adapters.keys import ends_with, is_split_expert, parse_key
from gradience.plan.allocate import ModuleSteps
from gradience.ranks import scaled_alpha
from gradience.reports.audit import AuditReport, LayerAudit
from gradience.settings import RankList, checked
from gradience.spectra import FloatArray, energy_rank, lost_energy


@checked
class Grid:
    """Allowed ranks, in addition to a module's own; None: every rank.

    >>> Grid((4, 16)).up(5, rank=64), Grid().up(5, rank=64)
    (16, 5)
    """

    allowed: RankList | None = None

    def steps(self, rank: int) -> Sequence[int]:
        """Ranks that a module of `rank` may get, ascending, without 0; the last is its own."""
        if self.allowed is None:
            return range(1, rank + 1)
        return sorted({step for step in self.allowed if step < rank} | {rank})

    def up(self, needed: int, rank: int) -> int:
        """Return the smallest allowed rank that covers `needed`; the module's own `rank` if there is none."""
        steps = self.steps(rank)
        return steps[min(bisect_left(steps, needed), len(steps) - 1)]

    @property
    def words(self) -> str:
        """Return the description that a plan adds to its criterion."""
        if self.allowed is None:
            return ""
        return f", ranks from {', '.join(map(str, sorted(set(self.allowed))))}"


EVERY_RANK = Grid()


Ranks = Mapping[str, int]
"""Module path in the base model -> rank; 0 if its LoRA is left out."""


@dataclass(frozen=True, eq=False)
class Effects:
    """Effects of a calibrated module's components on the model's output, by falling score.

    scores: (r,) mean square over the selection rows.   lost: (r + 1,) weight energy left out by the leading 0
    … r components, in units of the adapter's largest σ².
    predicting, svd_predicting: (rows, r) signed effects on the prediction rows, for these components and
    those of the SVD.
    tokens: scored tokens in these rows.
    """

    scores: FloatArray
    lost: FloatArray
    predicting: FloatArray
    svd_predicting: FloatArray
    tokens: int


@dataclass(frozen=True)
class Module:
    """One module as PEFT configures it: experts of a stacked tensor share one rank.

    rows: of the audit, one per expert.   unit: the largest σ of the adapter.
    shape: (m, n) of one expert.   params, bytes: of the factors of all experts at the present rank.
    measured: threshold and energy rank of the audit (the largest of the experts; None for an untrained
    module).
    alpha, scale: None if α is unknown.
    stays: it may not get rank 0.   fixed: the reason why it must keep its rank, or empty.
    effects: from a calibration; if present, they define the components and their worth.
    """

    name: str
    rows: Sequence[LayerAudit]
    unit: float
    rank: int
    shape: tuple[int, int]
    params: int
    bytes: int
    measured: tuple[float, int | None]
    alpha: float | None
    scale: float | None
    stays: bool
    fixed: str
    effects: Effects | None = None

    @cached_property
    def spectra(self) -> tuple[FloatArray, ...]:
        """Per expert, the σ of its components, in units of `unit`."""
        return tuple(np.asarray(row.singular_values, dtype=np.float64) / self.unit for row in self.rows)

    @cached_property
    def energies(self) -> FloatArray:
        """(rank,) σ² of the components in units of `unit`², summed over experts."""
        energies = np.zeros(self.rank)
        for values in self.spectra:
            energies[: len(values)] += np.square(values)
        return energies

    @property
    def worth(self) -> FloatArray:
        """Return the worth (rank,) of each component under a budget: its energy, or its score if
        calibrated.
        """
        return self.energies if self.effects is None else self.effects.scores

    def lost(self, rank: int) -> float:
        """‖ΔW − ΔW′‖² at this rank, in units of `unit`²."""
        return lost_energy(self.energies, rank) if self.effects is None else float(self.effects.lost[rank])

    @property
    def cost(self) -> int:
        """Parameters of one component, over all experts."""
        return self.params // self.rank

    @property
    def stored_cost(self) -> int:
        """Bytes of one component in the storage type of today."""
        return self.bytes // self.rank

    def energy_rank(self, tau: float) -> int:
        """Fewest components that hold the share `tau` of each expert's energy; 1 for an untrained module."""
        threshold, rank = self.measured
        if tau == threshold:
            return rank or 1
        return max((energy_rank(values, tau) for values in self.spectra if values.any()), default=1)


def item_of(module: Module, grid: Grid) -> ModuleSteps:
    """The module as it competes under a budget of parameters."""
    if module.fixed:
        return ModuleSteps(module.name, module.worth, module.cost, module.rank, ())
    steps = grid.steps(module.rank)
    return ModuleSteps(module.name, module.worth, module.cost, steps[0] if module.stays else 0, steps)


def modules_of(report: AuditReport) -> list[Module]:
    """The rows of an audit, grouped by module, in their order."""
    grouped: dict[str, list[LayerAudit]] = defaultdict(list)
    for layer in report.layers:
        grouped[layer.name].append(layer)
    unit = max((value for layer in report.layers for value in layer.singular_values[:1]), default=0.0) or 1.0
    owners = modules_with_other_tensors(report)
    return [
        _module(rows, report.tau, unit, stays=must_stay(report, rows[0], owners)) for rows in grouped.values()
    ]


def _module(rows: Sequence[LayerAudit], tau: float, unit: float, *, stays: bool) -> Module:
    first = rows[0]
    return Module(
        name=first.name,
        rows=rows,
        unit=unit,
        rank=first.r,
        shape=first.shape,
        params=sum(row.params for row in rows),
        bytes=sum(row.bytes for row in rows),
        measured=(tau, max((row.energy_rank_tau or 0 for row in rows), default=0) or None),
        alpha=first.alpha,
        scale=first.scale,
        stays=stays,
        fixed=why_fixed(rows),
    )


def size_at(modules: Iterable[Module], ranks: Ranks) -> tuple[int, int]:
    """Parameters and bytes of the LoRA factors when each module has the rank that `ranks` gives it."""
    chosen = [(module, ranks[module.name]) for module in modules]
    return (
        sum(module.cost * rank for module, rank in chosen),
        sum(module.stored_cost * rank for module, rank in chosen),
    )


def alphas_at(modules: Iterable[Module], ranks: Ranks, *, use_rslora: bool) -> dict[str, int | float]:
    """The α that leaves each module's scale what it is; without modules at rank 0 and those of unknown α."""
    return {
        module.name: scaled_alpha(module.alpha, module.rank, ranks[module.name], use_rslora=use_rslora)
        for module in modules
        if module.alpha is not None and ranks[module.name]
    }


def why_fixed(rows: Sequence[LayerAudit]) -> str:
    """Return the reason why a module (the rows of its experts) must keep its rank; empty if it need not.

    PEFT needs a multiple of a grouped convolution's groups, and an energy rank says nothing about the rank of
    each.
    """
    if rows[0].groups > 1:
        return "block-diagonal B of a grouped convolution"
    if any(row.status == "unsupported" for row in rows):
        return "cannot be measured: its factors cancel"
    if any(row.status == "nonfinite" for row in rows):
        return "cannot be measured: its factors contain NaN or infinity"
    return ""


def must_stay(report: AuditReport, row: LayerAudit, owners: set[str]) -> bool:
    """Return True if a module may not get rank 0. owners: `modules_with_other_tensors` of the same report.

    Without its factors, a bias, a magnitude or a base weight saved with them would be lost as well. The
    wrapper of an expert, or of any other parameter, cannot be left out separately: `target_parameters` may
    match many.
    """
    if report.adapter.use_dora or row.name in owners or row.kind == "expert" or is_split_expert(row.name):
        return True
    wrapped = report.adapter.settings.get("target_parameters")
    return isinstance(wrapped, list) and ends_with(row.name, map(str, wrapped))


def modules_with_other_tensors(report: AuditReport) -> set[str]:
    """Modules with other tensors of their own (copies of a module that PEFT once kept are not written)."""
    owners: set[str] = set()
    for note in report.coverage.other:
        key = parse_key(note.tensor)
        if key.ghost or key.adapter not in (None, report.adapter.adapter_name):
            continue
        parts = key.module.split(".")
        owners.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return owners
