"""Reports on several data sets: a kept evaluation as the task, and again as its guard."""

from pathlib import Path

from gradience.evaluate.verb import joint_report
from gradience.files.artifact import digest_of
from gradience.reports.base.run import Stopwatch
from gradience.reports.bench_plan import PlannedSet
from gradience.reports.evaluation import EvaluationReport
from gradience.reports.evaluation_sets import EvaluationPlan, EvaluationSetsReport
from gradience.reports.strength import StrengthPoint, StrengthReport

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


def strength_report() -> StrengthReport:
    report = sets_report()
    names = [row.name for row in report.candidates]
    first = {
        name: evaluation.model_copy(
            update={"adapters": tuple(row for row in evaluation.adapters if row.name != names[-1])}
        )
        for name, evaluation in report.evaluations.items()
    }
    return StrengthReport(
        adapter="my_adapter",
        rank=8,
        points=tuple(
            StrengthPoint(name=name, strength=0.8 - 0.2 * place, rank=8) for place, name in enumerate(names)
        ),
        dev=report,
        chosen=names[0],
        test=joint_report(report.plan, report.plan_sha256, first, Stopwatch("gradience shrink")),
        run=Stopwatch("gradience shrink").run_info(),
    )


def sets_report() -> EvaluationSetsReport:
    plan, report = sets_plan(), EvaluationReport.read(KEPT)
    reports = {planned.name: report for planned in plan.sets}
    return joint_report(plan, digest_of(plan), reports, Stopwatch("gradience evaluate"))
