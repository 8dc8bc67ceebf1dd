"""Facts recorded in two places of a seed's folder: a run under another seed's name, another adapter's answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from gradience import __version__
from gradience.adapters.config import read_config
from gradience.bench.plan.variants import PROBE
from gradience.bench.verdict.facts import ANSWERS, CALIBRATION, Outcome, SeedFacts, StoredAdapter
from gradience.bench.verify.findings import Findings, Link
from gradience.bench.verify.recompute import repeated
from gradience.compress.adapter import REPORT
from gradience.compress.carry import DISTILL_REPORT
from gradience.digests import sha256_file
from gradience.files.records import ExamplesRun
from gradience.models.locate import EMBEDDED, plain_name
from gradience.reports.bench_plan import BenchPlan
from gradience.reports.calibration import Calibration
from gradience.reports.training import ADAPTER
from gradience.reports.training import REPORT as TRAINING
from gradience.reports.verification import Level
from gradience.training.settings import STREAMS, stream


def check_links(
    facts: SeedFacts, plan: BenchPlan, findings: Findings, *, inside: str = "", version: int | None = None
) -> None:
    """Compare what the files of a seed say of each other. inside: prefix of the names of this seed's files.

    version: of the task's scoring here; None if its rules are unknown.
    """
    place = inside or "the run"
    description = (
        f"{place}: trainings, adapters, audit and answers are consistent with each other and the seed"
    )
    checks: list[tuple[str, Level, str, Iterator[Link]]] = [
        ("links", "L1", description, _links(facts, plan, version))
    ]
    if facts.calibration is not None:
        description = f"{place}: components and predictions of calibrated variants follow from {CALIBRATION}"
        checks.append(("calibration", "L2", description, _of_calibration(facts, facts.calibration, plan)))
    for name, level, description, links in checks:
        with findings.check(name, level, description):
            findings.compare(links, inside)


def _links(facts: SeedFacts, plan: BenchPlan, version: int | None) -> Iterator[Link]:
    if facts.probe is None or facts.probe.adapter is None:
        return
    probe = facts.probe.adapter
    if facts.audit is not None:
        yield "audit/audit.json", "adapter.sha256", facts.audit.adapter.sha256, probe.sha256
    for outcome in (facts.probe, *facts.outcomes):
        if outcome.adapter is not None:
            yield from _of_training(outcome, outcome.adapter, facts, plan)
            yield from _of_distillation(outcome, outcome.adapter, probe, facts)
            yield from _of_answers(outcome, outcome.adapter, probe, plan)
            yield from _of_base(outcome, outcome.adapter, plan)
            if outcome.answers is not None and outcome.answers.run.scoring is not None:
                run, file = outcome.answers.run, f"{outcome.planned.name}/eval/{ANSWERS}"
                yield file, "scoring", run.scoring, _scoring(run, plan, version)


def _of_training(
    outcome: Outcome, adapter: StoredAdapter, facts: SeedFacts, plan: BenchPlan
) -> Iterator[Link]:
    report, arm = adapter.training, outcome.planned.making
    if report is None or not arm.is_trained:
        return
    file, recipe = f"{outcome.planned.name}/train/training.json", facts.config.train.model_dump(mode="json")
    data = next(split for split in plan.splits if split.role == "train")
    yield file, "adapter_sha256", report.adapter_sha256, adapter.sha256
    yield file, "start.seed", report.start.seed, facts.seed
    yield file, "start.streams", report.start.streams, {name: stream(facts.seed, name) for name in STREAMS}
    yield file, "trained", report.trained, arm.trains
    yield file, "recipe", report.recipe, {key: recipe.get(key) for key in report.recipe}
    if not outcome.planned.as_recorded:  # else its ranks are not known module by module
        lora = facts.config.lora.peft_arguments()
        if outcome.planned.name != PROBE and arm.trains == "lora":
            lora |= outcome.planned.lora_arguments()
        yield file, "lora", report.lora, json.loads(json.dumps(lora))
    yield file, "examples.task", report.examples.task, plan.task
    yield file, "examples.sha256", report.examples.sha256, data.sha256


def _of_base(outcome: Outcome, adapter: StoredAdapter, plan: BenchPlan) -> Iterator[Link]:
    """Compare the name of the base: the last part, since it may be stored elsewhere."""
    named = EMBEDDED[plan.model][1] if plan.model in EMBEDDED else plain_name(plan.model)
    expected, at = Path(named).name, f"{outcome.planned.name}/{adapter.folder.parent.name}"
    if expected in ("", ".."):  # `.`: the folder of the config, whose name the plan does not hold
        return
    if adapter.training is not None:
        yield f"{at}/{TRAINING}", "base", Path(adapter.training.base).name, expected
    path = adapter.folder / "adapter_config.json"
    if path.is_file():
        base = read_config(path).base_model or ""
        yield f"{at}/{ADAPTER}/{path.name}", "base_model_name_or_path", Path(base).name, expected


def _scoring(run: ExamplesRun, plan: BenchPlan, version: int | None) -> str:
    """Return the scoring that a header must name: as recorded, if it is that of the plan's task.

    The version is compared only with that of the Gradience that answered.
    """
    recorded = run.scoring or ""
    is_known = version is not None and run.versions.get("gradience") == __version__
    start = f"{plan.task} {version if is_known else recorded.removeprefix(f'{plan.task} ').partition(',')[0]}"
    code = plan.task_code
    end = "" if code is None else f", {code.sha256}"
    is_planned = (recorded == start or recorded.startswith(f"{start}, ")) and recorded.endswith(end)
    return recorded if is_planned else f"{start}{end}"


def _of_distillation(
    outcome: Outcome, adapter: StoredAdapter, probe: StoredAdapter, facts: SeedFacts
) -> Iterator[Link]:
    distillation, report = facts.config.compression.distillation, adapter.distillation
    if distillation is None or report is None or probe.training is None:
        return
    file = f"{outcome.planned.name}/adapter/{ADAPTER}/{DISTILL_REPORT}"
    yield file, "teacher_sha256", report.teacher_sha256, probe.sha256
    yield file, "output_sha256", report.output_sha256, adapter.sha256
    yield file, "seed", report.seed, facts.seed
    yield file, "lr", report.lr, distillation.lr
    yield file, "planned_steps", report.planned_steps, distillation.steps_of(probe.training.planned_steps)


def _of_answers(
    outcome: Outcome, adapter: StoredAdapter, probe: StoredAdapter, plan: BenchPlan
) -> Iterator[Link]:
    name = outcome.planned.name
    split_of_plan = next(split for split in plan.splits if split.role == plan.eval_role)
    config = adapter.folder / "adapter_config.json"
    looks = () if plan.ladder is None else plan.ladder.looks
    for kind, evaluation in (("answers", outcome.answers), ("scores", outcome.scores)):
        if evaluation is None:
            continue
        run, file = evaluation.run, f"{name}/eval/{kind}.records.jsonl"
        yield file, "adapter", run.adapter, name
        yield file, "adapter_sha256", run.adapter_sha256, adapter.sha256
        if config.is_file():
            yield file, "adapter_config_sha256", run.adapter_config_sha256, sha256_file(config)
        is_early = outcome.planned.step is not None and run.n in looks
        answered = tuple(look for look in looks if look <= run.n)
        yield file, "n", run.n, run.n if is_early else split_of_plan.n
        yield file, "looks", run.looks, answered if len(answered) > 1 else ()
        yield file, "id", repeated(evaluation.records)[:3], []
        if kind == "scores":
            yield file, "reference_sha256", run.reference_sha256, probe.sha256


def _of_calibration(facts: SeedFacts, calibration: Calibration, plan: BenchPlan) -> Iterator[Link]:
    """Compare the calibration. Only the range of ranks can be checked, because the result does not record
    them by module.
    """
    file, report, planned = f"calibration/{CALIBRATION}", calibration.report, plan.calibration
    settings, probe = facts.config.compression.calibration, facts.probe and facts.probe.adapter
    yield file, "adapter_sha256", report.adapter_sha256, probe and probe.sha256
    yield file, "seed", report.seed, facts.seed
    yield file, "prompts_sha256", report.prompts_sha256, planned and planned.prompts_sha256
    yield file, "rows", report.rows + report.duplicates, planned and planned.rows
    yield (
        "plan.json",
        "calibration.max_kl_per_token",
        planned and planned.max_kl_per_token,
        settings and settings.max_kl_per_token,
    )
    for outcome in facts.outcomes:
        if outcome.adapter is None or outcome.adapter.compression is None:
            continue
        report_of_adapter = outcome.adapter.compression
        file = f"{outcome.planned.name}/adapter/{ADAPTER}/{REPORT}"
        ranks = {module.name: module.new_rank for module in report_of_adapter.modules}
        yield file, "calibration_sha256", report_of_adapter.calibration_sha256, calibration.sha256
        yield file, "prediction", report_of_adapter.prediction, outcome.planned.predicted
        yield file, "modules", ranks, dict(outcome.planned.ranks)
