"""The audit of a probe, and its calibration -> a rank for every module, for each variant. Pure.

A new variant is one function here and one line in `VARIANTS`.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gradience.plan.compression import ToSizeOfRank, predicted, with_calibration
from gradience.plan.criteria import Criterion, ToRank, ToSuggestion, with_suggestions
from gradience.plan.modules import Ranks, modules_of
from gradience.reports.audit import AuditReport, Suggestion, Suggestions
from gradience.reports.base.prediction import Prediction
from gradience.reports.calibration import Calibration


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
    ) -> None:
        """variants: all variants in the config. seed: seed of the run; random choices depend only on it.

        calibration: without it, calibrated variants cannot be chosen.
        """
        self.variants, self.seed = variants, seed
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
            return self.of_size(rank)
        return Choice(self.ranks_by(ToRank(rank)), "as requested")

    def ranks_by(self, criterion: Criterion) -> Ranks:
        """Return the rank that `criterion` gives every module."""
        return criterion.choose(self._report, self.modules)

    def of_size(self, rank: int) -> Choice:
        """Allocate the parameters of uniform rank `rank` by output effect; return the ranks and their predicted cost.

        Raises NotMade if no component remains.
        """
        assert self._calibration is not None
        criterion = ToSizeOfRank(rank)
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


def _per_layer(probe: AuditedProbe) -> Choice:
    basis = f"directions that hold {probe.suggestions.tau:g} of each module's energy, rounded up"
    return Choice(probe.ranks_by(ToSuggestion("per_layer")), basis)


def _uniform(probe: AuditedProbe, statistic: str, chosen: Suggestion) -> Choice:
    rounding = {"evidence": "", "grid": ", rounded up to an allowed rank", "cap": ", the probe's own rank"}
    return Choice(
        probe.ranks_by(ToRank(chosen.rank)),
        f"{statistic} of the directions that hold {probe.suggestions.tau:g} of the energy: {chosen.unrounded:g}"
        f"{rounding[chosen.decided_by]}",
    )


def step_name(rank: int) -> str:
    """Return the result name of a ladder step.

    >>> step_name(8), step_rank("ladder.r8")
    ('ladder.r8', 8)
    """
    return f"ladder.r{rank}"


def step_rank(name: str) -> int:
    """Return the rank of a ladder step from its result name."""
    return int(name.removeprefix("ladder.r"))


VARIANTS: dict[str, Callable[[AuditedProbe], Choice]] = {
    "uniform_median": lambda probe: _uniform(probe, "median", probe.suggestions.median),
    "uniform_p90": lambda probe: _uniform(probe, "90th percentile", probe.suggestions.p90),
    "per_layer": _per_layer,
    "calibrated": lambda probe: probe.of_size(probe.suggestions.median.rank),
}
"""Name in `compression.variants` -> its ranks. Beside them there are `uniform_rN`, rank N everywhere, and
`calibrated_rN`, as many parameters as that."""
