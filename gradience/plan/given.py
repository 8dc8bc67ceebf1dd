"""An earlier plan as a criterion: its ranks, which may have been edited; everything else is worked out anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradience.artifacts.audit import AuditReport
from gradience.artifacts.compression import CompressionPlan
from gradience.errors import UsageError
from gradience.plan.criteria import ToRanks
from gradience.plan.grids import EVERY_RANK, Grid
from gradience.plan.modules import Module, Ranks

EDITED = ", then edited"


@dataclass(frozen=True, slots=True)
class ToPlan:
    """The ranks of an earlier plan for the same weights; UsageError (plan-mismatch) where they are others."""

    plan: CompressionPlan

    @property
    def words(self) -> str:
        rows, words = self.plan.modules, self.plan.criterion
        edited = any(row.new_params * row.old_rank != row.old_params * row.new_rank for row in rows)
        return words.removesuffix(EDITED) + EDITED if edited else words

    def choose(self, report: AuditReport, modules: Sequence[Module], grid: Grid = EVERY_RANK) -> Ranks:
        here, there = report.adapter.sha256[:12], self.plan.adapter_sha256[:12]
        if self.plan.adapter_sha256 != report.adapter.sha256:
            raise UsageError(
                f"{report.adapter.path}: the plan was made for another adapter (sha256 {there} there, {here} here)",
                code="plan-mismatch",
                hint="make a plan for this adapter with --dry-run --json",
            )
        ranks = {row.name: row.new_rank for row in self.plan.modules}
        return ToRanks(ranks, self.words).choose(report, modules, grid)
