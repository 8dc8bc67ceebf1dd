"""What a smaller rank is predicted to do to the outputs, for the adapters of which there is a calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gradience.audit.adapter import audit_adapter
from gradience.errors import GradienceError, UsageError
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import ToRank
from gradience.reports.calibration import Calibration
from gradience.words import listed


class Predictions:
    """The calibrations that were given, by the digest of their adapter. Raises InputError for one that is broken."""

    def __init__(self, files: Sequence[Path], *, allow_pickle: bool = False) -> None:
        self._allow_pickle = allow_pickle
        self._files = {}
        self._calibrations = {}
        for file in files:
            calibration = Calibration.read(file)
            self._files[calibration.report.adapter_sha256] = file
            self._calibrations[calibration.report.adapter_sha256] = calibration

    def check_used(self, digests: frozenset[str]) -> None:
        """Raise UsageError (other-calibration) for a calibration of none of these adapters."""
        unused = [str(file) for digest, file in self._files.items() if digest not in digests]
        if unused:
            raise UsageError(
                f"{listed(unused)}: of none of these adapters",
                code="other-calibration",
                hint="give calibrations of adapters in the fleet, made from these very weights",
            )

    def kl(self, paths: Mapping[str, Path], name: str, sha256: str, rank: int) -> float | None:
        """Return the predicted KL per scored token of an adapter at a rank, in nats; None where nothing predicts it."""
        calibration = self._calibrations.get(sha256)
        if calibration is None:
            return None
        try:
            audited = audit_adapter(paths[name], workers=1, allow_pickle=self._allow_pickle)
            plan = plan_compression(audited, ToRank(rank), path=paths[name], calibration=calibration)
        except GradienceError:  # what compress would refuse has no prediction
            return None
        return None if plan.prediction is None else plan.prediction.kl
