"""A seed's calibration against its probe and the plan, and the adapters that were chosen by it against both."""

from __future__ import annotations

from collections.abc import Iterator

from gradience.bench.verdict.facts import CALIBRATION, Outcome, SeedFacts
from gradience.bench.verify.findings import Findings
from gradience.bench.verify.links import Link
from gradience.compress.adapter import REPORT
from gradience.reports.base.prediction import PredictedDivergence
from gradience.reports.bench_plan import BenchPlan
from gradience.reports.calibration import Calibration
from gradience.reports.training import ADAPTER


def check_calibration(facts: SeedFacts, plan: BenchPlan, findings: Findings, *, inside: str = "") -> None:
    """Compare what was kept of the probe with what its calibration says, where there is one.

    inside: what stands before the names of this seed's files.
    """
    if facts.calibration is None:
        return
    what = (
        f"{inside or 'the run'}: what calibrated variants keep, and its prediction, follow from {CALIBRATION}"
    )
    with findings.check("calibration", "L2", what):
        for file, field, there, expected in _links(facts, facts.calibration, plan):
            if there != expected:
                findings.mismatch(f"{inside}{file}", f"{there}; must be {expected}", field)


def _links(facts: SeedFacts, calibration: Calibration, plan: BenchPlan) -> Iterator[Link]:
    file, report, planned = f"calibration/{CALIBRATION}", calibration.report, plan.calibration
    settings, probe = facts.config.compression.calibration, facts.probe and facts.probe.adapter
    yield file, "adapter_sha256", report.adapter_sha256, probe and probe.sha256
    yield file, "seed", report.seed, facts.seed
    yield file, "prompts_sha256", report.prompts_sha256, planned and planned.prompts_sha256
    yield file, "rows", report.rows + report.duplicates, planned and planned.rows
    yield "plan.json", "calibration.max_kl", planned and planned.max_kl, settings and settings.max_kl
    for outcome in facts.outcomes:
        yield from _of_adapter(outcome, calibration)


def _of_adapter(outcome: Outcome, calibration: Calibration) -> Iterator[Link]:
    """Ranks module by module: the result has their range alone."""
    planned = outcome.planned
    if outcome.adapter is None or outcome.adapter.compression is None:
        return
    report = outcome.adapter.compression
    file = f"{planned.name}/adapter/{ADAPTER}/{REPORT}"
    predicted = report.prediction and PredictedDivergence.of(report.prediction)
    yield file, "calibration_sha256", report.calibration_sha256, calibration.sha256
    yield file, "prediction", predicted, planned.predicted
    ranks = {module.name: module.new_rank for module in report.modules}
    yield file, "modules", ranks, dict(planned.ranks)
