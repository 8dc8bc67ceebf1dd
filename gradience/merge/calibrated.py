"""Rank of a truncated sum from its predicted KL: calibrations of the exact sum, one for each parent's prompts.

A calibration measures what leaving out singular components of an adapter does to its outputs. For a merge that adapter
is the exact sum: a parent's own calibration does not see the directions of the other parents.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from gradience.audit.adapter import audit_adapter
from gradience.errors import InputError, UsageError
from gradience.merge.parents import Parent
from gradience.merge.settings import MergeSettings
from gradience.plan.calibrated import interval, left_out, uniform, with_calibration
from gradience.plan.modules import modules_of
from gradience.reports.base.run import Stopwatch
from gradience.reports.calibration import calibration_argument
from gradience.reports.merge import PredictedKl


def rank_within(parents: Sequence[Parent], settings: MergeSettings) -> tuple[int, tuple[PredictedKl, ...]]:
    """Return the smallest rank whose predicted KL has its upper end below the limit on every calibration.

    Raises UsageError (`other-calibration`) for a calibration of another adapter than the exact sum; InputError
    (`other-base`) for calibrations on different base weights.
    """
    from gradience.merge.verb import write_merge

    limit = settings.max_kl_per_token or 0.0
    calibrations = [
        calibration
        for path in settings.calibration
        if (calibration := calibration_argument(path)) is not None
    ]
    if len({calibration.report.base_sha256 for calibration in calibrations}) > 1:
        raise InputError(
            "the calibrations were made on different base weights",
            code="other-base",
            hint="calibrate the exact sum on one base: gradience calibrate SUM --prompts ROWS -o FILE",
        )
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        exact = replace(settings, method="linear", max_kl_per_token=None, calibration=(), verify_peft=False)
        folder = Path(scratch) / "sum"
        write_merge(parents, exact, folder, Stopwatch(), stack)
        audit = audit_adapter(folder)
    try:
        measured = [with_calibration(audit, modules_of(audit), calibration) for calibration in calibrations]
    except UsageError as error:
        paths = " ".join(str(parent.path) for parent in parents)
        raise UsageError(
            f"{error}: a calibration of the exact sum of these adapters is needed",
            code="other-calibration",
            hint=f"gradience merge {paths} -o SUM, then gradience calibrate SUM on each parent's prompts",
        ) from None
    largest = max(module.rank for module in measured[0])
    for rank in range(1, largest + 1):
        rows = []
        for calibration, modules in zip(calibrations, measured, strict=True):
            tokens = next(module.effects.tokens for module in modules if module.effects is not None)
            change = left_out(modules, uniform(modules, rank), svd=True)
            kl, _, high, _ = interval(change, tokens)
            rows.append(PredictedKl(calibration_sha256=calibration.sha256, kl_per_token=kl, high=high))
        if all(row.high <= limit for row in rows):
            return rank, tuple(rows)
    return largest, tuple(rows)
