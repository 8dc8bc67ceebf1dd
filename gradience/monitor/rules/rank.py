"""Use of rank: what the spectra say at the end of a run that did not break."""

from __future__ import annotations

from gradience.monitor.rules.loss import divergence, nonfinite
from gradience.monitor.rules.rewards import kl_runaway, reward_collapse
from gradience.monitor.run import Observation, Observations, Run, evidence
from gradience.monitor.setup import RunSetup
from gradience.ranks import DEFAULT_GRID, round_up
from gradience.rules import rule
from gradience.telemetry.rank_series import SATURATED_AT, RankPoint, settled_since, too_large, too_small
from gradience.words import counted

ADAPTERS = "122 adapters of strangers and repeated runs (docs/reference/monitor_rules.md)"
ZERO_B = "LoRA's initialisation B = 0 (Hu et al., 2021)"


@rule("untrained-modules", "warning", ZERO_B)
def untrained_modules(run: Run) -> Observations:
    """Some modules have ΔW = 0 although others train."""
    last = run.facts.last_spectra
    if last is None:
        return
    untrained, modules = int(last.summary.get("untrained", 0)), int(last.summary.get("modules", 0))
    if not untrained or not last.step:
        return
    yield Observation(
        f"ΔW is still zero in {untrained} of {counted(modules, 'LoRA module')}",
        evidence("modules with ΔW = 0", untrained, last.step),
        "high",
        "check whether the forward pass uses these modules and whether gradients reach them",
        "B starts at zero and moves with the first gradient",
    )


@rule("rank-too-small", "warning", ADAPTERS)
def rank_too_small(run: Run) -> Observations:
    """At least half of the modules need nearly all of their rank, and the picture has settled."""
    point = _settled_point(run)
    if point is None or not too_small(point):
        return
    count = len(point.saturated())
    yield Observation(
        f"{count} of {counted(len(point.measured), 'module')} at nearly full rank ({max(point.ranks)})",
        evidence(f"modules whose k@90 reaches {SATURATED_AT:.0%} of their rank", count, point.step)
        + evidence("median k@90", point.needed_percentile(50), point.step),
        "medium",
        f"try rank {2 * max(point.ranks)} with α = {_doubled_alpha(run.setup)} and compare the evaluation",
        "an update that fills its rank may need more; only an evaluation shows whether it does",
    )


@rule("rank-too-large", "info", ADAPTERS)
def rank_too_large(run: Run) -> Observations:
    """Nine modules of ten hold 90 % of their energy in a quarter of their rank, and the picture has settled."""
    point = _settled_point(run)
    if point is None or not too_large(point):
        return
    needed = point.needed_percentile(90) or 1.0
    rank, _ = round_up(needed, DEFAULT_GRID, ceiling=max(point.ranks))
    yield Observation(
        f"nine modules in ten have 90 % of their energy in {needed:g} of {max(point.ranks)} directions",
        evidence("k@90, 90th percentile of modules", needed, point.step)
        + evidence("allocated rank", max(point.ranks)),
        "medium",
        f"audit the adapter; rank {rank} may be enough (retrain or truncate, then evaluate)",
        "energy is a crude stand-in for importance: a hypothesis, not a verdict",
    )


def _doubled_alpha(setup: RunSetup) -> str:
    return f"{2 * setup.alpha:g} (same α/r)" if setup.alpha else "twice the old one"


def _settled_point(run: Run) -> RankPoint | None:
    """The last measurement, where it can be judged: k@90 stands still, B·A is ΔW, and the run did not break."""
    facts = run.facts
    if not facts.recent or facts.modules.get("starts_at_zero") is False:
        return None
    breaks = (reward_collapse, kl_runaway) if run.setup.method == "reinforcement" else (divergence,)
    if any(broken.statements(run) for broken in (nonfinite, *breaks)):
        return None
    return facts.recent[-1] if settled_since(facts.recent) is not None else None
