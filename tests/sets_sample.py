"""Reports on several data sets: a kept evaluation as the task, and again as its guard."""

from pathlib import Path

from gradience.evaluate.verb import joint_report
from gradience.files.artifact import digest_of
from gradience.reports.base.report import Stopwatch
from gradience.reports.bench_plan import PlannedSet
from gradience.reports.evaluation import EvaluationPlan, EvaluationReport, EvaluationSetsReport

KEPT = Path(__file__).parents[1] / "benchmarks" / "results" / "minilm_evaluation" / "evaluation.json"


def sets_plan() -> EvaluationPlan:
    report = EvaluationReport.read(KEPT)
    shared = {
        "task": report.task,
        "role": report.role,
        "examples": report.examples,
        "examples_sha256": report.examples_sha256,
        "compares": "correct",
        "margin": report.margin,
    }
    return EvaluationPlan(
        reference_sha256=report.adapters[0].sha256,
        reference_config_sha256=report.adapters[0].config_sha256,
        candidates=tuple(row.sha256 for row in report.candidates),
        base=report.base,
        sets=(
            PlannedSet(name="task", guard=False, **shared),
            PlannedSet(name="general", guard=True, **shared),
        ),
        level="0.05",
    )


def sets_report() -> EvaluationSetsReport:
    plan, report = sets_plan(), EvaluationReport.read(KEPT)
    reports = {planned.name: report for planned in plan.sets}
    return joint_report(plan, digest_of(plan), reports, Stopwatch("gradience evaluate"))
