"""Facts recorded in two places of a seed's folder: a run under another seed's name, another adapter's answers; and the
sizes of every adapter, by its config and by the header of its weights."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from gradience import __version__
from gradience.adapters.config import read_config
from gradience.adapters.keys import config_name, parse_key
from gradience.adapters.locate import WEIGHTS
from gradience.adapters.tensors import TensorEntry, read_header
from gradience.bench.plan.preregister import looks_of
from gradience.bench.plan.variants import GUARDS, PROBE
from gradience.bench.verdict.facts import (
    ANSWERS,
    CALIBRATION,
    HEADER,
    SIZES,
    Outcome,
    SeedFacts,
    StoredAdapter,
    changed_scales,
    header_of,
    parameters_of,
)
from gradience.bench.verify.findings import Findings, Link
from gradience.bench.verify.recompute import repeated
from gradience.compress.carry import DISTILL_REPORT, REPORT
from gradience.digests import sha256_file
from gradience.errors import InputError
from gradience.evaluate.verb import EVALUATION
from gradience.files.records import ExamplesRun
from gradience.models.locate import EMBEDDED, plain_name
from gradience.plan.modules import Ranks
from gradience.reading import MAX_DATA_BYTES, read_file
from gradience.reports.bench_plan import PLANNED, BenchPlan
from gradience.reports.calibration import Calibration
from gradience.reports.evaluation import BASE
from gradience.reports.training import ADAPTER
from gradience.reports.training import REPORT as TRAINING
from gradience.training.settings import STREAMS, stream
from gradience.words import counted


def check_links(facts: SeedFacts, plan: BenchPlan, findings: Findings, version: int | None) -> None:
    """Check that the files of a seed are consistent with each other.

    version: installed version of the task's scoring; None if its rules are unknown.
    """
    with findings.check(
        "links", "L1", "trainings, adapters, audit and answers are consistent with each other and the seed"
    ):
        findings.compare(_links(facts, plan, version))
    if facts.calibration is not None:
        description = f"components and predictions of calibrated variants follow from {CALIBRATION}"
        with findings.check("calibration", "L2", description):
            findings.compare(_of_calibration(facts, facts.calibration, plan))


def _links(facts: SeedFacts, plan: BenchPlan, version: int | None) -> Iterator[Link]:
    if facts.probe is None or facts.probe.adapter is None:
        return
    probe = facts.probe.adapter
    if facts.audit is not None:
        yield "audit/audit.json", "adapter.sha256", facts.audit.adapter.sha256, probe.sha256
    adapters = {outcome.planned.name: outcome.adapter for outcome in (facts.probe, *facts.outcomes)}
    for name, report in facts.guards.items():
        file = f"{GUARDS}/{name}/{EVALUATION}"
        for row in report.adapters:
            evaluated = adapters.get(row.name)
            if row.role != BASE:
                yield file, f"{row.name}.sha256", row.sha256, evaluated and evaluated.sha256
        planned = next((guard for guard in plan.guards if guard.name == name), None)
        for field in PLANNED:
            yield file, field, getattr(report, field), planned and getattr(planned, field)
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
    lora = facts.config.lora.peft_arguments() | outcome.planned.lora_arguments()
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
    looks = looks_of(plan)
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
    probe = facts.probe and facts.probe.adapter
    yield file, "adapter_sha256", report.adapter_sha256, probe and probe.sha256
    yield file, "seed", report.seed, facts.seed
    yield file, "prompts_sha256", report.prompts_sha256, planned and planned.prompts_sha256
    yield file, "rows", report.rows + report.duplicates, planned and planned.rows
    for outcome in facts.outcomes:
        if outcome.adapter is None or outcome.adapter.compression is None:
            continue
        report_of_adapter = outcome.adapter.compression
        file = f"{outcome.planned.name}/adapter/{ADAPTER}/{REPORT}"
        ranks = {module.name: module.new_rank for module in report_of_adapter.modules}
        yield file, "calibration_sha256", report_of_adapter.calibration_sha256, calibration.sha256
        yield file, "prediction", report_of_adapter.prediction, outcome.planned.predicted
        yield file, "modules", ranks, dict(outcome.planned.ranks)


# ---------------------------------------------------------------- sizes


def check_sizes(facts: SeedFacts, findings: Findings) -> None:
    """Compare the published size of each adapter with its config and with the header of its weights.

    If the weights were not kept, use the header that was recorded when they were written.
    """
    if facts.probe is None or facts.audit is None:
        return
    full: Ranks = {layer.name: layer.r for layer in facts.audit.layers}
    recorded = unknown = 0
    with findings.check("sizes", "L1", "ranks, scales and parameter counts of adapters"):
        for outcome in (facts.probe, *facts.outcomes):
            adapter, planned = outcome.adapter, outcome.planned
            if adapter is None:
                continue
            ranks = full if planned.name == PROBE or not adapter.lora else planned.ranks
            with findings.inside(f"{planned.name}/{adapter.folder.parent.name}/"):
                try:
                    findings.compare(_of_config(facts.probe.adapter, adapter, ranks))
                    header = _header_of(adapter)
                    if header is not None:
                        findings.compare(_of_header(header, adapter, ranks))
                except InputError as error:
                    findings.mismatch("", str(error))
                    continue
            recorded += header is not None and not (adapter.folder / WEIGHTS).is_file()
            unknown += header is None
    if recorded:
        findings.gap(
            f"sizes of {counted(recorded, 'adapter')}: compared only with recorded headers, because the weights were"
            " not kept; nothing shows that a header belongs to the digest"
        )
    if unknown:
        findings.gap(
            f"sizes of {counted(unknown, 'adapter')}: compared only with configs and recorded counts, because weights"
            " and headers are missing"
        )


def _header_of(adapter: StoredAdapter) -> Mapping[str, TensorEntry] | None:
    """Return the tensors in the weights, or in their recorded header; None if there is neither."""
    weights, header = adapter.folder / WEIGHTS, adapter.folder.parent / HEADER
    if weights.is_file():
        return header_of(weights)
    if not header.is_file():
        return None
    return read_header(header, read_file(header, MAX_DATA_BYTES), adapter.bytes)[0]


def _of_config(probe: StoredAdapter | None, adapter: StoredAdapter, ranks: Ranks) -> Iterator[Link]:
    path, file = adapter.folder / "adapter_config.json", f"{ADAPTER}/adapter_config.json"
    if not path.is_file():
        return
    config = read_config(path)
    for module, rank in ranks.items():
        if rank:  # a module at rank 0 is not written
            yield file, f"rank of {module}", config.rank_of(config_name(module)), rank
    if probe is not None and (probe.folder / path.name).is_file():
        for module, before, after in changed_scales(read_config(probe.folder / path.name), config, ranks):
            yield file, f"scale of {module}", after, before


def _of_header(header: Mapping[str, TensorEntry], adapter: StoredAdapter, ranks: Ranks) -> Iterator[Link]:
    weights = f"{ADAPTER}/{WEIGHTS}"
    keys = {name: parse_key(name) for name in header}
    stored = {
        key.module: header[name].shape[0]
        for name, key in keys.items()
        if key.role in ("A", "embedding_A") and not key.ghost and header[name].shape
    }
    for module, rank in ranks.items():
        if module in stored or not rank:  # the experts of a block share one tensor under another name
            yield weights, f"rank of {module}", stored.get(module, 0), rank
    counts, report = parameters_of(header), adapter.training
    if report is not None:
        yield TRAINING, "lora_params", report.lora_params, counts[0]
    else:
        yield SIZES, "", [adapter.lora_params, adapter.other_params], [*counts]
