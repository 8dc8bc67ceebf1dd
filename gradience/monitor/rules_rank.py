"""Rules about the use of rank: what the spectra say at the end of a run that did not break."""

from __future__ import annotations

from gradience.monitor.facts import RunFacts
from gradience.monitor.rule import Finding, Options, evidence
from gradience.monitor.rules_loss import divergence, nonfinite
from gradience.monitor.rules_rl import kl_runaway, reward_collapse
from gradience.monitor.setup import RunSetup
from gradience.ranks import DEFAULT_GRID, round_up
from gradience.telemetry.rank_series import SATURATED_AT, RankPoint, settled_since, too_large, too_small


def untrained_modules(facts: RunFacts, setup: RunSetup, options: Options) -> Finding | None:
    """Some modules have ΔW = 0 although others train."""
    last = facts.last_spectra
    if last is None:
        return None
    untrained, modules = int(last.summary.get("untrained", 0)), int(last.summary.get("modules", 0))
    if not untrained or not last.step:
        return None
    return Finding(
        f"{untrained} of {modules} LoRA modules are still zero",
        evidence("modules with ΔW = 0", untrained, last.step),
        "high",
        "look whether these modules take part in the forward pass, and whether gradients reach them",
        "B starts at zero and moves with the first gradient",
    )


def rank_too_small(facts: RunFacts, setup: RunSetup, options: Options) -> Finding | None:
    """At least half of the modules need nearly all of their rank, and the picture has settled."""
    point = _settled_point(facts, setup, options)
    if point is None or not too_small(point):
        return None
    count = len(point.saturated())
    return Finding(
        f"{count} of {len(point.measured)} modules need nearly all of rank {max(point.ranks)}",
        evidence(f"modules whose k@90 reaches {SATURATED_AT:.0%} of their rank", count, point.step)
        + evidence("median k@90", point.needed_percentile(50), point.step),
        "medium",
        f"try rank {2 * max(point.ranks)} with α = {_doubled_alpha(setup)} and compare the evaluation",
        "an update that fills its rank may want more; only the evaluation can tell",
    )


def rank_too_large(facts: RunFacts, setup: RunSetup, options: Options) -> Finding | None:
    """Nine modules of ten hold 90 % of their energy in a quarter of their rank, and the picture has settled."""
    point = _settled_point(facts, setup, options)
    if point is None or not too_large(point):
        return None
    needed = point.needed_percentile(90) or 1.0
    rank, _ = round_up(needed, DEFAULT_GRID, ceiling=max(point.ranks))
    return Finding(
        f"nine modules of ten hold 90 % of their energy in {needed:g} of {max(point.ranks)} directions",
        evidence("k@90, 90th percentile of modules", needed, point.step)
        + evidence("allocated rank", max(point.ranks)),
        "medium",
        f"audit the adapter; rank {rank} may do (retrain or truncate, then evaluate)",
        "energy is a crude stand-in for importance: a hypothesis, not a verdict",
    )


def _doubled_alpha(setup: RunSetup) -> str:
    return f"{2 * setup.alpha:g} (same α/r)" if setup.alpha else "twice the old one"


def _settled_point(facts: RunFacts, setup: RunSetup, options: Options) -> RankPoint | None:
    """The last measurement, where it can be judged: k@90 stands still, B·A is ΔW, and the run did not break."""
    if not facts.recent or facts.modules.get("starts_at_zero") is False:
        return None
    broken = (reward_collapse, kl_runaway) if setup.method == "reinforcement" else (divergence,)
    if any(rule(facts, setup, options) for rule in (nonfinite, *broken)):
        return None
    return facts.recent[-1] if settled_since(facts.recent) is not None else None
