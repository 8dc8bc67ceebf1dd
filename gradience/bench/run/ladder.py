"""The ladder of a run, after its other stages: look by look on all seeds, step by step until one is not shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.variants import PROBE
from gradience.bench.run.live import LOG, logged
from gradience.bench.run.seed import SeedRun
from gradience.bench.verdict.evidence import LookRules
from gradience.bench.verdict.facts import SeedFacts
from gradience.progress import Watcher


def uses_looks(config: BenchConfig) -> bool:
    """Return True if this process evaluates the ladder, last of all. Else each seed answers all examples: those of a
    single seed cannot tell when the test of all ends, and a cluster has the devices."""
    return config.only_seed is None and config.runtime.executor == "local"


def evaluate_ladder(
    runs: Mapping[int, SeedRun], facts: Mapping[int, SeedFacts], rules: LookRules, watcher: Watcher
) -> dict[int, SeedFacts]:
    """Evaluate the steps of the ladder as far as their tests need, and return the facts of each seed with them.

    One base answers for all seeds. A seed that has no variants ends the ladder: nothing can be concluded.
    """
    known, evaluator = dict(facts), next(iter(runs.values())).evaluator
    if not all(of_seed.outcomes for of_seed in known.values()):
        return known
    planned = [outcome.planned for outcome in next(iter(known.values())).outcomes]
    try:
        for run in runs.values():
            run.evaluator = evaluator
        for step in (variant for variant in planned if variant.step is not None):
            is_probe = all(_planned(of_seed, step.name).same_as == PROBE for of_seed in known.values())
            if not (is_probe or _is_shown(step.name, runs, known, rules, watcher)):
                break
    finally:
        evaluator.close()
    return known


def _is_shown(
    name: str, runs: Mapping[int, SeedRun], known: dict[int, SeedFacts], rules: LookRules, watcher: Watcher
) -> bool:
    """Evaluate a step look by look until its test ends, in `known`; return True if it is shown."""
    stages = 0
    for look in range(1, len(rules.looks) + 1):
        for number, (seed, run) in enumerate(runs.items(), start=1):
            watcher.seed(seed, number, len(runs))
            run.number, run.planned = stages, None
            with logged(run.folder / LOG):
                known[seed] = run.reach(known[seed], name, look)
            stages = run.number
        rows = [_differences(of_seed, name) for of_seed in known.values()]
        if not all(rows):  # of a seed it could not be evaluated
            return False
        stopped = rules.decide(np.stack([row[: min(map(len, rows))] for row in rows])).stopped
        if stopped is not None:
            return stopped == "shown"
    return False


def _planned(facts: SeedFacts, name: str) -> Any:
    return next(outcome.planned for outcome in facts.outcomes if outcome.planned.name == name)


def _differences(facts: SeedFacts, name: str) -> list[int]:
    """Return step − probe for each answered example; for a twin, the values of its original."""
    known = {outcome.planned.name: outcome for outcome in facts.outcomes}
    outcome = known.get(known[name].planned.same_as or name)
    if facts.probe is None or facts.probe.answers is None or outcome is None or outcome.answers is None:
        return []
    pairs = zip(outcome.answers.records, facts.probe.answers.records, strict=False)
    return [after.correct - before.correct for after, before in pairs]
