"""The ladder: rungs tested from the top, each at the full level, until one is not shown to be safe. Pure.

The order and the bound stand in the plan, so that the chance of calling any unsafe rung safe stays at the level of one
test (fixed sequence).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pydantic import ValidationError

from gradience.bench.arms.ladder import rung_name
from gradience.bench.config.sections import LadderSettings
from gradience.bench.verdict.grade import at_worst, exactly, in_points
from gradience.bench.verdict.outlook import Needs
from gradience.errors import InputError
from gradience.reports.base.graded import Bounds, Ladder, NextRung, PooledEvidence, Rung, RungStatus
from gradience.reports.bench_plan import LadderBound, LadderKind
from gradience.statistics import Pooled


@dataclass(frozen=True, slots=True, kw_only=True)
class RungFacts:
    """What is known of one rung."""

    name: str
    rung: float
    is_probe: bool = False
    """No rank is below the probe's."""
    faults: tuple[str, ...] = ()
    """Why nothing can be concluded."""
    pooled: Pooled | None = None
    evidence: PooledEvidence | None = None


def settings_of(config: Mapping[str, Any]) -> LadderSettings | None:
    """Return the ladder of a run's config; None where it has none. Raises InputError for one that is none."""
    compression = config.get("compression")
    ladder = compression.get("ladder") if isinstance(compression, dict) else None
    try:
        return None if ladder is None else LadderSettings.model_validate(ladder)
    except ValidationError as error:
        raise InputError(
            f"bench.json: not a ladder: {error.errors(include_url=False)[0]['msg']}",
            code="artifact-invalid",
            hint="make it again with gradience bench run",
        ) from None


def names_of(settings: LadderSettings) -> dict[str, float]:
    """Return the results of the rungs, from the top, and what each keeps."""
    return {rung_name(settings.kind, rung): rung for rung in settings.rungs}


def climb_down(
    rungs: Sequence[RungFacts], settings: LadderSettings, margin: Fraction, *, seeds: int
) -> Ladder:
    """Test the rungs in their order. seeds: that were planned; one tells nothing of a new run."""
    bound: LadderBound = settings.bound if seeds > 1 else "these-runs"
    rows: list[Rung] = []
    stopped: RungFacts | None = None
    for facts in rungs:
        status = "not tested" if stopped and not facts.is_probe else _status(facts, bound, margin)
        if status == "not shown":
            stopped = facts
        rows.append(_rung(facts, status, bound))
    shown = [row for row in rows if row.status == "shown"]
    return Ladder(
        kind=settings.kind,
        planned_bound=settings.bound,
        bound=bound,
        margin=margin,
        rungs=tuple(rows),
        smallest_safe=shown[-1].name if shown else None,
        sentence=_sentence(rows, settings.kind, bound, margin, one_seed=seeds == 1),
        next_rung=_next_rung(stopped, bound, margin),
    )


def adjusted(ladder: Ladder, evidence: Mapping[str, PooledEvidence]) -> dict[str, float]:
    """Return the p-value of each rung for a new run, adjusted for the sequence: the largest down to it."""
    largest, values = 0.0, {}
    for row in ladder.rungs:
        shown = evidence.get(row.name)
        if row.status == "not smaller":
            continue
        if shown is None or shown.new_run is None:
            break
        largest = values[row.name] = max(largest, shown.new_run.p_value)
    return values


def _status(facts: RungFacts, bound: LadderBound, margin: Fraction) -> RungStatus:
    if facts.is_probe:
        return "not smaller"
    bounds = _bounds(facts, bound)
    if facts.faults or bounds is None:
        return "not shown"
    return "shown" if exactly(bounds.low) > -margin else "not shown"


def _bounds(facts: RungFacts, bound: LadderBound) -> Bounds | None:
    if facts.evidence is None:
        return None
    return facts.evidence.new_run if bound == "new-run" else facts.evidence.these_runs


def _rung(facts: RungFacts, status: RungStatus, bound: LadderBound) -> Rung:
    bounds = _bounds(facts, bound)
    reason = "; ".join(facts.faults)
    if not reason and bounds is None and not facts.is_probe:
        reason = "its answers, example by example, are not known"
    return Rung(
        name=facts.name,
        rung=facts.rung,
        status=status,
        reason=reason,
        delta=facts.evidence.delta if facts.evidence else None,
        low=bounds.low if bounds else None,
        p_value=bounds.p_value if bounds else None,
    )


def _next_rung(stopped: RungFacts | None, bound: LadderBound, margin: Fraction) -> NextRung | None:
    if stopped is None or stopped.pooled is None or stopped.faults:
        return None
    needs = Needs(stopped.pooled, margin, bound)
    return NextRung(name=stopped.name, examples=needs.examples(), seeds=needs.seeds())


def _sentence(
    rows: Sequence[Rung], kind: LadderKind, bound: LadderBound, margin: Fraction, *, one_seed: bool
) -> str:
    """The answer in one sentence."""
    shown = [row for row in rows if row.status == "shown"]
    if not shown:
        return "no rung is shown to be safe"
    last = shown[-1]
    assert last.low is not None
    what = (
        f"rank {last.rung:g} is the smallest"
        if kind == "uniform"
        else f"{100 * last.rung:g} % of the energy is the least"
    )
    where = " in a new training run too" if bound == "new-run" else " in these runs"
    only = "; one seed says nothing of the next training" if one_seed else ""
    return (
        f"{what} shown to be safe: with 95 % confidence it has {at_worst(last.low)}{where}"
        f" (margin {in_points(margin)}){only}"
    )
