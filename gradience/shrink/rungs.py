"""Rungs: smaller adapters of one kind, each known by a size. A new kind is an object like `TRUNCATED`, and one line in
`KINDS`: it may choose ranks otherwise (from a calibration), or go on from a truncation (and heal it)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from gradience.artifacts.audit import AuditReport
from gradience.artifacts.compression import CompressionPlan, CompressionReport
from gradience.artifacts.shrink import PlannedRung
from gradience.compress.adapter import rehearse_compression, write_compressed
from gradience.errors import InputError, UsageError
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import ToRank
from gradience.words import listed

AS_IT_IS: Mapping[str, Any] = {"adapter_name": None, "encoding": None, "dtype": None, "strip": ()}
"""How a rung is written: as `gradience compress` does where nothing else is asked for."""
Documents = Callable[[CompressionReport], Mapping[str, str]]
"""A report -> further files of its folder: name -> text."""


@dataclass(frozen=True, slots=True)
class Source:
    """What rungs are made from."""

    adapter: Path
    """PEFT's folder."""
    audit: AuditReport
    base_model: Path | None = None
    """A folder with the base's weights, which a DoRA needs."""

    @property
    def rank(self) -> int:
        """The largest of its modules."""
        return max((layer.r for layer in self.audit.layers), default=0)


class RungKind(Protocol):
    """One way of making a smaller adapter."""

    @property
    def name(self) -> str:
        """In the plan and in the result."""

    def plan(self, source: Source, rank: int) -> CompressionPlan:
        """The ranks of a rung and what they cost, read from the audit alone. Raises what keeps it from being made."""

    def make(self, source: Source, rank: int, folder: Path, documents: Documents | None) -> None:
        """Write a rung to `folder`, as PEFT would; what is there is replaced. The same inputs give the same weights."""


@dataclass(frozen=True, slots=True)
class Truncated:
    """The leading directions of each module: one rank for all, training-free."""

    name: str = "truncated"

    def plan(self, source: Source, rank: int) -> CompressionPlan:
        plan = plan_compression(source.audit, ToRank(rank), path=source.adapter)
        if plan.new_params < plan.old_params:
            rehearse_compression(source.adapter, plan, base_model=source.base_model, **AS_IT_IS)
        return plan

    def make(self, source: Source, rank: int, folder: Path, documents: Documents | None) -> None:
        plan = plan_compression(source.audit, ToRank(rank), path=source.adapter)
        write_compressed(
            source.adapter, plan, folder, base_model=source.base_model, force=True, documents=documents
        )


TRUNCATED = Truncated()
KINDS: Mapping[str, RungKind] = {kind.name: kind for kind in (TRUNCATED,)}


def halvings(rank: int) -> tuple[int, ...]:
    """Return a rank and its halvings down to 1.

    >>> halvings(24)
    (24, 12, 6, 3, 1)
    """
    return tuple(rank >> step for step in range(rank.bit_length()))


def plan_rungs(
    source: Source, given: Iterable[int] | None, kind: RungKind = TRUNCATED
) -> tuple[tuple[PlannedRung, ...], tuple[str, ...]]:
    """Return the rungs from the largest down, and what was left out of them and why.

    given: ranks in place of the halvings of the audit's p90 suggestion. Raises UsageError (`bad-rank`,
    `nothing-smaller`), InputError (`no-suggestion`), and what planning a compression raises.
    """
    ranks = sorted({*_suggested(source)} if given is None else {*given}, reverse=True)
    rungs: list[PlannedRung] = []
    left_out: list[int] = []
    smallest = None
    for rank in ranks:
        plan = kind.plan(source, rank)
        if plan.new_params >= (plan.old_params if smallest is None else smallest):
            left_out.append(rank)
            continue
        smallest = plan.new_params
        rungs.append(
            PlannedRung(
                name=f"rank{rank}", kind=kind.name, rank=rank, lora_params=plan.new_params,
                params_saved=plan.reduction, kept_energy=plan.kept_energy,
            )
        )  # fmt: skip
    if not rungs:
        raise UsageError(
            f"{source.adapter}: its rank is {source.rank}, and no rung is smaller",
            code="nothing-smaller",
            hint="give --rungs with ranks below it",
        )
    if given is None or not left_out:
        return tuple(rungs), ()
    names = listed([f"rank {rank}" for rank in left_out], most=5)
    return tuple(rungs), (f"left out, since it makes nothing smaller: {names}",)


def with_base(source: Source, folder: Path) -> Source:
    """Return the source with the folder of its base's weights."""
    return replace(source, base_model=folder)


def _suggested(source: Source) -> tuple[int, ...]:
    if source.audit.suggestions is None:
        raise InputError(
            f"{source.adapter}: the audit suggests no rank to begin with",
            code="no-suggestion",
            hint="give --rungs, such as 8,4,2,1; `gradience audit` says why",
        )
    return halvings(source.audit.suggestions.p90.rank)
