"""The audit of a probe -> a rank for every module, for each variant. Pure.

A new variant is one function here and one line in `VARIANTS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gradience.adapters.keys import config_name
from gradience.adapters.patterns import anchored_key
from gradience.artifacts.audit import AuditReport, Suggestion, Suggestions
from gradience.plan.suggest import collect, suggest

Ranks = Mapping[str, int]
"""Module, by its path in the base model -> rank; 0 where the LoRA is left out of it."""


class Choice(NamedTuple):
    """Ranks, and in words what they rest on, before rounding."""

    ranks: Ranks
    evidence: str


class NotMade(Exception):
    """Why an adapter is not made, in words."""


class AuditedProbe:
    """The modules of a probe, and the ranks that its audit suggests for them."""

    def __init__(
        self, report: AuditReport, *, variants: Sequence[str], allowed_ranks: Sequence[int], seed: int
    ) -> None:
        """variants: all that the config compares. seed: of the run; what is random depends on it alone."""
        self.variants, self.seed = variants, seed
        self.modules = collect(report.layers)
        self.ranks: Ranks = {module.name: module.size.rank for module in self.modules}
        self.use_rslora = report.adapter.use_rslora
        self._suggestions: Suggestions | None = None
        if report.suggestions is not None:  # where the audit made none, none is made here
            self._suggestions = suggest(
                report.layers, tau=report.tau, grid=allowed_ranks, use_rslora=self.use_rslora
            )

    @property
    def suggestions(self) -> Suggestions:
        """What the audit suggests, rounded up to the config's ranks. Raises NotMade where that is nothing."""
        if self._suggestions is None:
            raise NotMade("the audit suggests no rank for this adapter")
        return self._suggestions

    def choose(self, variant: str) -> Choice:
        """The ranks of a variant. Raises NotMade."""
        if variant in VARIANTS:
            return VARIANTS[variant](self)
        return Choice(self.uniform(int(variant.removeprefix("uniform_r"))), "as asked for")

    def uniform(self, rank: int) -> Ranks:
        """`rank` everywhere; a module keeps its own where that is smaller, or where no other can be given."""
        return {
            module.name: module.size.rank if module.keeps_rank else min(rank, module.size.rank)
            for module in self.modules
        }


def is_variant(name: str) -> bool:
    """Whether there is a variant of this name.

    >>> is_variant("per_layer"), is_variant("uniform_r16"), is_variant("uniform_r016")
    (True, True, False)
    """
    return name in VARIANTS or re.fullmatch(r"uniform_r[1-9]\d{0,5}", name) is not None


def _median(probe: AuditedProbe) -> Choice:
    return _uniform(probe, "median", probe.suggestions.median)


def _p90(probe: AuditedProbe) -> Choice:
    return _uniform(probe, "90th percentile", probe.suggestions.p90)


def _per_layer(probe: AuditedProbe) -> Choice:
    pattern = probe.suggestions.per_layer.rank_pattern
    ranks = {name: pattern[anchored_key(config_name(name))] for name in probe.ranks}
    return Choice(
        ranks, f"directions that hold {probe.suggestions.tau:g} of each module's energy, rounded up"
    )


def _uniform(probe: AuditedProbe, statistic: str, chosen: Suggestion) -> Choice:
    rounding = {"evidence": "", "grid": ", rounded up to an allowed rank", "cap": ", the probe's own rank"}
    return Choice(
        probe.uniform(chosen.rank),
        f"{statistic} of the directions that hold {probe.suggestions.tau:g} of the energy: {chosen.unrounded:g}"
        f"{rounding[chosen.decided_by]}",
    )


VARIANTS: dict[str, Callable[[AuditedProbe], Choice]] = {
    "uniform_median": _median,
    "uniform_p90": _p90,
    "per_layer": _per_layer,
}
"""Name in `compression.variants` -> its ranks. Beside them there is `uniform_rN`, rank N everywhere."""
