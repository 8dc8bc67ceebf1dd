"""The rungs of a ladder: truncations of the probe, from the largest down."""

from __future__ import annotations

from gradience.bench.arms.ranks import AuditedProbe, Choice
from gradience.plan.criteria import ToEnergy, ToRank
from gradience.reports.bench_plan import LadderKind


def rung_name(kind: LadderKind, rung: float) -> str:
    """Return the name of a rung's result.

    >>> rung_name("uniform", 8), rung_name("per_layer", 0.9)
    ('ladder.r8', 'ladder.e0.9')
    """
    return f"ladder.{'r' if kind == 'uniform' else 'e'}{rung:g}"


def ranks_of_rung(probe: AuditedProbe, kind: LadderKind, rung: float) -> Choice:
    """Return the ranks of a rung: one for every module, or the smallest that holds the share of its energy."""
    if kind == "uniform":
        return Choice(probe.ranks_by(ToRank(int(rung))), "as planned")
    return Choice(probe.ranks_by(ToEnergy(rung)), f"directions that hold {rung:g} of each module's energy")
