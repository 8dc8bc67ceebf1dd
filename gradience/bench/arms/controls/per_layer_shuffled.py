"""The ranks of `per_layer` on other modules: whether it matters where the ranks are."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import Any

from gradience.bench.arms.arm import Control
from gradience.bench.arms.ranks import AuditedProbe, Choice, NotMade
from gradience.plan.modules import Ranks


def shuffled_ranks(probe: AuditedProbe) -> Choice:
    """Return the ranks of `per_layer`, shuffled among modules of one shape, so that the parameters stay the same.

    As many modules as possible get another rank. Raises NotMade where that is less than half of them.
    """
    ranks = probe.choose("per_layer").ranks
    alike: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for module in probe.modules:
        if not module.fixed:
            alike[module.rank, module.shape, module.bytes, len(module.rows), module.alpha].append(module.name)
    draw = random.Random(f"{probe.seed}/per_layer_shuffled")
    shuffled = dict(ranks)
    for names in alike.values():
        order = sorted(names)
        draw.shuffle(order)
        shuffled |= _exchanged(order, ranks)
    if 2 * sum(shuffled[name] != ranks[name] for name in ranks) < len(ranks):
        raise NotMade("impossible: too few modules of one shape differ in rank")
    return Choice(shuffled, "the ranks of per_layer on other modules")


def _exchanged(names: list[str], ranks: Ranks) -> Ranks:
    """Sorted by rank and shifted by the most frequent rank's count: nothing meets itself unless that rank has more
    than half of the places."""
    order = sorted(names, key=lambda name: ranks[name])
    shift = max(Counter(ranks[name] for name in order).values())
    return {name: ranks[order[(place + shift) % len(order)]] for place, name in enumerate(order)}


PER_LAYER_SHUFFLED = Control(
    name="per_layer_shuffled",
    words="the ranks of per_layer, shuffled among modules; if it is as good, it does not matter where the ranks are",
    ranks=shuffled_ranks,
    needs_variant="per_layer",
)
