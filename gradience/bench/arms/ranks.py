"""The audit of a probe, and its calibration -> a rank for every module, for each variant. Pure.

A new variant is one function here and one line in `VARIANTS`.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gradience.errors import UsageError
from gradience.plan.calibrated import ToKl, ToSizeOfRank, predicted, refuse_routed, with_calibration
from gradience.plan.criteria import Criterion, ToEnergy, ToRank, ToSuggestion
from gradience.plan.modules import Ranks, modules_of
from gradience.plan.suggestions import with_suggestions
from gradience.reports.audit import AuditReport, Suggestion, Suggestions
from gradience.reports.base.prediction import Prediction
from gradience.reports.bench_plan import LadderKind
from gradience.reports.calibration import Calibration

UNDER_KL = "calibrated_kl"
"""The variant that a limit of predicted KL divergence decides."""


class Choice(NamedTuple):
    """Ranks, and a description of their basis before rounding.

    prediction: the calibration's, if it chose the ranks.
    """

    ranks: Ranks
    basis: str
    prediction: Prediction | None = None


class NotMade(Exception):
    """Why an adapter is not made, in words."""


class AuditedProbe:
    """The modules of a probe, and the ranks that its audit suggests for them."""

    def __init__(
        self,
        report: AuditReport,
        *,
        variants: Sequence[str],
        allowed_ranks: Sequence[int],
        seed: int,
        calibration: Calibration | None = None,
        max_kl_per_token: float | None = None,
    ) -> None:
        """variants: all variants in the config. seed: seed of the run; random choices depend only on it.

        calibration: without it, calibrated variants cannot be chosen. max_kl_per_token: limit of the variant
        `calibrated_kl`.
        """
        self.variants, self.seed, self.max_kl_per_token = variants, seed, max_kl_per_token
        self._calibration = calibration
        self.modules = modules_of(report)
        self.ranks: Ranks = {module.name: module.rank for module in self.modules}
        self.use_rslora = report.adapter.use_rslora
        self._report = with_suggestions(report, allowed_ranks)

    @property
    def suggestions(self) -> Suggestions:
        """Return the audit's suggestions, rounded up to the config's ranks. Raises NotMade if there are
        none.
        """
        if self._report.suggestions is None:
            raise NotMade("the audit suggests no rank for this adapter")
        return self._report.suggestions

    def choose(self, variant: str) -> Choice:
        """Return the ranks of a variant. Raises NotMade."""
        if variant in VARIANTS:
            return VARIANTS[variant](self)
        rank = int(variant.rpartition("_r")[2])
        if is_calibrated(variant):
            return self.chosen_by_effect(ToSizeOfRank(rank))
        return Choice(self.ranks_by(ToRank(rank)), "as requested")

    def ranks_by(self, criterion: Criterion) -> Ranks:
        """Return the rank that `criterion` gives every module."""
        return criterion.choose(self._report, self.modules)

    def chosen_by_effect(self, criterion: Criterion) -> Choice:
        """Return the ranks that `criterion` chooses by output effect, and their predicted cost.

        Raises NotMade if no component remains, and for a KL limit on a base that routes tokens to experts.
        """
        assert self._calibration is not None
        try:
            refuse_routed(self._calibration, criterion)
        except UsageError as error:
            raise NotMade(str(error)) from None
        modules = with_calibration(self._report, self.modules, self._calibration)
        ranks = criterion.choose(self._report, modules)
        if not any(ranks.values()):
            raise NotMade(f"{criterion.words}: no module would be left")
        return Choice(ranks, criterion.words, predicted(modules, ranks, self._calibration.report))


def is_variant(name: str) -> bool:
    """Return whether there is a variant of this name.

    >>> is_variant("per_layer"), is_variant("uniform_r16"), is_variant("calibrated_r4"), is_variant("uniform_r016")
    (True, True, True, False)
    """
    return name in VARIANTS or re.fullmatch(r"(uniform|calibrated)_r[1-9]\d{0,5}", name) is not None


def is_calibrated(name: str) -> bool:
    """Return whether the variant of this name is chosen by a calibration of the probe.

    >>> is_calibrated("calibrated"), is_calibrated("calibrated_r4"), is_calibrated("uniform_median")
    (True, True, False)
    """
    return name.partition("_")[0] == "calibrated"


def _median(probe: AuditedProbe) -> Choice:
    return _uniform(probe, "median", probe.suggestions.median)


def _p90(probe: AuditedProbe) -> Choice:
    return _uniform(probe, "90th percentile", probe.suggestions.p90)


def _per_layer(probe: AuditedProbe) -> Choice:
    basis = f"directions that hold {probe.suggestions.tau:g} of each module's energy, rounded up"
    return Choice(probe.ranks_by(ToSuggestion("per_layer")), basis)


def _calibrated(probe: AuditedProbe) -> Choice:
    return probe.chosen_by_effect(ToSizeOfRank(probe.suggestions.median.rank))


def _calibrated_kl(probe: AuditedProbe) -> Choice:
    assert probe.max_kl_per_token is not None
    return probe.chosen_by_effect(ToKl(probe.max_kl_per_token))


def _uniform(probe: AuditedProbe, statistic: str, chosen: Suggestion) -> Choice:
    rounding = {"evidence": "", "grid": ", rounded up to an allowed rank", "cap": ", the probe's own rank"}
    return Choice(
        probe.ranks_by(ToRank(chosen.rank)),
        f"{statistic} of the directions that hold {probe.suggestions.tau:g} of the energy: {chosen.unrounded:g}"
        f"{rounding[chosen.decided_by]}",
    )


# ---------------------------------------------------------------- the ladder


def step_name(kind: LadderKind, step: float) -> str:
    """Return the name of a step's result.

    >>> step_name("uniform", 8), step_name("per_layer", 0.9)
    ('ladder.r8', 'ladder.e0.9')
    """
    return f"ladder.{'r' if kind == 'uniform' else 'e'}{step:g}"


def ranks_of_step(probe: AuditedProbe, kind: LadderKind, step: float) -> Choice:
    """Return the ranks of a step: one for every module, or the smallest that holds the share of its energy."""
    if kind == "uniform":
        return Choice(probe.ranks_by(ToRank(int(step))), "as planned")
    return Choice(probe.ranks_by(ToEnergy(step)), f"directions that hold {step:g} of each module's energy")


VARIANTS: dict[str, Callable[[AuditedProbe], Choice]] = {
    "uniform_median": _median,
    "uniform_p90": _p90,
    "per_layer": _per_layer,
    "calibrated": _calibrated,
    UNDER_KL: _calibrated_kl,
}
"""Name in `compression.variants` -> its ranks. Beside them there are `uniform_rN`, rank N everywhere, and
`calibrated_rN`, as many parameters as that."""
